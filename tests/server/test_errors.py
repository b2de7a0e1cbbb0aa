# ruff: noqa: E501  # one row for each case
"""Broken images: each has its own reason, and none affects another image."""

import io
import json
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from conftest import serve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jpeg_client import Client
from PIL import Image
from support import edit, encode, noise, photo, wait_for_batches


def png():
    stream = io.BytesIO()
    noise(8, 8).save(stream, "PNG")
    return stream.getvalue()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty: no bytes were sent"),
    "text": (b"hello", "not a JPEG: it does not begin with the bytes FF D8 FF"),
    "PNG": (png(), "not a JPEG: .*, it looks like a PNG"),
    "zeros": (bytes(1000), "not a JPEG"),
    "start only": (b"\xff\xd8\xff", "truncated JPEG: the data ends inside the header"),
    "half": (photo("china")[:90_000], "truncated JPEG: the data ends before the image does"),
    "marker soup": (b"\xff\xd8\xff\xda" + bytes(200), "corrupt JPEG"),
    "too many bytes": (photo("china") + bytes(20_000_000), "too large: 20196653 bytes, the limit is 20000000 bytes"),
}


def lying_header():
    data = bytearray(encode(noise(16, 16)))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = (12000).to_bytes(2, "big") + (11000).to_bytes(2, "big")
    return bytes(data)


BROKEN["too many pixels"] = (lying_header(), "too many pixels: 11000x12000 is 132000000, the limit is 120000000")


@pytest.mark.parametrize(("data", "error"), BROKEN.values(), ids=BROKEN)
def test_each_broken_image_has_its_own_reason(client, data, error):
    (prediction,) = client.classify([data])
    assert prediction.labels == prediction.scores == prediction.indices == ()
    assert prediction.error is not None
    assert re.match(error, prediction.error), prediction.error
    # No address, no path, no traceback.
    assert not re.search(r"\b0x|/|Traceback|\.py|line \d", prediction.error)


@pytest.mark.parametrize("data", [BROKEN["text"][0], BROKEN["half"][0], b""], ids=["text", "half", "empty"])
def test_a_request_without_a_usable_image_is_http_400(server, tmp_path, data):
    (tmp_path / "broken.jpg").write_bytes(data)
    response = subprocess.run(
        [
            "curl", "--silent", "--include", "--data-binary", f"@{tmp_path / 'broken.jpg'}",
            "-H", "Inference-Header-Content-Length: 0", "-H", "Content-Type: application/octet-stream",
            f"http://{server.http_address}/v2/models/jpeg_classifier/infer",
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    head, body = response.split("\n\n", 1) if "\n\n" in response else response.split("\r\n\r\n", 1)
    assert head.startswith("HTTP/1.1 400 ")
    assert re.fullmatch(r"in ensemble 'jpeg_classifier', image 0: [a-zA-Z]+.*", json.loads(body)["error"])


def test_broken_images_between_good_ones_in_one_request(client):
    order = ["chelsea", *BROKEN, "coffee", *BROKEN, "china"]
    images = [BROKEN[name][0] if name in BROKEN else photo(name) for name in order]
    predictions = client.classify(images, k=1)
    for name, prediction in zip(order, predictions, strict=True):
        if name in BROKEN:
            assert re.match(BROKEN[name][1], prediction.error or ""), name
        else:
            assert prediction.error is None
            assert prediction.labels == ({"chelsea": "Egyptian cat", "coffee": "espresso", "china": "palace"}[name],)


def test_the_arrays_of_a_failed_image(server):
    client = httpclient.InferenceServerClient(server.http_address)
    tensor = httpclient.InferInput("IMAGE", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[photo("coffee")], [b"no"]], dtype=object))
    result = client.infer("jpeg_classifier", [tensor])
    client.close()
    assert result.as_numpy("LABEL")[1].tolist() == [b""] * 5
    assert np.isnan(result.as_numpy("SCORE")[1]).all()
    assert result.as_numpy("INDEX")[1].tolist() == [-1] * 5
    assert result.as_numpy("ERROR")[0].tolist() == [b""]
    assert result.as_numpy("ERROR")[1][0].startswith(b"not a JPEG")


def test_many_broken_images_are_named_up_to_a_limit(server):
    client = grpcclient.InferenceServerClient(server.grpc_address)
    tensor = grpcclient.InferInput("IMAGE", [64, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"no"]] * 64, dtype=object))
    with pytest.raises(
        grpcclient.InferenceServerException, match=r"image 0: (.|\n)*image 15: (.|\n)*and 48 more images"
    ):
        client.infer("jpeg_classifier", [tensor])
    client.close()


@pytest.fixture(scope="module")
def batching_server(built_repository, tmp_path_factory):
    """A server that waits until a batch is full, so that the requests of several clients are in one batch."""
    folder = tmp_path_factory.mktemp("batching")
    repository = folder / "model_repository"
    shutil.copytree(built_repository, repository)
    # Of eight requests, the four good ones reach the classifier.
    for model, size in (("preprocess", 8), ("classifier_onnx", 4), ("postprocess", 4)):
        wait_for_batches(repository / model, size, seconds=10)
    yield from serve(repository, folder / "triton.log")


def test_broken_images_in_requests_that_triton_batches_together(batching_server):
    names = ["chelsea", "half", "coffee", "text", "china", "empty", "grace_hopper", "zeros"]

    def classify(name):
        with Client(f"grpc://{batching_server.grpc_address}") as client:
            return client.classify([BROKEN[name][0] if name in BROKEN else photo(name)], k=1)[0]

    with ThreadPoolExecutor(8) as pool:
        predictions = dict(zip(names, pool.map(classify, names), strict=True))
    for name, prediction in predictions.items():
        if name in BROKEN:
            assert re.match(BROKEN[name][1], prediction.error or ""), name
        else:
            assert prediction.labels, name
    assert predictions["chelsea"].labels == ("Egyptian cat",)
    assert predictions["grace_hopper"].labels == ("bow tie",)

    client = httpclient.InferenceServerClient(batching_server.http_address)
    (statistics,) = client.get_inference_statistics("preprocess")["model_stats"]
    (classified,) = client.get_inference_statistics("classifier_onnx")["model_stats"]
    client.close()
    # They were one batch: eight images, one execution. The four good ones were one batch of the classifier.
    assert (statistics["inference_count"], statistics["execution_count"]) == (8, 1)
    # Triton counts the warm-up, too.
    assert (classified["inference_count"], classified["execution_count"]) == (4 + 1, 1 + 1)


def test_a_malformed_tensor_does_not_affect_others(server):
    """Bytes that are not a list of strings: a length that reaches beyond the end."""
    client = grpcclient.InferenceServerClient(server.grpc_address)
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    for raw in (b"", b"\x01", b"\xff\xff\xff\x7fabc", b"\x01\x00\x00\x00ab", b"\x00\x00\x00\x00\x00\x00\x00\x00"):
        tensor._raw_content = raw
        with pytest.raises(grpcclient.InferenceServerException) as caught:
            client.infer("jpeg_classifier", [tensor], client_timeout=20)
        assert "Traceback" not in str(caught.value)
    client.close()
    with Client(f"grpc://{server.grpc_address}") as again:
        assert again.classify([photo("coffee")], k=1)[0].labels == ("espresso",)


@pytest.mark.parametrize(("shape", "datatype"), [([0, 1], "BYTES"), ([1], "BYTES"), ([1, 2], "BYTES"), ([65, 1], "BYTES"), ([1, 1], "FP32")])  # fmt: skip
def test_a_request_of_another_shape_or_type_is_refused(server, shape, datatype):
    client = httpclient.InferenceServerClient(server.http_address)
    tensor = httpclient.InferInput("IMAGE", shape, datatype)
    kind = object if datatype == "BYTES" else np.float32
    tensor.set_data_from_numpy(np.full(shape, b"x" if kind is object else 0, kind))
    with pytest.raises(httpclient.InferenceServerException) as caught:
        client.infer("jpeg_classifier", [tensor])
    client.close()
    assert caught.value.status() == "400"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"\xff\xd8\xff" + b)), min_size=1, max_size=8))  # fmt: skip
def test_any_bytes_get_a_response(server, images):
    with Client(f"grpc://{server.grpc_address}") as client:
        predictions = client.classify([*images, photo("coffee")], k=1)
    assert predictions[-1].labels == ("espresso",)
    assert all(prediction.labels or prediction.error for prediction in predictions)


def test_the_limits_are_the_configs(built_repository, tmp_path):
    repository = tmp_path / "model_repository"
    shutil.copytree(built_repository, repository)
    edit(repository / "preprocess" / "config.pbtxt", '"120000000"', '"200000"')
    edit(repository / "preprocess" / "config.pbtxt", '"20000000"', '"70000"')
    for server in serve(repository, tmp_path / "triton.log"):
        with Client(f"http://{server.http_address}") as client:
            names = ("grace_hopper", "chelsea")
            found = [prediction.error for prediction in client.classify([photo(name) for name in names])]
    assert found == [
        "too many pixels: 512x600 is 307200, the limit is 200000",
        "too large: 90057 bytes, the limit is 70000 bytes",
    ]


HEADERS = {"k": b"k: \xff", "a cookie": b"Cookie: \xff", "a name with a k": b"xkx: \xff"}


def classify_raw(server, header):
    """Send a header that is not UTF-8, which no HTTP library sends."""
    host, port = server.http_address.split(":")
    body = photo("coffee")
    lines = [
        b"POST /v2/models/jpeg_classifier/infer HTTP/1.1",
        b"Host: localhost",
        b"Content-Type: application/octet-stream",
        b"Inference-Header-Content-Length: 0",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
        header,
    ]
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        response = b""
        while part := connection.recv(65536):
            response += part
    return response


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_not_text_does_not_affect_others(server, header):
    def good(_):
        with Client(f"grpc://{server.grpc_address}") as client:
            return client.classify([photo("coffee")], k=1)[0].labels

    with ThreadPoolExecutor(8) as pool:
        beside = [pool.submit(good, number) for number in range(12)]
        responses = [pool.submit(classify_raw, server, header) for _ in range(4)]
        assert [each.result() for each in beside] == [("espresso",)] * 12
        for response in (each.result() for each in responses):
            if header.startswith(b"k:"):
                assert response.startswith(b"HTTP/1.1 400 "), response
                assert b"are not UTF-8 text" in response
            else:
                # The models see no header but k.
                assert response.startswith(b"HTTP/1.1 200 "), response
            assert b"Traceback" not in response
            assert b".py" not in response


def test_a_file_that_takes_too_long_to_decode_is_refused(server):
    data = encode(Image.new("L", (3000, 3000), 90), progressive=True)
    last = data.rindex(b"\xff\xda")
    with Client(f"grpc://{server.grpc_address}") as client:
        (prediction,) = client.classify([data[:-2] + data[last:-2] * 100 + b"\xff\xd9"])
    assert prediction.reason == "too_many_scans"


def large(**options):
    """An image that takes a third of a second of one core, and few bytes."""
    return encode(Image.new("RGB", (7000, 7000), (90, 120, 30)), quality=50, progressive=True, **options)


def test_large_images_of_one_client_do_not_hold_up_the_others(server):
    """What one client sends at once takes, one after another, eight times as long as another client waits."""
    data = large()
    waited = []

    def send_large(_):
        tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[data]], dtype=object))
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            try:
                client.infer("jpeg_classifier", [tensor])
            except grpcclient.InferenceServerException as error:
                return error.status(), error.message()
        return None

    assert send_large(0) is None
    begun = time.monotonic()
    assert send_large(0) is None
    alone_s = time.monotonic() - begun
    with ThreadPoolExecutor(65) as pool, Client(f"grpc://{server.grpc_address}") as client:
        sent = [pool.submit(send_large, place) for place in range(64)]
        while not all(each.done() for each in sent):
            begun = time.monotonic()
            assert client.classify([photo("coffee")], k=1)[0].labels == ("espresso",)
            waited.append(time.monotonic() - begun)
    # An eighth on a quiet machine.
    assert max(waited) < 64 * alone_s / 3
    refused = [outcome for each in sent if (outcome := each.result()) is not None]
    assert 0 < len(refused) < 64
    assert all(status == "StatusCode.UNAVAILABLE" and "[queue_full]" in message for status, message in refused)


def test_a_request_that_takes_too_long_is_refused_and_this_projects_client_splits_it(server):
    images = [large()] * 24
    tensor = httpclient.InferInput("IMAGE", [24, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image] for image in images], dtype=object))
    with (
        httpclient.InferenceServerClient(server.http_address, network_timeout=60) as client,
        pytest.raises(httpclient.InferenceServerException, match=r"\[request_too_long\]") as caught,
    ):
        client.infer("jpeg_classifier", [tensor])
    assert caught.value.status() == "400"
    with Client(f"http://{server.http_address}", timeout_s=60) as client:
        predictions = client.classify(images, k=1)
    assert len({prediction.labels for prediction in predictions}) == 1
    assert predictions[0].labels
