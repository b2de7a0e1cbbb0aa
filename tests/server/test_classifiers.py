"""Every classifier that runs without a GPU, in every precision: built, verified, served, over both protocols."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import serve
from jpeg_build.cli import main
from jpeg_build.photos import load_photos
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from jpeg_client import Client
from jpeg_contract.forms import FORMS
from jpeg_contract.report import read_report
from jpeg_contract.resources import PHOTOS
from support import photo

# Builds, on machines that may be busy; float16 in PyTorch is ten times slower than float32 on a CPU.
pytestmark = pytest.mark.timeout(1500)

RECIPE = load_recipe(RECIPES / "mobilenet_v2.toml")
assert RECIPE.labels is not None
LABELS = RECIPE.labels

CLASSIFIERS = [
    ("onnx", "fp16"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "fp16"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("torch_tensorrt", "fp32"),
    ("torch_tensorrt", "fp16"),
]

# torchvision's results with its own transform (FACTS.md); int8 may be off by more.
EXPECTED = {"chelsea": ("Egyptian cat", 0.717), "coffee": ("espresso", 0.992), "china": ("palace", 0.692)}


@pytest.fixture(scope="module", params=CLASSIFIERS, ids="-".join)
def classifier(request, built_classifier):
    """(backend, precision, repository) of one."""
    backend, precision = request.param
    return backend, precision, built_classifier(backend, precision)


@pytest.fixture(scope="module")
def server(classifier):
    _backend, _precision, repository = classifier
    yield from serve(repository, repository.with_name("triton.log"))


@contextmanager
def triton(module, server):
    client = module.InferenceServerClient(server.grpc_address if module is grpcclient else server.http_address)
    try:
        yield client
    finally:
        client.close()


def test_the_report_states_form_precision_and_parity(classifier):
    backend, precision, repository = classifier
    report = read_report(repository / f"classifier_{backend}" / "1" / FORMS[backend].artefact)
    assert (report.form, report.precision) == (backend, precision)
    assert report.parity.relative_difference <= report.tolerance.relative_difference
    assert report.parity.neighbour_difference <= report.tolerance.relative_difference
    assert {1, 2, 3, 16, 64} <= set(report.parity.batches)
    assert "Egyptian cat" in [each.label for each in report.probe]
    if precision != "fp32":
        # It is really another precision, not fp32 under another name.
        assert report.parity.relative_difference > 1e-5


def test_the_labels_are_right(classifier, server):
    _, precision, _ = classifier
    near = {"fp32": 0.01, "fp16": 0.03, "bf16": 0.15, "int8": 0.25}[precision]
    for url in (f"grpc://{server.grpc_address}", f"http://{server.http_address}"):
        with Client(url) as client:
            predictions = client.classify([photo(name) for name in EXPECTED])
        for (label, score), prediction in zip(EXPECTED.values(), predictions, strict=True):
            assert prediction.labels[0] == label
            assert prediction.scores[0] == pytest.approx(score, abs=near)


@pytest.mark.parametrize("module", [grpcclient, httpclient], ids=["grpc", "http"])
def test_the_classic_tensor_client_gets_scores_indices_and_labels(classifier, server, module):
    backend, _, _ = classifier
    pixels = load_photos(PHOTOS, RECIPE)[:3]
    with triton(module, server) as client:
        tensor = module.InferInput("input__0", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        name = f"classifier_{backend}"
        wanted = module.InferRequestedOutput("output__0", class_count=5)
        ranked = client.infer(name, [tensor], outputs=[wanted]).as_numpy("output__0")
        logits = client.infer(name, [tensor]).as_numpy("output__0")
    assert ranked.shape == (3, 5)
    for row, values in zip(ranked, logits, strict=True):
        score, index, label = row[0].decode().split(":")
        assert int(index) == int(values.argmax())
        assert float(score) == pytest.approx(float(values.max()), abs=1e-4)
        assert label == LABELS[int(index)]


@pytest.mark.parametrize("module", [grpcclient, httpclient], ids=["grpc", "http"])
def test_the_metadata_are_the_same_for_all_classifiers(classifier, server, module):
    with triton(module, server) as client:
        found = client.get_model_metadata(
            f"classifier_{classifier[0]}", **({"as_json": True} if module is grpcclient else {})
        )
    (tensor,), (output,) = found["inputs"], found["outputs"]
    assert (tensor["name"], tensor["datatype"], [int(n) for n in tensor["shape"]]) == (
        "input__0",
        "UINT8",
        [-1, 224, 224, 3],
    )
    assert (output["name"], output["datatype"], [int(n) for n in output["shape"]]) == ("output__0", "FP32", [-1, 1000])


def test_verify_compares_the_running_server(classifier, server, capsys):
    backend, precision, repository = classifier
    arguments = ["verify", backend, "--server", server.grpc_address, "--model-repository", str(repository), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["classifier"], found["precision"]) == (f"classifier_{backend}", precision)
    assert found["server"] == server.grpc_address
    assert np.isfinite(found["parity"]["max_abs_difference"])
    assert found["difference_from_artefact"] < 0.02
