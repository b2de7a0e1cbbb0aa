"""TensorRT engines, built and run as the server runs them: `pytest tests/gpu` on the GPU that serves them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from jpeg_build.checks import parity
from jpeg_build.emitters import Job, Options, tensorrt
from jpeg_build.errors import BuildError
from jpeg_build.gpu import require_gpu
from jpeg_build.networks.onnx_network import OnnxNetwork
from jpeg_build.recipe.recipe import load_recipe
from jpeg_contract.forms import TENSORRT, TORCH_TENSORRT
from onnx import TensorProto, helper, numpy_helper
from support import opened

SIZE, CLASSES = 64, 10

RECIPE = """\
classes = 10
labels = "labels.txt"
[geometry]
resize_size = 64
crop_size = 64
[normalisation]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[source]
"""


def missing() -> str | None:
    try:
        require_gpu()
        tensorrt._tensorrt()
    except BuildError as error:
        return str(error)
    return None


pytestmark = [
    pytest.mark.timeout(1200),
    # Polygraphy still closes TensorRT's objects itself.
    pytest.mark.filterwarnings("ignore:Context managers for TensorRT types:DeprecationWarning"),
    pytest.mark.skipif(missing() is not None, reason=f"needs a GPU and TensorRT: {missing()}"),
]


def make_onnx(path: Path) -> None:
    """Two convolutions, an average over the image, a linear layer."""
    random = np.random.default_rng(0)
    weights = {
        "first": random.normal(0, 0.2, (16, 3, 3, 3)),
        "second": random.normal(0, 0.1, (32, 16, 3, 3)),
        "linear": random.normal(0, 0.3, (32, CLASSES)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "first"], ["a"], name="conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["a"], ["b"], name="relu1"),
            helper.make_node("Conv", ["b", "second"], ["c"], name="conv2", pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["d"], name="relu2"),
            helper.make_node("GlobalAveragePool", ["d"], ["e"], name="pool"),
            helper.make_node("Flatten", ["e"], ["f"], name="flatten"),
            helper.make_node("MatMul", ["f", "linear"], ["logits"], name="classify"),
        ],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def make_new_onnx(path: Path) -> None:
    """What TensorRT 8.6 does not read in opset 20: Gelu, Mish, a mean with its axes as an input, Pad and Split."""
    random = np.random.default_rng(0)
    weights = {
        "first": random.normal(0, 0.2, (16, 3, 3, 3)),
        "linear": random.normal(0, 0.3, (8, CLASSES)),
    }
    constants = {"around": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "sides": np.array([2, 3])}
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["images", "around"], ["padded"], name="pad"),
            helper.make_node("Conv", ["padded", "first"], ["a"], name="conv1", strides=[2, 2]),
            helper.make_node("Gelu", ["a"], ["b"], name="gelu"),
            helper.make_node("Split", ["b"], ["c", "d"], name="split", axis=1, num_outputs=2),
            helper.make_node("Mul", ["c", "d"], ["e"], name="gate"),
            helper.make_node("Mish", ["e"], ["f"], name="mish"),
            helper.make_node("ReduceMean", ["f", "sides"], ["g"], name="mean", keepdims=0),
            helper.make_node("MatMul", ["g", "linear"], ["logits"], name="classify"),
        ],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
        + [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))


@pytest.fixture
def network(tmp_path):
    return network_of(make_onnx, tmp_path)


def network_of(make, tmp_path):
    make(tmp_path / "net.onnx")
    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    (tmp_path / "mine.toml").write_text(f'{RECIPE}kind = "onnx"\nfile = "net.onnx"\noutput = "logits"\n')
    return OnnxNetwork(load_recipe(tmp_path / "mine.toml"))


def pixels(batch, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)


def emit(emitter, network, tmp_path, precision="fp32", **options):
    folder = tmp_path / f"made-{precision}"
    folder.mkdir(exist_ok=True)
    made = Job(
        recipe=load_recipe(tmp_path / "mine.toml"),
        network=network,
        precision=precision,
        folder=folder,
        photos=pixels(8),
        calibration=lambda: pixels(32, 1),
        options=Options(**{"opt_batch": 4, "max_batch": 8, "timing_cache": tmp_path / "my.timing", **options}),
        progress=print,
    )
    return emitter.emit(made)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_computes_what_the_network_computes(network, tmp_path, precision):
    emitted = emit(tensorrt, network, tmp_path, precision)
    reference = network.reference(pixels(21))
    with opened(load_recipe(tmp_path / "mine.toml"), TENSORRT, emitted) as run:
        # 20 are more than the profile's 8.
        outputs = parity.run_in_batches(run, pixels(21), (1, 2, 3, 8, 20))
    measured = parity.measure(reference, outputs, photos=21, precision=precision)
    allowed = parity.TOLERANCES[precision].relative_difference
    assert measured.relative_difference < allowed
    assert measured.neighbour_difference < allowed
    assert emitted.requires.compute_capability == require_gpu().compute_capability
    assert emitted.details["profile"] == {"min": 1, "opt": 4, "max": 8}
    assert (tmp_path / "my.timing").stat().st_size > 0


def test_operators_of_a_newer_opset_are_lowered(tmp_path):
    network = network_of(make_new_onnx, tmp_path)
    emitted = emit(tensorrt, network, tmp_path)
    with opened(load_recipe(tmp_path / "mine.toml"), TENSORRT, emitted) as run:
        outputs = parity.run_in_batches(run, pixels(8), (1, 8))
    measured = parity.measure(network.reference(pixels(8)), outputs, photos=8, precision="fp32")
    assert measured.relative_difference < parity.TOLERANCES["fp32"].relative_difference


def test_small_batches_are_padded_and_the_file_is_named_after_the_gpu(network, tmp_path):
    emitted = emit(tensorrt, network, tmp_path, min_batch=3, per_gpu=True, workspace_bytes=2**28)
    assert emitted.artefact.name == f"model_{require_gpu().architecture}.plan"
    with opened(load_recipe(tmp_path / "mine.toml"), TENSORRT, emitted) as run:
        assert np.allclose(run(pixels(1)), network.reference(pixels(1)), atol=1e-3)


def test_inspect_describes_an_engine(network, tmp_path, capsys):
    emitted = emit(tensorrt, network, tmp_path)
    capsys.readouterr()
    found = tensorrt.inspect(emitted.artefact)
    assert found["inputs"] == {"input__0": f"uint8[N,{SIZE},{SIZE},3]"}
    assert found["outputs"] == {"output__0": f"float32[N,{CLASSES}]"}
    assert found["profiles"][0]["input__0"] == {
        kind: [n, SIZE, SIZE, 3] for kind, n in (("min", 1), ("opt", 4), ("max", 8))
    }
    assert found["layers"] == emitted.details["layers"] > 0
    assert any("Layer" in line for line in found["inspection"])
    assert json.loads(json.dumps(found)) == found
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_an_engine_is_named(tmp_path):
    (tmp_path / "model.plan").write_bytes(b"no engine" * 100)
    with pytest.raises(BuildError, match=r"model\.plan is not an engine") as caught:
        tensorrt.inspect(tmp_path / "model.plan")
    assert caught.value.reason == "engine_differs"


@pytest.mark.skipif(importlib.util.find_spec("torch_tensorrt") is None, reason="needs the package torch_tensorrt")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torchscript_with_engines_names_the_operations_that_stayed_in_pytorch(tmp_path, precision):
    from jpeg_build.emitters import torch_tensorrt
    from jpeg_build.networks.torchvision_network import TorchvisionNetwork

    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    (tmp_path / "mine.toml").write_text(
        f'{RECIPE}kind = "torchvision"\nnetwork = "resnet18"\nweights = "IMAGENET1K_V1"\n'
    )
    network = TorchvisionNetwork(load_recipe(tmp_path / "mine.toml"), random=True)
    emitted = emit(torch_tensorrt, network, tmp_path, precision, timing_cache=None)
    assert emitted.details["engines"] == len(emitted.details["engine_bytes"]) > 0
    assert "stayed in PyTorch" in emitted.notes[0]
    assert torch_tensorrt.inspect(emitted.artefact)["operators"]["tensorrt::execute_engine"] >= 1
    reference = network.reference(pixels(11))
    with opened(load_recipe(tmp_path / "mine.toml"), TORCH_TENSORRT, emitted) as run:
        outputs = parity.run_in_batches(run, pixels(11), (1, 3, 8))
    measured = parity.measure(reference, outputs, photos=11, precision=precision)
    assert measured.relative_difference < parity.TOLERANCES[precision].relative_difference
