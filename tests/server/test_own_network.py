"""An ONNX classifier of a user, from recipe to labels over the network."""

import json
import shutil

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import serve
from jpeg_build.build import build
from jpeg_build.build.request import Request
from jpeg_build.checks import parity
from jpeg_build.errors import ParityError
from jpeg_build.recipe.recipe import load_recipe
from jpeg_client import Client, RequestRefused
from jpeg_contract.report import Tolerance
from jpeg_serve import ServeError, check_repository
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support import edit, encode, run_module
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (210, 30, 30), "grey": (128, 128, 128)}

RECIPE = """\
classes = 4
labels = "colours.txt"

[geometry]
resize_size = [48, 40]          # squashed, not cropped, and not square
crop_size = [48, 40]
interpolation = "bicubic"

[normalisation]                 # as for Caffe's networks: BGR, mean of [0, 255] subtracted
mean = [0.4, 0.46, 0.48]
std = [0.00392156862745098, 0.00392156862745098, 0.00392156862745098]
color = "BGR"

[source]
kind = "onnx"
file = "colours.onnx"
output = "probabilities"
"""


def colour_network(path):
    """Write a network that classifies the mean colour of an image by its distance to four colours.

    NHWC in, probabilities out. The input has a fixed batch of one, as many exports have.
    """
    mean = np.array([0.4, 0.46, 0.48]) * 255
    centres = np.array([colour[::-1] for colour in COLOURS.values()], np.float32) - mean.astype(np.float32)
    # -|x - c|^2 = 2 x.c - |c|^2, without a term that all classes share; scaled, so that no probability is 0 or 1.
    weights, bias = 2e-4 * centres.T, -1e-4 * (centres**2).sum(axis=1)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["mean", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["sum"]),
            helper.make_node("Softmax", ["sum"], ["probabilities"], axis=1),
        ],
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 48, 40, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 4])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), str(path))


def expected_probability(colour):
    distances = np.array([np.sum((np.array(colour, float) - other) ** 2) for other in COLOURS.values()])
    scores = np.exp(-1e-4 * (distances - distances.min()))
    return scores.max() / scores.sum()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    colour_network(folder / "colours.onnx")
    (folder / "colours.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    (folder / "colours.toml").write_text(RECIPE)
    done = run_module("jpeg_build", folder / "colours.toml", "--model-repository", folder / "model_repository")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(built):
    yield from serve(built / "model_repository", built / "triton.log")


def test_an_ensemble_of_a_version_without_times_is_served(built, tmp_path):
    """It is the user's file: new steps serve it as it is, and a build adds what it lacks."""
    repository = tmp_path / "model_repository"
    shutil.copytree(built / "model_repository", repository)
    config = repository / "jpeg_classifier" / "config.pbtxt"
    now = config.read_text()
    edit(config, 'output {\n  name: "TIMES"\n  data_type: TYPE_FP32\n  dims: [3]\n}\n', "")
    edit(config, '    output_map {\n      key: "TIMES"\n      value: "TIMES"\n    }\n', "")
    assert check_repository(repository) == []
    red = encode(Image.new("RGB", (90, 60), COLOURS["red"]))
    for server in serve(repository, tmp_path / "triton.log"):
        with Client(f"http://{server.http_address}") as client:
            assert client.classify(red).labels[0] == "red"
    done = run_module("jpeg_build", built / "colours.toml", "--model-repository", repository)
    assert done.returncode == 0, done.stderr
    assert config.read_text() == now


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_labels_over_both_protocols(server, protocol):
    with Client(f"{protocol}://{getattr(server, f'{protocol}_address')}") as client:
        images = [encode(Image.new("RGB", (90, 60), colour)) for colour in COLOURS.values()]
        for (name, colour), prediction in zip(COLOURS.items(), client.classify(images), strict=True):
            assert prediction.labels[0] == name
            # Fewer classes than the default k: all of them.
            assert sorted(prediction.labels) == sorted(COLOURS)
            assert prediction.scores[0] == pytest.approx(expected_probability(colour), abs=0.02)
            assert sum(prediction.scores) == pytest.approx(1, abs=1e-3)
        with pytest.raises(RequestRefused, match="from 1 to 4"):
            client.classify(images[:1], k=5)


IMAGE = np.array([encode(Image.new("RGB", (90, 60), "red"))], object)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("preprocess", {"IMAGE": IMAGE}),
        ("classifier_onnx", {"input__0": np.zeros((48, 40, 3), np.uint8)}),
        (
            "postprocess",
            {
                "output__0": np.zeros(4, np.float32),
                "ERROR": np.array([b""], object),
                "CHECKSUM": np.zeros(3, np.uint32),
            },
        ),
    ],
)
@pytest.mark.parametrize("protocol", [grpcclient, httpclient])
def test_a_batch_of_0_with_the_values_of_an_image_is_refused(server, protocol, model, inputs):
    """Triton lets it through: the model gets the values without a dimension for the batch (the ensemble, one)."""
    tensors = []
    for name, values in inputs.items():
        tensor = protocol.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        tensors.append(tensor.set_data_from_numpy(values).set_shape([0, *values.shape]))
    address = server.grpc_address if protocol is grpcclient else server.http_address
    with protocol.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match=r"\[bad_shape\]") as caught:
            client.infer(model, tensors)
        assert caught.value.status() in {"400", "StatusCode.INVALID_ARGUMENT"}


def test_a_repository_anywhere_is_served_with_the_projects_backends(built):
    log = built / "elsewhere.log"
    for server in serve(built / "model_repository", log, backends=None):
        with Client(f"grpc://{server.grpc_address}") as client:
            assert client.classify([encode(Image.new("RGB", (9, 9), "red"))])[0].labels[0] == "red"


def test_a_missing_backend_is_named(built, tmp_path):
    with pytest.raises(ServeError, match=r"classifier_onnx.*onnxruntime.*backend_missing"):
        next(serve(built / "model_repository", tmp_path / "triton.log", backends=tmp_path))


def test_a_build_keeps_and_reports_the_users_choices(built, tmp_path):
    shutil.copytree(built / "model_repository", tmp_path / "model_repository")
    edit(tmp_path / "model_repository/jpeg_classifier/config.pbtxt", '"classifier_onnx"', '"classifier_mine"')
    (tmp_path / "model_repository/preprocess/1/model.py").write_text("# my own\n")
    done = run_module("jpeg_build", built / "colours.toml", "--model-repository", tmp_path / "model_repository")
    assert done.returncode == 0
    assert "uses classifier_mine" in done.stderr
    assert "jpeg-build use onnx" in done.stderr
    assert "preprocess/1/model.py" in done.stderr


def test_the_report_has_the_measured_differences(built):
    report = json.loads((built / "model_repository" / "classifier_onnx" / "1" / "model.json").read_text())
    assert report["recipe"] == "colours"
    assert report["input"] == [48, 40, 3]
    assert report["weights"]["source"] == "ONNX file colours.onnx"
    assert report["parity"]["relative_difference"] < 1e-4
    assert report["parity"]["photos"] == 7


def test_a_network_outside_the_tolerance_is_not_put_in_place(built, tmp_path, monkeypatch):
    repository = tmp_path / "model_repository"
    shutil.copytree(built / "model_repository", repository)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    monkeypatch.setitem(parity.TOLERANCES, "fp32", Tolerance(-1.0, 1.0, 1.0, 1.0, tie=0.0))
    request = Request(recipe=load_recipe(built / "colours.toml"), repository=repository)
    with pytest.raises(ParityError):
        build(request, lambda message: None)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_an_up_to_date_build_is_not_repeated(built):
    again = run_module(
        "jpeg_build", built / "colours.toml", "--if-needed", "--model-repository", built / "model_repository"
    )
    assert again.returncode == 0
    assert "colours is up to date" in again.stderr
    assert "exporting" not in again.stderr
    for missing in ("postprocess/labels.txt", "preprocess/1/model.py", "jpeg_classifier/config.pbtxt"):
        (built / "model_repository" / missing).unlink()
        healed = run_module(
            "jpeg_build", built / "colours.toml", "--if-needed", "--model-repository", built / "model_repository"
        )
        assert "exporting" in healed.stderr, missing
        assert (built / "model_repository" / missing).is_file()
    (built / "model_repository" / "classifier_onnx" / "1" / "model.json").write_text("{}")
    (built / "colours.txt").write_text("a\nb\nc\nd\n")
    changed = run_module(
        "jpeg_build", built / "colours.toml", "--if-needed", "--model-repository", built / "model_repository"
    )
    assert changed.returncode == 0
    assert "exporting" in changed.stderr
    assert (built / "model_repository" / "postprocess" / "labels.txt").read_text() == "a\nb\nc\nd\n"
