"""OpenVINO in int8, for a network that OpenVINO computes wrongly with several streams: right in every batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tritonclient.grpc as triton
from conftest import serve
from jpeg_contract.model_config import read
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support import edit, run_module

PHOTOS_SEED, IMAGES = 1, 20

RECIPE = """\
classes = 10
labels = "ten.txt"

[geometry]
resize_size = 128
crop_size = 128

[normalisation]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[source]
kind = "onnx"
file = "strided.onnx"
output = "logits"
"""


def strided_network(folder: Path) -> None:
    """Write an ONNX file whose 1x1 convolutions with stride 2 are the only readers of their inputs, as in ResNet v1."""
    import torch
    from torch import nn

    def block(inputs, outputs, kernel, stride):
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    torch.manual_seed(0)
    network = nn.Sequential(
        block(3, 64, 7, 2),
        nn.MaxPool2d(3, 2, 1),
        block(64, 256, 1, 1),
        block(256, 128, 1, 2),
        block(128, 128, 3, 1),
        block(128, 512, 1, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    ).eval()
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, 128, 128),),
        str(folder / "strided.onnx"),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        external_data=False,
        verbose=False,
    )
    (folder / "ten.txt").write_text("".join(f"class {index}\n" for index in range(10)))
    (folder / "strided.toml").write_text(RECIPE)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and a repository that serves it with OpenVINO in int8."""
    folder = tmp_path_factory.mktemp("strided")
    strided_network(folder)
    for options in ([], ["--backend", "openvino", "--precision", "int8"]):
        done = run_module("jpeg_build", "strided.toml", *options, cwd=folder)
        assert done.returncode == 0, done.stderr
    done = run_module("jpeg_build", "use", "openvino", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(PHOTOS_SEED).integers(0, 256, (IMAGES, 128, 128, 3), np.uint8)


def test_the_server_returns_the_networks_logits_in_every_batch(built, tmp_path):
    images = pixels()
    session = ort.InferenceSession(built / "model_repository/classifier_onnx/1/model.onnx")
    expected = session.run(None, {"input__0": images})[0]
    scale = np.abs(expected).max()
    for server in serve(built / "model_repository", tmp_path / "log"):
        with triton.InferenceServerClient(server.grpc_address) as client:

            def infer(batch):
                tensor = triton.InferInput("input__0", list(batch.shape), "UINT8")
                tensor.set_data_from_numpy(batch)
                return client.infer("classifier_openvino", [tensor]).as_numpy("output__0")

            alone = np.concatenate([infer(images[at : at + 1]) for at in range(IMAGES)])
            assert np.abs(alone - expected).max() < 0.15 * scale
            for size in (2, 3, 4, 8, 20):
                batched = np.concatenate([infer(images[at : at + size]) for at in range(0, IMAGES, size)])
                assert np.abs(batched - alone).max() < 0.01 * scale, f"batches of {size}"


def test_several_streams_are_refused_by_the_build_the_check_and_the_server(built, tmp_path):
    repository = tmp_path / "model_repository"
    shutil.copytree(built / "model_repository", repository)
    config = repository / "classifier_openvino" / "config.pbtxt"
    config.write_text(config.read_text() + 'parameters { key: "NUM_STREAMS" value { string_value: "2" } }\n')
    assert read(config).parameters["NUM_STREAMS"].string_value == "2"
    built_again = run_module(
        *("jpeg_build", built / "strided.toml", "--backend", "openvino", "--precision", "int8"),
        *("--model-repository", repository),
    )
    assert built_again.returncode == 1
    assert built_again.stderr.rstrip().endswith("[parameter_conflict]")
    checked = run_module("jpeg_serve", "check", "--static", "--model-repository", repository)
    assert checked.returncode == 1
    assert "parameter_conflict" in checked.stdout
    edit(config, '"2"', '"1"')
    assert run_module("jpeg_serve", "check", "--static", "--model-repository", repository).returncode == 0


def test_the_report_states_the_batches_and_the_dependence_on_neighbours(built):
    report = json.loads((built / "model_repository/classifier_openvino/1/model.json").read_text())
    assert {1, 2, 3, 16, 64} <= set(report["parity"]["batches"])
    assert report["parity"]["neighbour_difference"] <= report["tolerance"]["relative_difference"]


# A network of which only some layers can be int8


def unlike_channels(folder: Path) -> None:
    """Write an ONNX file in which one channel is a hundred thousand times the others, in front of its seventh layer."""
    random = np.random.default_rng(0)
    nodes, constants, last = [], [], "image"
    for index in range(10):
        inputs, kernel = (3, 3) if index == 0 else (16, 1)
        weights = random.normal(0, np.sqrt(2 / inputs) / kernel, (16, inputs, kernel, kernel))
        if index == 5:
            weights[0] *= 1e5
        if index == 6:
            weights[:, 0] *= 1e-5
        constants.append(numpy_helper.from_array(weights.astype(np.float32), f"weights{index}"))
        convolved, rectified = f"convolved{index}", f"rectified{index}"
        nodes.append(helper.make_node("Conv", [last, f"weights{index}"], [convolved], strides=[kernel] * 2))
        nodes.append(helper.make_node("Relu", [convolved], [rectified]))
        last = rectified
    head = random.normal(0, 1, (16, 10)).astype(np.float32)
    constants.append(numpy_helper.from_array(head, "head"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "unlike",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 128, 128])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "strided.onnx"))
    (folder / "ten.txt").write_text("".join(f"class {index}\n" for index in range(10)))
    (folder / "unlike.toml").write_text(RECIPE)


def test_layers_in_float32_are_served_beside_those_in_int8(tmp_path):
    unlike_channels(tmp_path)
    done = run_module("jpeg_build", "unlike.toml", "--backend", "openvino", "--precision", "int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    repository = tmp_path / "model_repository"
    report = json.loads((repository / "classifier_openvino/1/model.json").read_text())
    assert len(report["quantisation"]["tries"]) > 4
    assert 1 <= len(report["quantisation"]["layers_in_float32"]) <= 7
    images = pixels()
    network = ort.InferenceSession(tmp_path / "strided.onnx")
    prepared = ((images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2)
    (expected,) = network.run(None, {network.get_inputs()[0].name: prepared.astype(np.float32)})
    for server in serve(repository, tmp_path / "log"):
        with triton.InferenceServerClient(server.grpc_address) as client:
            tensor = triton.InferInput("input__0", list(images.shape), "UINT8")
            tensor.set_data_from_numpy(images)
            found = client.infer("classifier_openvino", [tensor]).as_numpy("output__0")
        assert np.abs(found - expected).max() < 0.15 * np.abs(expected).max()
