# ruff: noqa: E501  # one row for each case
"""Labels of real photos, over every protocol, against the framework's own labels."""

import io
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import serve
from jpeg_client import Client, RequestRefused
from PIL import Image
from support import MEAN, PHOTOS, STD, edit, encode, photo, reference_pixels

ALL = sorted(PHOTOS.rglob("*.jpg"))

KNOWN = {
    "chelsea": ("Egyptian cat", 0.72),
    "coffee": ("espresso", 0.99),
    "china": ("palace", 0.69),
    "grace_hopper": ("bow tie", 0.51),
}


@pytest.mark.parametrize("name", KNOWN)
def test_photos_get_their_labels(client, name):
    (prediction,) = client.classify([photo(name)])
    assert prediction.error is None
    assert prediction.labels[0] == KNOWN[name][0]
    assert prediction.scores[0] == pytest.approx(KNOWN[name][1], abs=0.01)
    assert len(prediction.labels) == len(prediction.scores) == len(prediction.indices) == 5
    assert list(prediction.scores) == sorted(prediction.scores, reverse=True)


def test_the_second_label_too(client):
    (prediction,) = client.classify([photo("grace_hopper")], k=2)
    assert prediction.labels == ("bow tie", "military uniform")
    assert prediction.scores[1] == pytest.approx(0.18, abs=0.01)


@pytest.fixture(scope="module")
def framework():
    """The top 5 of a PIL image by torchvision's network, weights and transform, which the server must match."""
    import torch
    import torchvision

    network = torchvision.models.mobilenet_v2(weights="IMAGENET1K_V1").eval()

    def top5(image):
        pixels = reference_pixels(image.convert("RGB"))
        normalised = torch.from_numpy(((pixels / 255 - MEAN) / STD).astype(np.float32)).permute(2, 0, 1)
        with torch.inference_mode():
            scores, indices = network(normalised[None]).softmax(1)[0].topk(5)
        return indices.tolist(), scores.tolist()

    return top5


@pytest.fixture(scope="module")
def full_size_server(built_repository, tmp_path_factory):
    """The server with the decoder that decodes every pixel, chosen in the config as by a user."""
    folder = tmp_path_factory.mktemp("full")
    repository = folder / "model_repository"
    shutil.copytree(built_repository, repository)
    edit(repository / "preprocess" / "config.pbtxt", '"scaled"', '"full"')
    yield from serve(repository, folder / "triton.log")


@pytest.mark.parametrize("enlarged", [1, 4])
def test_labels_over_the_wire_are_the_frameworks(full_size_server, framework, enlarged):
    with Client(f"grpc://{full_size_server.grpc_address}") as client:
        for path in ALL:
            image = Image.open(path).convert("RGB")
            data = path.read_bytes()
            if enlarged > 1:
                data = encode(image.resize((image.width * enlarged, image.height * enlarged)))
            with Image.open(io.BytesIO(data)) as decoded:
                indices, scores = framework(decoded)
            (prediction,) = client.classify([data])
            assert list(prediction.indices) == indices, path.name
            assert prediction.scores == pytest.approx(scores, abs=2e-3), path.name


def test_the_default_decoder_changes_no_first_label(server, framework):
    with Client(f"grpc://{server.grpc_address}") as client:
        for path in ALL:
            image = Image.open(path).convert("RGB")
            for enlarged in (1, 2, 3, 5):
                data = encode(image.resize((image.width * enlarged, image.height * enlarged)))
                with Image.open(io.BytesIO(data)) as decoded:
                    indices, _ = framework(decoded)
                (prediction,) = client.classify([data])
                assert prediction.indices[0] == indices[0], f"{path.name} x {enlarged}"


def test_other_kinds_of_jpeg(client):
    china = Image.open(PHOTOS / "china.jpg").convert("RGB")
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    kinds = {
        "progressive": encode(china, progressive=True),
        "CMYK": encode(china.convert("CMYK")),
        "gray": encode(china.convert("L")),
        "rotated, with EXIF": encode(china.rotate(180), exif=upside_down),
        "trailing bytes": encode(china) + b"\0" * 100,
    }
    for (kind, _), prediction in zip(kinds.items(), client.classify(list(kinds.values())), strict=True):
        assert prediction.labels[0] == "palace", kind


def test_a_batch_of_eight_sizes_gets_the_results_of_eight_requests(client):
    image = Image.open(PHOTOS / "coffee.jpg").convert("RGB")
    images = [
        encode(image.resize(size))
        for size in ((64, 64), (300, 200), (200, 300), (1200, 800), (2400, 1600), (640, 427), (1, 1), (97, 801))
    ]
    together = client.classify(images)
    alone = [client.classify([image])[0] for image in images]
    assert len(together) == 8
    for one, other in zip(together, alone, strict=True):
        assert one.indices == other.indices
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_more_images_than_a_batch_holds(client):
    predictions = client.classify([photo("chelsea"), photo("coffee")] * 50, k=1)
    assert [prediction.labels for prediction in predictions] == [("Egyptian cat",), ("espresso",)] * 50


@pytest.mark.parametrize("k", [1, 3, 1000])
def test_k_is_chosen_by_each_request(client, k):
    (prediction,) = client.classify([photo("coffee")], k=k)
    assert len(prediction.labels) == k
    assert prediction.labels[0] == "espresso"


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_out_of_range_is_refused_with_the_range(client, k):
    with pytest.raises(RequestRefused, match=f"from 1 to 1000, but it is {k}$"):
        client.classify([photo("coffee")], k=k)


def test_concurrent_requests_with_different_k(url):
    def classify(k):
        with Client(url) as client:
            return [len(prediction.labels) for prediction in client.classify([photo("coffee")] * 2, k=k)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(classify, range(1, 17))) == [[k, k] for k in range(1, 17)]


CURL = ["curl", "--silent", "--show-error", "-H", "Inference-Header-Content-Length: 0", "-H", "Content-Type: application/octet-stream"]  # fmt: skip


def curl(server, path, *options):
    url = f"http://{server.http_address}/v2/models/jpeg_classifier/infer"
    return subprocess.run([*CURL, "--data-binary", f"@{path}", *options, url], capture_output=True, check=True).stdout


def test_raw_bytes_with_curl_and_no_client_code(server):
    response = curl(server, PHOTOS / "chelsea.jpg")
    assert b"Egyptian cat" in response
    assert response.index(b"Egyptian cat") < response.index(b"tabby")


@pytest.mark.parametrize("header", ["k: 2", "K: 2"])
def test_k_as_an_http_header(server, header):
    response = curl(server, PHOTOS / "chelsea.jpg", "-H", header)
    assert b'"name":"SCORE","datatype":"FP32","shape":[1,2]' in response


def test_k_as_grpc_metadata(server):
    client = grpcclient.InferenceServerClient(server.grpc_address)
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[photo("coffee")]], dtype=object))
    result = client.infer("jpeg_classifier", [tensor], headers={"k": "2"})
    client.close()
    assert result.as_numpy("LABEL").tolist() == [[b"espresso", b"consomme"]]


@pytest.mark.parametrize("module", [grpcclient, httpclient])
def test_each_image_has_the_times_of_the_steps(server, module):
    images = [photo("coffee"), b"no image", photo("chelsea")]
    tensor = module.InferInput("IMAGE", [3, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image] for image in images], dtype=object))
    client = module.InferenceServerClient(server.grpc_address if module is grpcclient else server.http_address)
    begun = time.perf_counter()
    times = client.infer("jpeg_classifier", [tensor]).as_numpy("TIMES")
    elapsed_ms = (time.perf_counter() - begun) * 1000
    client.close()
    assert (times.dtype, times.shape) == (np.float32, (3, 3))
    # The steps follow each other within the request, and none takes no time at all.
    assert (times > 0).all()
    assert (times.sum(axis=1) < elapsed_ms).all()
    # A request is one unit to each step.
    assert (times == times[0]).all()


@pytest.mark.parametrize("module", [grpcclient, httpclient])
def test_the_public_model_describes_itself(server, module):
    address = server.grpc_address if module is grpcclient else server.http_address
    client = module.InferenceServerClient(address)
    metadata = client.get_model_metadata("jpeg_classifier", **({"as_json": True} if module is grpcclient else {}))
    client.close()
    assert [(t["name"], t["datatype"]) for t in metadata["inputs"]] == [("IMAGE", "BYTES")]
    assert {(t["name"], t["datatype"]) for t in metadata["outputs"]} == {
        ("LABEL", "BYTES"),
        ("SCORE", "FP32"),
        ("INDEX", "INT32"),
        ("ERROR", "BYTES"),
        ("CHECKSUM", "UINT32"),
        ("TIMES", "FP32"),
    }


def test_the_config_is_that_of_the_native_backend(server):
    client = httpclient.InferenceServerClient(server.http_address)
    config = client.get_model_config("classifier_onnx")
    client.close()
    assert config["backend"] == "onnxruntime"
    assert config["platform"] == "onnxruntime_onnx"
    assert config["runtime"] == "model.py"
