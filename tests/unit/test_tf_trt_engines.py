"""The proof that TF-TRT's engines run: the parsing of TensorFlow's log, which needs no TensorFlow."""

import importlib.util

import pytest
from jpeg_build.emitters.tf_trt_engines import EnginesDidNotRun, failure_cause, read_proof
from support import run_module

# Lines of TensorFlow 2.15 and 2.17.
PLACE = "2026-11-23 07:28:01.362505: I tensorflow/compiler/tf2tensorrt/kernels/trt_engine_op.cc:"
ENGINE = PLACE + "834] Executing TRT engine: PartitionedCall/TRTEngineOp_000_{:03d}"
NATIVE = PLACE + "505] Executing native segment: PartitionedCall/TRTEngineOp_000_{:03d}"
BATCH = "jpeg-build: a batch of {}"
ENGINES = ["TRTEngineOp_000_000", "TRTEngineOp_000_001"]


def log(*lines):
    return "\n".join(["2026-11-23 07:28:00.1: I tensorflow/core/x.cc:1] Constructing something", *lines, ""])


def test_every_engine_on_every_batch_is_a_proof():
    text = log(
        BATCH.format(1), ENGINE.format(0), ENGINE.format(1), BATCH.format(64), ENGINE.format(1), ENGINE.format(0)
    )
    assert read_proof(text, ENGINES, [1, 64]).engine_calls == {1: 2, 64: 2}


@pytest.mark.parametrize(
    ("lines", "facts"),
    [
        ((BATCH.format(1), ENGINE.format(0)), ["TRTEngineOp_000_001", "batch of 1"]),
        ((BATCH.format(1), ENGINE.format(0), ENGINE.format(1)), ["batch of 64"]),
        ((ENGINE.format(0), ENGINE.format(1), BATCH.format(1), BATCH.format(64)), ["batch of 1"]),
        (
            (BATCH.format(1), ENGINE.format(0), NATIVE.format(1)),
            ["TRTEngineOp_000_001", "TensorFlow's own operations", "batch of 1"],
        ),
        ((), ["batch of 1"]),
    ],
)
def test_anything_less_is_refused(lines, facts):
    with pytest.raises(EnginesDidNotRun) as caught:
        read_proof(log(*lines), ENGINES, [1, 64])
    assert caught.value.reason == "engines_did_not_run"
    for fact in facts:
        assert fact in str(caught.value)


def test_the_cause_is_found_in_a_long_log():
    text = log(
        "2026-11-23 07:28:01.3: E tensorflow/compiler/tf2tensorrt/utils/trt_logger.cc:87] DefaultLogger 4: "
        "[graphShapeAnalyzer.cpp::analyzeShapes::1872] Error Code 4: Miscellaneous (why it is)",
        "2026-11-23 07:28:01.4: W tensorflow/compiler/tf2tensorrt/kernels/trt_engine_op.cc:1104] TF-TRT Warning: "
        "Engine creation for TRTEngineOp_000_000 failed. The native segment will be used instead. "
        "Reason: INTERNAL: no engine",
        *["2026-11-23 07:28:02: I tensorflow/core/y.cc:1] more"] * 50,
    )
    found = failure_cause(text)
    assert "Error Code 4: Miscellaneous (why it is)" in found
    assert "Reason: INTERNAL: no engine" in found
    assert "2026" not in found
    assert failure_cause("one\nValueError: two\n") == "ValueError: two"
    assert failure_cause("")


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed here")
def test_without_tensorflow_the_error_has_the_command_that_installs_it(tmp_path):
    done = run_module("jpeg_build", "mobilenet_v2", "--backend", "tf_trt", "--model-repository", tmp_path / "built")
    assert done.returncode == 1
    assert "[build-tensorflow]" in done.stderr
    assert "make build-tensorflow" in done.stderr
    assert "Traceback" not in done.stderr
