"""The JSON API: the real application in front of the real server."""

from __future__ import annotations

import re
import socket
import urllib.parse
from typing import Any

import httpx2
import pytest
from jpeg_client import Client, ProtocolMismatch
from jpeg_contract.tensors import ENSEMBLE
from support import ROOT, photo
from web_command import WebCommand, wait_until

COFFEE = photo("coffee")
NO_SERVER = "grpc://127.0.0.1:9"
TEXT = (ROOT / "README.md").read_bytes()


@pytest.fixture(scope="session")
def openapi(web_url: str) -> dict[str, Any]:
    description: dict[str, Any] = httpx2.get(f"{web_url}/openapi.json").json()
    return description


@pytest.mark.parametrize(
    "content_type", [None, "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", "text/odd;;"]
)
def test_an_image_gets_the_labels_that_the_client_gets(http, server, content_type):
    response = http.post(
        "/classify?k=3", content=COFFEE, headers={"Content-Type": content_type} if content_type else {}
    )
    with Client(f"grpc://{server.grpc_address}") as client:
        expected = client.classify([COFFEE], k=3)[0]
    assert response.status_code == 200
    answer = response.json()
    (result,) = answer["results"]
    assert [each["label"] for each in result["predictions"]] == list(expected.labels)
    assert [each["index"] for each in result["predictions"]] == list(expected.indices)
    assert [each["score"] for each in result["predictions"]] == pytest.approx(expected.scores)
    assert result["error"] is None
    assert result["name"] is None
    assert answer["model"] == {"name": ENSEMBLE, "version": "1", "classifier": "classifier_onnx"}
    assert set(result["times_ms"]) == {"preprocess", "classify", "postprocess"}
    assert answer["times_ms"]["total"] >= answer["times_ms"]["classify"] > 0


def test_labels_below_the_threshold_are_left_out(http):
    for threshold, found in ((0.9, ["espresso"]), (0.999, [])):
        response = http.post(f"/classify?threshold={threshold}", content=COFFEE)
        (result,) = response.json()["results"]
        assert response.status_code == 200
        assert [each["label"] for each in result["predictions"]] == found
        assert result["error"] is None


def test_each_image_of_a_form_succeeds_or_fails_alone(http):
    files = [
        ("image", ("coffee.jpg", COFFEE)),
        ("other", ("né.jpg", COFFEE[: len(COFFEE) // 2])),
        ("image", ("readme", TEXT)),
        ("image", ("empty.jpg", b"")),
        ("image", ("chelsea.jpg", photo("chelsea"))),
    ]
    response = http.post("/classify", files=files, data={"text": "is no image"})
    results = response.json()["results"]
    assert response.status_code == 200
    assert [each["name"] for each in results] == ["coffee.jpg", "né.jpg", "readme", "empty.jpg", "chelsea.jpg"]
    assert [each["error"] and each["error"]["reason"] for each in results] == [
        None,
        "truncated",
        "not_jpeg",
        "empty",
        None,
    ]
    assert results[0]["predictions"][0]["label"] == "espresso"
    assert results[4]["predictions"][0]["label"] == "Egyptian cat"


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        ({"content": TEXT}, ["not_jpeg"]),
        ({"files": [("a", ("a", TEXT)), ("b", ("b", COFFEE[:99]))]}, ["not_jpeg", "truncated"]),
    ],
)
def test_without_any_labels_the_status_is_400_and_the_json_the_same(http, body, reasons):
    response = http.post("/classify", **body)
    assert response.status_code == 400
    assert [each["error"]["reason"] for each in response.json()["results"]] == reasons


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/classify?k=0", 400, "invalid_k"),
        ("/classify?k=1001", 400, "invalid_k"),
        ("/classify?k=1.5", 400, "invalid_k"),
        ("/classify?k=99999999999999999999", 400, "invalid_k"),
        ("/classify?threshold=1.5", 400, "invalid_threshold"),
        ("/classify?threshold=-0.1", 400, "invalid_threshold"),
        ("/classify?threshold=nan", 400, "invalid_threshold"),
        ("/classify?threshold=high", 400, "invalid_threshold"),
        ("/classify?timeout_s=0", 400, "invalid_timeout_s"),
        ("/classify?timeout_s=nan", 400, "invalid_timeout_s"),
        ("/classify?timeout_s=0.05", 400, "invalid_timeout_s"),
        ("/classify?model=preprocess", 404, "unknown_model"),
        ("/classify?model=", 404, "unknown_model"),
        ("/classify/", 404, "not_found"),
        ("/nothing", 404, "not_found"),
        ("/models", 405, "method_not_allowed"),
    ],
)
def test_a_refused_request_has_a_reason_code(http, path, status, reason):
    response = http.post(path, content=COFFEE)
    assert (response.status_code, response.json()["error"]["reason"]) == (status, reason)
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "content", "reason"),
    [
        ({}, b"", "no_image"),
        ({"Content-Type": "multipart/form-data"}, b"x", "invalid_multipart"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--y\r\n", "invalid_multipart"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n", "no_image"),
        (
            {"Content-Type": "Multipart/Form-Data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
            "no_image",
        ),
    ],
)
def test_a_body_without_an_image_is_refused(http, headers, content, reason):
    response = http.post("/classify", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["reason"]) == (400, reason)


def test_the_models_are_described(http):
    answer = http.get("/models").json()
    assert answer["default"] == ENSEMBLE
    (model,) = answer["models"]
    assert model["name"] == ENSEMBLE
    assert model["ready"] is True
    assert (model["version"], model["classifier"], model["backend"]) == ("1", "classifier_onnx", "onnxruntime")
    assert model["precision"] == "fp32"
    assert (model["classes"], model["max_batch_size"]) == (1000, 64)


def test_a_client_of_triton_learns_whose_port_it_is(http):
    with Client(str(http.base_url).rstrip("/")) as client, pytest.raises(ProtocolMismatch) as error:
        client.classify(COFFEE)
    assert "jpeg-web" in str(error.value)


def test_a_model_that_the_server_lacks_is_not_ready(serve_app, server):
    with serve_app(url=f"grpc://{server.grpc_address}", models=(ENSEMBLE, "nothing")) as url:
        ready = {model["name"]: model["ready"] for model in httpx2.get(f"{url}/models").json()["models"]}
        response = httpx2.post(f"{url}/classify?model=nothing", content=COFFEE)
    assert ready == {ENSEMBLE: True, "nothing": False}
    assert (response.status_code, response.json()["error"]["reason"]) == (404, "unknown_model")


def test_health_is_that_of_the_default_model(http):
    response = http.get("/health")
    assert (response.status_code, response.json()) == (200, {"ready": True})


def test_without_a_server_the_status_is_503_at_once(serve_app):
    with serve_app(url=NO_SERVER, metrics_url="") as url:
        for response in (httpx2.post(f"{url}/classify", content=COFFEE), httpx2.get(f"{url}/health")):
            assert response.status_code == 503
            assert response.json()["error"]["reason"] == "server_unavailable"
            assert int(response.headers["Retry-After"]) >= 1
        assert httpx2.get(f"{url}/health").json()["ready"] is False
        assert httpx2.get(f"{url}/models").json()["models"][0]["ready"] is False
        assert httpx2.get(f"{url}/stats").json()["images_per_s"] is None


def test_the_statistics_count_images(http):
    def stats_after_images() -> bool:
        http.post("/classify", files=[("a", ("a", COFFEE)), ("b", ("b", TEXT))])
        found = http.get("/stats").json()
        return bool(found["images_per_s"] and found["failed_per_s"] and all(found["steps_ms"].values()))

    wait_until(stats_after_images)
    found = http.get("/stats").json()
    assert found["waiting"] >= 0


def test_unreadable_metrics_are_null(serve_app, server):
    with serve_app(url=f"grpc://{server.grpc_address}", metrics_url="http://127.0.0.1:9/metrics") as url:
        assert set(httpx2.get(f"{url}/stats").json()) == {
            "images_per_s",
            "latency_ms",
            "steps_ms",
            "waiting",
            "failed_per_s",
        }
        assert httpx2.get(f"{url}/stats").json()["waiting"] is None


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("multipart", [False, True])
def test_a_body_over_the_limit_is_refused(serve_app, server, chunked, multipart):
    boundary = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
    body = (boundary if multipart else b"") + bytes(300_000)
    headers = {"Content-Type": "multipart/form-data; boundary=x"} if multipart else {}
    with serve_app(url=f"grpc://{server.grpc_address}", max_request_mib=0.25) as url, httpx2.Client() as client:
        content = iter([body[:100_000], body[100_000:]]) if chunked else body
        response = client.post(f"{url}/classify", content=content, headers=headers)
        assert (response.status_code, response.json()["error"]["reason"]) == (413, "request_too_large")
        assert client.post(f"{url}/classify", content=COFFEE).status_code == 200


def open_request(url: str, head: str, body: bytes = b"") -> socket.socket:
    """Send the begin of a request."""
    parts = urllib.parse.urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)
    connection.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
    return connection


def test_a_body_that_does_not_come_ends_with_408(serve_app, server):
    with (
        serve_app(url=f"grpc://{server.grpc_address}", receive_timeout_s=0.2) as url,
        open_request(url, "Content-Length: 1000", b"x") as connection,
    ):
        assert b" 408 " in connection.recv(4096)


def test_the_memory_of_all_bodies_is_bounded(serve_app, server):
    with serve_app(url=f"grpc://{server.grpc_address}", max_request_mib=1, max_held_mib=1) as url:
        with open_request(url, "Content-Length: 900000", bytes(899_999)), httpx2.Client() as client:
            refused: list[httpx2.Response] = []

            def is_busy() -> bool:
                refused[:] = [client.post(f"{url}/classify", content=COFFEE + bytes(200_000))]
                return refused[0].status_code == 503

            wait_until(is_busy)  # once the open body has come
            assert refused[0].json()["error"]["reason"] == "busy"
            assert refused[0].headers["Retry-After"] == "1"
        # The client left, so its bytes are counted no more.
        wait_until(lambda: httpx2.post(f"{url}/classify", content=COFFEE + bytes(200_000)).status_code == 200)


def test_the_api_is_described_with_its_errors(openapi):
    operation = openapi["paths"]["/classify"]["post"]
    assert set(operation["responses"]) == {"200", "400", "404", "408", "413", "429", "502", "503", "504"}
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/jpeg", "application/octet-stream"}
    assert {each["name"] for each in operation["parameters"]} == {"k", "threshold", "model", "timeout_s"}
    assert set(openapi["paths"]) == {"/classify", "/models", "/stats", "/health"}
    for status, response in operation["responses"].items():
        (content,) = response["content"].values()
        assert "schema" in content, status
        assert response["description"]


def test_the_page_of_the_api_needs_no_other_host(http):
    page = http.get("/docs")
    assert page.status_code == 200
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"].split("style-src")[0]
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert files
    for file in files:
        assert file.startswith("/")
        assert http.get(file).status_code == 200


@pytest.mark.parametrize("path", ["/", "/models", "/nothing", "/static/nothing", "/classify"])
def test_every_response_has_the_security_headers(http, path):
    response = http.get(path)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"


def test_other_origins_need_leave(serve_app, server):
    url = f"grpc://{server.grpc_address}"
    ours, theirs = {"Origin": "https://ours.example"}, {"Origin": "https://theirs.example"}
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serve_app(url=url, cors=("https://ours.example",)) as address:
        allowed = httpx2.post(f"{address}/classify", content=COFFEE, headers=ours)
        refused = httpx2.post(f"{address}/classify", content=COFFEE, headers=theirs)
        checked = httpx2.options(f"{address}/classify", headers={**ours, **preflight})
        failed = httpx2.post(f"{address}/classify?k=0", content=COFFEE, headers=ours)
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://ours.example"
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert checked.status_code == 200
    assert failed.headers["Access-Control-Allow-Origin"] == "https://ours.example"


def test_without_cors_no_origin_may_read(http):
    response = http.get("/models", headers={"Origin": "https://ours.example"})
    assert "Access-Control-Allow-Origin" not in response.headers


def test_a_root_path_is_in_the_page_of_the_api(serve_app, server):
    with serve_app(url=f"grpc://{server.grpc_address}", root_path="/jpeg") as url:
        # The proxy removes the prefix.
        assert httpx2.get(f"{url}/models").status_code == 200
        assert "'/jpeg/openapi.json'" in httpx2.get(f"{url}/docs").text


def test_neither_photos_nor_keys_are_logged(http, web: WebCommand):
    secret = "name.SECRETsecret"
    http.post("/classify", content=COFFEE, headers={"Authorization": f"Bearer {secret}"})
    http.post("/classify?k=0", files=[("image", ("private-name.jpg", COFFEE))], headers={"X-Api-Key": secret})
    log = web.log.read_text(errors="replace")
    assert "private-name" not in log
    assert secret not in log
