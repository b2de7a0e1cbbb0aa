"""The proof that TF-TRT's engines run, as far as it needs no TensorFlow: what its log says."""

import importlib.util

import pytest
from jpeg_build.tf_trt_engines import EnginesDidNotRun, read_proof, reason
from support import run_module

# Lines as TensorFlow 2.15 and 2.17 write them.
PLACE = "2026-11-23 07:28:01.362505: I tensorflow/compiler/tf2tensorrt/kernels/trt_engine_op.cc:"
ENGINE = PLACE + "834] Executing TRT engine: PartitionedCall/TRTEngineOp_000_{:03d}"
NATIVE = PLACE + "505] Executing native segment: PartitionedCall/TRTEngineOp_000_{:03d}"
BATCH = "jpeg-build: a batch of {}"
ENGINES = ["TRTEngineOp_000_000", "TRTEngineOp_000_001"]


def log(*lines):
    return "\n".join(["2026-11-23 07:28:00.1: I tensorflow/core/x.cc:1] Constructing something", *lines, ""])


def test_every_engine_on_every_batch_is_a_proof():
    said = log(
        BATCH.format(1), ENGINE.format(0), ENGINE.format(1), BATCH.format(64), ENGINE.format(1), ENGINE.format(0)
    )
    assert read_proof(said, ENGINES, [1, 64]).engine_calls == {1: 2, 64: 2}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((BATCH.format(1), ENGINE.format(0)), "TRTEngineOp_000_001 ran no engine on a batch of 1"),
        ((BATCH.format(1), ENGINE.format(0), ENGINE.format(1)), "ran no engine on a batch of 64"),
        ((ENGINE.format(0), ENGINE.format(1), BATCH.format(1), BATCH.format(64)), "ran no engine on a batch of 1"),
        (
            (BATCH.format(1), ENGINE.format(0), NATIVE.format(1)),
            "TRTEngineOp_000_001 ran TensorFlow's own operations on a batch of 1",
        ),
        ((), "ran no engine on a batch of 1"),
    ],
)
def test_anything_less_is_none(lines, said):
    with pytest.raises(EnginesDidNotRun, match=said):
        read_proof(log(*lines), ENGINES, [1, 64])


def test_the_reason_is_found_in_a_long_log():
    said = log(
        "2026-11-23 07:28:01.3: E tensorflow/compiler/tf2tensorrt/utils/trt_logger.cc:87] DefaultLogger 4: "
        "[graphShapeAnalyzer.cpp::analyzeShapes::1872] Error Code 4: Miscellaneous (why it is)",
        "2026-11-23 07:28:01.4: W tensorflow/compiler/tf2tensorrt/kernels/trt_engine_op.cc:1104] TF-TRT Warning: "
        "Engine creation for TRTEngineOp_000_000 failed. The native segment will be used instead. "
        "Reason: INTERNAL: no engine",
        *["2026-11-23 07:28:02: I tensorflow/core/y.cc:1] more"] * 50,
    )
    found = reason(said)
    assert "Error Code 4: Miscellaneous (why it is)" in found
    assert "Reason: INTERNAL: no engine" in found
    assert "2026" not in found
    assert reason("one\nValueError: two\n") == "ValueError: two"
    assert reason("") == "it said nothing"


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed here")
def test_without_tensorflow_the_command_that_has_it_is_named(tmp_path):
    done = run_module("jpeg_build", "mobilenet_v2", "--backend", "tf_trt", "--model-repository", tmp_path / "built")
    assert done.returncode == 1
    assert "make build-tensorflow" in done.stderr
    assert "Traceback" not in done.stderr
