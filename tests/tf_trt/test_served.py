"""`jpeg-build --backend tf_trt --no-trt`, served by a real tritonserver of the same environment."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import serve
from jpeg_build.photos import load_photos
from jpeg_build.recipe.recipe import find_recipe, load_recipe
from jpeg_client import Client
from jpeg_contract.resources import PHOTOS
from jpeg_serve import ServeError
from support import edit, photo, run_module
from tritonclient import grpc as grpcclient
from tritonclient import http as httpclient

pytest.importorskip("tensorflow", reason="TensorFlow has an environment of its own: make build-tensorflow")

RECIPE = load_recipe(find_recipe("mobilenet_v2"))
EXPECTED = {"coffee": ("espresso", 0.877), "china": ("palace", 0.489), "chelsea": ("tiger cat", 0.397)}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "model_repository"
    done = run_module(
        "jpeg_build", "mobilenet_v2", "--backend", "tf_trt", "--no-trt", "--model-repository", folder, "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["form"], report["precision"], report["details"]["form"]) == ("tf_trt", "fp32", "plain")
    assert report["weights"]["sha256"] == RECIPE.tensorflow_network().source.sha256
    assert report["parity"]["relative_difference"] < report["tolerance"]["relative_difference"]
    assert report["artefact"]["file"] == "model.savedmodel"
    return folder


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    yield from serve(repository, tmp_path_factory.mktemp("server") / "triton.log")


@contextmanager
def triton(module, server):
    client = module.InferenceServerClient(server.grpc_address if module is grpcclient else server.http_address)
    try:
        yield client
    finally:
        client.close()


def test_photos_get_the_labels_that_keras_gives_them(server):
    for url in (f"grpc://{server.grpc_address}", f"http://{server.http_address}"):
        with Client(url) as client:
            predictions = client.classify([photo(name) for name in EXPECTED])
        for (label, score), prediction in zip(EXPECTED.values(), predictions, strict=True):
            assert prediction.labels[0] == label
            assert prediction.scores[0] == pytest.approx(score, abs=0.02)


@pytest.mark.parametrize("module", [grpcclient, httpclient], ids=["grpc", "http"])
def test_the_classic_tensor_client_gets_scores_indices_and_labels(server, module):
    pixels = load_photos(PHOTOS, RECIPE)[:3]
    with triton(module, server) as client:
        tensor = module.InferInput("input__0", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        wanted = module.InferRequestedOutput("output__0", class_count=5)
        ranked = client.infer("classifier_tf_trt", [tensor], outputs=[wanted]).as_numpy("output__0")
        logits = client.infer("classifier_tf_trt", [tensor]).as_numpy("output__0")
    assert ranked.shape == (3, 5)
    assert RECIPE.labels is not None
    for row, values in zip(ranked, logits, strict=True):
        score, index, label = row[0].decode().split(":")
        assert int(index) == int(values.argmax())
        assert float(score) == pytest.approx(float(values.max()), abs=1e-4)
        assert label == RECIPE.labels[int(index)]


def test_the_config_is_the_native_backends(repository):
    text = (repository / "classifier_tf_trt" / "config.pbtxt").read_text()
    assert 'platform: "tensorflow_savedmodel"' in text
    assert 'backend: "tensorflow"' in text


def parameter(model, name, value):
    edit(
        model / "config.pbtxt",
        'backend: "tensorflow"',
        f'backend: "tensorflow"\nparameters {{ key: "{name}" value {{ string_value: "{value}" }} }}',
    )


def test_the_native_backends_parameters_are_accepted(repository, tmp_path):
    copy = shutil.copytree(repository, tmp_path / "model_repository")
    for name, value in (("TF_NUM_INTRA_THREADS", 1), ("TF_NUM_INTER_THREADS", 1), ("TF_GRAPH_TAG", "serve")):
        parameter(copy / "classifier_tf_trt", name, value)
    served = serve(copy, tmp_path / "triton.log")
    server = next(served)
    with Client(f"grpc://{server.grpc_address}") as client:
        assert client.classify([photo("coffee")])[0].labels[0] == "espresso"
    assert next(served, None) is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TF_SIGNATURE_DEF", "other", "has no signature other; it has serving_default"),
        ("TF_NUM_INTRA_THREADS", "many", "parameter TF_NUM_INTRA_THREADS is 'many'"),
    ],
)
def test_a_model_that_cannot_be_served_names_the_cause(repository, tmp_path, name, value, expected):
    copy = shutil.copytree(repository, tmp_path / "model_repository")
    parameter(copy / "classifier_tf_trt", name, value)
    log = tmp_path / "triton.log"
    with pytest.raises(ServeError) as caught:
        next(serve(copy, log))
    # jpeg-serve's check names invalid parameters before the server starts.
    assert expected in f"{caught.value}\n{log.read_text()}"


def test_inspect_and_verify_take_it(repository):
    found = run_module("jpeg_build", "inspect", "tf_trt", "--model-repository", repository)
    assert found.returncode == 0, found.stderr
    assert "uint8[N,224,224,3]" in found.stdout
    done = run_module("jpeg_build", "verify", "tf_trt", "--model-repository", repository)
    assert done.returncode == 0, done.stderr


def test_fp16_without_tensorrt_is_refused_and_leaves_what_was_there(repository):
    before = (repository / "classifier_tf_trt" / "1" / "model.json").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "jpeg_build", "mobilenet_v2", "--backend", "tf_trt", "--no-trt", "--precision", "fp16",
         "--model-repository", str(repository)], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--no-trt leaves the SavedModel in fp32" in done.stderr
    assert (repository / "classifier_tf_trt" / "1" / "model.json").read_text() == before
