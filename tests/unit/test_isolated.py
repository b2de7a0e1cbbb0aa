"""A classifier in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from jpeg_runtime.isolated import IsolatedClassifier, RuntimeFailure
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig
from support import ROOT, as_parameters, classifier_args, started, tiny_classifier, tiny_images


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_classifier(folder / "1" / "model.onnx")
    return classifier_args(folder, "onnxruntime")


@pytest.fixture
def classifier(args):
    with IsolatedClassifier(args, cpus=2) as classifier:
        yield classifier


def test_its_logits_are_those_of_the_same_artefact_in_this_process(args, classifier):
    here = open_classifier(ServingConfig.from_triton(args, cpus=2))
    for count in (1, 2, 5, 9):
        pixels = tiny_images(count, seed=count)
        logits = classifier(pixels)
        assert logits.dtype == np.float32
        np.testing.assert_array_equal(logits, here(pixels))


def test_pixels_need_not_be_contiguous(classifier):
    pixels = tiny_images(8)
    np.testing.assert_array_equal(classifier(pixels[::-2]), classifier(pixels[::-2].copy()))


def test_its_speed_is_measured(classifier):
    begun = time.perf_counter()
    assert classifier.images_per_second(tiny_images(4), 0.1) > 0
    assert time.perf_counter() - begun >= 0.1


def test_a_failed_run_is_an_error_and_the_next_one_runs(classifier):
    with pytest.raises(RuntimeFailure) as caught:
        classifier(np.zeros((2, 3, 3, 3), np.uint8))
    assert caught.value.reason == "run_failed"
    # A runtime's message may go on for pages.
    assert "\n" not in str(caught.value)
    assert classifier(tiny_images(2)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"default_model_filename": "gone.onnx"}, "artefact_missing"),
        ({"parameters": as_parameters({"intra_op_thread_count": "two"})}, "invalid_setting"),
        ({"output": []}, "cannot_be_served"),
        ({"backend": "python"}, "cannot_be_served"),
    ],
)
def test_the_loaders_error_keeps_its_reason_and_its_message(args, change, reason):
    changed = classifier_args(args["model_repository"], **{"backend": "onnxruntime", **change})
    with pytest.raises(ModelLoadError) as here:
        open_classifier(ServingConfig.from_triton(changed))
    with pytest.raises(RuntimeFailure) as caught:
        IsolatedClassifier(changed)
    assert caught.value.reason == here.value.reason == reason
    assert str(caught.value) == str(here.value)


def test_a_crash_is_an_error_that_names_the_signal(classifier):
    assert classifier(tiny_images(1)).shape == (1, 5)
    os.kill(classifier._process.pid, signal.SIGSEGV)
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="SIGSEGV") as caught:
            classifier(tiny_images(1))
        assert caught.value.reason == "runtime_crashed"


def test_a_crash_while_it_opens_is_an_error(args, monkeypatch):
    start = IsolatedClassifier._receive

    def crash_first(self):
        os.kill(self._process.pid, signal.SIGKILL)
        return start(self)

    monkeypatch.setattr(IsolatedClassifier, "_receive", crash_first)
    with pytest.raises(RuntimeFailure, match="SIGKILL") as caught:
        IsolatedClassifier(args)
    assert caught.value.reason == "runtime_crashed"


def test_the_process_ends_with_the_block(args):
    with IsolatedClassifier(args) as classifier:
        process = classifier._process
        assert process.is_alive()
    assert process.exitcode == 0


INTERRUPTED = """
import json, signal, sys
from jpeg_runtime.isolated import IsolatedClassifier
from support import tiny_images

def main():
    args = json.loads(sys.argv[1])
    # A shell has it ignored in a background job, as the tests may be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with IsolatedClassifier(args) as classifier:
            print("ready", flush=True)
            classifier.images_per_second(tiny_images(4), 60)
    except KeyboardInterrupt:
        return 7
    return 0

if __name__ == "__main__":
    sys.exit(main())
"""


def test_an_interrupt_ends_both_processes_without_a_traceback(args, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    with started(
        sys.executable,
        program,
        json.dumps(args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        # As a terminal does it: to the whole process group.
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (7, "")
