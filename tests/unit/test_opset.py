"""ONNX files in another opset."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from jpeg_build.graphs.opset import opset, with_opset
from onnx import TensorProto, helper, numpy_helper

NEW, OLD = 20, 17
IMAGE = (4, 6, 9)


def network(operator, *constants, outputs=1, **attributes):
    """One operator on images of the shape IMAGE."""
    names = [f"constant_{index}" for index in range(len(constants))]
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["image"], ["copied"]),
            helper.make_node(operator, ["copied", *names], [f"out_{index}" for index in range(outputs)], **attributes),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *IMAGE])],
        [helper.make_tensor_value_info(f"out_{index}", TensorProto.FLOAT, None) for index in range(outputs)],
        [numpy_helper.from_array(value, name) for value, name in zip(constants, names, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", NEW)], ir_version=9)


def run(model):
    images = np.random.default_rng(0).normal(size=(2, *IMAGE)).astype(np.float32)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"image": images}
    )


ONES = np.ones(2, np.float32)
AROUND = np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(network("Gelu"), id="gelu"),
        pytest.param(network("Gelu", approximate="tanh"), id="gelu by tanh"),
        pytest.param(network("Mish"), id="mish"),
        pytest.param(network("GroupNormalization", ONES, 3 * ONES, num_groups=2), id="groups"),
        pytest.param(network("Pad", AROUND), id="pad"),
        pytest.param(network("Pad", AROUND, np.float32(7)), id="pad with a value"),
        pytest.param(network("Pad", AROUND, mode="reflect"), id="pad by reflection"),
        pytest.param(network("Split", outputs=3, axis=2, num_outputs=3), id="equal parts"),
        pytest.param(network("Split", outputs=3, axis=-1, num_outputs=3), id="equal parts of the last axis"),
        pytest.param(network("Split", np.array([1, 3]), outputs=2, axis=1), id="named parts"),
        pytest.param(network("ReduceMean", np.array([2, 3]), keepdims=0), id="mean"),
        pytest.param(network("HardSwish"), id="hardswish"),
    ],
)
def test_a_lowered_file_computes_the_same(model):
    before = model.SerializeToString(deterministic=True)
    lowered = with_opset(model, OLD)
    assert opset(lowered) == OLD
    assert [entry.domain for entry in lowered.opset_import] == [""]
    assert not {"CastLike", "Gelu", "Mish"} & {node.op_type for node in lowered.graph.node}
    for found, expected in zip(run(lowered), run(model), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        pytest.param(network("Pad", np.array([1, 1]), np.float32(0), np.array([3])), "Pad", id="pad of named axes"),
        pytest.param(network("Pad", AROUND, mode="wrap"), "Pad", id="pad by wrapping"),
        pytest.param(network("Split", outputs=2, axis=3, num_outputs=2), "Split", id="unequal parts"),
        pytest.param(network("Split", outputs=2, axis=0, num_outputs=2), "Split", id="parts of the batch"),
    ],
)
def test_what_an_older_opset_cannot_express_is_refused(model, operator):
    with pytest.raises(ValueError, match=operator):
        with_opset(model, OLD)


def test_a_file_is_raised():
    model = with_opset(network("Mish"), OLD)
    raised = with_opset(model, NEW)
    assert opset(raised) == NEW
    np.testing.assert_allclose(run(raised)[0], run(model)[0], rtol=1e-6)
    onnx.checker.check_model(raised, full_check=True)
