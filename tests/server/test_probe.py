"""The probe against real servers: a right network, a wrong one, wrong labels, and servers of something else."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import serve
from jpeg_serve.errors import ProbeError
from jpeg_serve.probe import probe
from repository.mistakes import CLASSIFIER, POSTPROCESS
from repository.static_repository import BEST, SECOND, known_classes, make_network, make_report, make_repository
from support import edit, run_module, started

LABEL, OTHER_LABEL = (each.label for each in known_classes(BEST, SECOND))
PIPELINE = Path(__file__).parents[1] / "repository" / "assets" / "valid"


@pytest.fixture(scope="module")
def static_repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("static") / "model_repository")


@pytest.fixture
def changed(static_repository, tmp_path):
    return shutil.copytree(static_repository, tmp_path / "model_repository")


@pytest.fixture(scope="module")
def served(static_repository, tmp_path_factory):
    """A running server and its repository, whose report tests change and restore."""
    folder = tmp_path_factory.mktemp("served")
    repository = shutil.copytree(static_repository, folder / "model_repository")
    for server in serve(repository, folder / "triton.log"):
        yield repository, server


def run_probe(server, *options, **more):
    return run_module("jpeg_serve", "probe", "--http-port", str(server.options.http_port), *options, **more)


def expect(repository, *indices):
    """Let the classifier's report name these classes."""
    make_report(repository / CLASSIFIER / "1" / "model.onnx", probe=known_classes(*indices))


def test_the_right_label_is_printed_and_compared(served):
    repository, server = served
    done = run_probe(server)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{LABEL}\n", "")
    result = server.probe()
    assert (result.label, result.note) == (LABEL, "")
    assert probe(server.http_address, repository=repository) == result


def test_several_classes_may_be_acceptable(served):
    repository, server = served
    expect(repository, SECOND, BEST)
    assert run_probe(server).returncode == 0
    expect(repository, BEST)


def test_a_wrong_label_is_named_with_the_expected_one_and_the_remedy(served):
    repository, server = served
    expect(repository, SECOND)
    done = run_probe(server)
    expect(repository, BEST)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.endswith("[wrong_label]\n")
    for fact in (
        f'"{LABEL}" (class {BEST})',
        f'"{OTHER_LABEL}" (class {SECOND})',
        f"jpeg-build mobilenet_v2 --backend onnx --model-repository {repository}",
        f"jpeg-serve reload --model-repository {repository}",
    ):
        assert fact in done.stderr


def test_without_a_repository_labels_are_not_compared(served, tmp_path):
    """As on a machine other than the server's: the server's state is not found."""
    repository, server = served
    expect(repository, SECOND)
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = run_probe(server, env=elsewhere)
    named = run_probe(server, "--model-repository", repository, env=elsewhere)
    expect(repository, BEST)
    assert (done.returncode, done.stdout) == (0, f"{LABEL}\n")
    assert "--model-repository" in done.stderr
    assert named.returncode == 1


def test_a_report_without_classes_compares_no_labels(served):
    repository, server = served
    expect(repository)
    done = run_probe(server)
    expect(repository, BEST)
    assert (done.returncode, done.stdout) == (0, f"{LABEL}\n")
    assert "names no class" in done.stderr
    report = repository / CLASSIFIER / "1" / "model.json"
    text = report.read_text()
    report.unlink()
    done = run_probe(server)
    report.write_text(text)
    assert done.returncode == 0
    assert "is missing" in done.stderr


def test_an_unknown_model_and_an_unknown_server_fail(served):
    _, server = served
    assert run_probe(server, "--model", "nothing").stderr.endswith("[not_a_classifier]\n")
    assert run_probe(server, "--model", CLASSIFIER).stderr.endswith("[not_a_classifier]\n")
    done = run_module("jpeg_serve", "probe", "--http-port", "1", "--timeout-s", "3")
    assert done.returncode == 1
    assert done.stderr.endswith("[unreachable]\n")


def start(repository, folder, *options):
    """Run `jpeg-serve` until it ends or is ready, then stop it. Returns its exit status and its stderr."""
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "jpeg_serve", "--model-repository", str(repository), *ports, *options]
    log = folder / "stderr"
    with log.open("wb") as sink, started(*command, stdout=subprocess.DEVNULL, stderr=sink) as process:
        limit = time.monotonic() + 60
        while process.poll() is None and "jpeg-serve: ready" not in log.read_text() and time.monotonic() < limit:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        return process.wait(60), log.read_text()


def test_a_start_is_ready_once_the_label_is_right(static_repository, tmp_path):
    status, log = start(static_repository, tmp_path)
    assert status == 0
    assert log.index(f'probe: the photo is labelled "{LABEL}"') < log.index("jpeg-serve: ready")
    assert "classifier_onnx is served by the Python-based backend onnxruntime" in log


def wrong_network(repository):
    """Another network, with the report of the first: as if the build had checked something else."""
    artefact = repository / CLASSIFIER / "1" / "model.onnx"
    make_network(artefact, best=SECOND)
    make_report(artefact)


def wrong_order_of_labels(repository):
    edit(repository / POSTPROCESS / "labels.txt", f"{LABEL}\n{OTHER_LABEL}\n", f"{OTHER_LABEL}\n{LABEL}\n")


@pytest.mark.parametrize("mistake", [wrong_network, wrong_order_of_labels])
def test_a_start_with_a_wrong_label_is_stopped(changed, tmp_path, mistake):
    mistake(changed)
    status, log = start(changed, tmp_path)
    assert status == 1
    assert "jpeg-serve: ready" not in log
    assert log.endswith("[wrong_label]\n")


def test_a_reload_with_a_wrong_label_fails(changed, tmp_path):
    for server in serve(changed, tmp_path / "triton.log"):
        done = run_module("jpeg_serve", "reload", "--model-repository", changed)
        assert done.returncode == 0, done.stderr
        assert f'probe: the photo is labelled "{LABEL}"' in done.stderr
        wrong_network(changed)
        done = run_module("jpeg_serve", "reload", "--model-repository", changed)
        assert done.returncode == 1
        assert done.stderr.endswith("[wrong_label]\n")
        assert done.stdout.startswith("serving now: ")
        with pytest.raises(ProbeError) as caught:
            server.probe()
        assert caught.value.reason == "wrong_label"


def test_the_version_that_serves_decides(changed, tmp_path):
    second = changed / CLASSIFIER / "2"
    shutil.copytree(changed / CLASSIFIER / "1", second)
    make_network(second / "model.onnx", best=SECOND)
    make_report(second / "model.onnx", probe=known_classes(SECOND))
    for server in serve(changed, tmp_path / "triton.log"):
        assert server.probe().label == OTHER_LABEL
        expect(changed, SECOND)  # of version 1
        assert run_probe(server).returncode == 0


def test_other_ensembles_are_skipped(tmp_path):
    repository = shutil.copytree(PIPELINE, tmp_path / "models")
    status, log = start(repository, tmp_path)
    assert status == 0
    assert "probe skipped: " in log
    assert "jpeg-serve: ready" in log
    for server in serve(repository, tmp_path / "triton.log"):
        done = run_probe(server, "--model", "pipeline")
        assert done.returncode == 1
        assert done.stderr.endswith("[not_a_classifier]\n")


def test_a_server_whose_inferences_need_a_key_is_skipped(static_repository, tmp_path):
    status, log = start(static_repository, tmp_path, "--", "--http-restricted-api=inference:key=secret")
    assert status == 0
    assert "probe skipped: " in log
    assert "jpeg-serve: ready" in log


def test_an_ensemble_of_batches_of_one_is_probed(changed, tmp_path):
    edit(changed / "jpeg_classifier" / "config.pbtxt", "max_batch_size: 64", "max_batch_size: 1")
    for server in serve(changed, tmp_path / "triton.log"):
        assert server.probe().note == ""
        # The command finds the port of the server by its repository.
        done = run_module("jpeg_serve", "probe", "--model-repository", changed)
        assert (done.returncode, done.stdout) == (0, f"{LABEL}\n"), done.stderr


def test_an_ensemble_without_errors_is_probed(changed, tmp_path):
    """Its user removed the output ERROR from the ensemble."""
    path = changed / "jpeg_classifier" / "config.pbtxt"
    edit(path, 'output {\n  name: "ERROR"\n  data_type: TYPE_STRING\n  dims: [1]\n}\n', "")
    edit(path, '    output_map {\n      key: "ERROR"\n      value: "ERROR"\n    }\n', "")
    for server in serve(changed, tmp_path / "triton.log"):
        assert server.probe().label == LABEL
        assert json.loads(run_module("jpeg_serve", "check", "--static", "--json", "--model-repository", changed).stdout)
