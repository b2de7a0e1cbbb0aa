"""The gateway in front of `jpeg-web`: the real nginx, the real application, the real server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway_support import INFER, RAW_HEADERS, Gateway, ports_of, small_jpeg
from jpeg_serve import TritonServer
from jpeg_serve.ports import free_port
from support import photo
from web_command import WebCommand, web_command

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
LARGE = 5_000_000


@pytest.fixture(scope="module")
def web(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebCommand]:
    log = tmp_path_factory.mktemp("web") / "web.log"
    options = ["--url", f"grpc://{server.grpc_address}", "--metrics-url", f"http://{server.metrics_address}/metrics"]
    with web_command(log, *options) as command:
        yield command


def place(web: WebCommand) -> str:
    """The application's entry in GATEWAY_WEB."""
    return web.url.removeprefix("http://")


@pytest.fixture(scope="module")
def gateway(server: TritonServer, web: WebCommand) -> Iterator[Gateway]:
    with Gateway([ports_of(server)], {"WEB": place(web)}) as gateway:
        yield gateway


def reason(response) -> str:
    return str(response.json()["error"]["reason"])


def test_images_get_labels_with_a_key_only(gateway: Gateway) -> None:
    response = gateway.request("/classify?k=1", photo("coffee"), {"Content-Type": "image/jpeg"})
    assert response.status == 200
    assert response.json()["results"][0]["predictions"][0]["label"] == "espresso"
    assert response.headers["cache-control"] == "no-store"
    refused = gateway.request("/classify?k=1", photo("coffee"), key=False)
    assert (refused.status, reason(refused)) == (401, "api_key_required")
    assert refused.headers["www-authenticate"] == "Bearer"


def test_a_form_and_a_chunked_body_pass(gateway: Gateway) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="cup.jpg"\r\n\r\n'
    response = gateway.request("/classify", head + small_jpeg() + b"\r\n--x--\r\n", FORM)
    assert response.json()["results"][0]["name"] == "cup.jpg"
    assert response.json()["results"][0]["error"] is None
    body = small_jpeg()
    chunked = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    response = gateway.request("/classify?k=1", chunked, {"Transfer-Encoding": "chunked"})
    assert response.status == 200


@pytest.mark.parametrize("path", ["/models", "/stats"])
def test_the_server_is_described_with_a_key_only(gateway: Gateway, path: str) -> None:
    assert gateway.request(path).status == 200
    refused = gateway.request(path, key=False)
    assert (refused.status, reason(refused)) == (401, "api_key_required")


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/static/app.js", "/static-docs/swagger-ui.css"])
def test_the_page_needs_no_key_and_keeps_its_headers(gateway: Gateway, web: WebCommand, path: str) -> None:
    response = gateway.request(path, key=False)
    assert response.status == 200
    direct = get(web, path)
    policies = [value for name, value in direct if name == "content-security-policy"]
    assert [response.headers["content-security-policy"]] == policies
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["strict-transport-security"]
    assert gateway.request(path, method="HEAD", key=False).body == b""


def get(web: WebCommand, path: str) -> list[tuple[str, str]]:
    """Return the headers of the application itself."""
    connection = http.client.HTTPConnection(place(web), timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return [(name.lower(), value) for name, value in response.getheaders()]
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/redoc"),
        ("GET", "/nothing"),
        ("GET", "/models?x=1"),
        ("GET", "//models"),
        ("GET", "/static/../models"),
        ("GET", "/static/%2e%2e/models"),
        ("GET", "/static/a/b.js"),
        ("POST", "/classify/"),
        ("POST", "/%63lassify"),
        ("POST", "/x/../classify"),
    ],
)
def test_other_paths_are_closed(gateway: Gateway, method: str, path: str) -> None:
    body = b"x" if method == "POST" else None
    assert gateway.request(path, body).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/classify"), ("PUT", "/classify"), ("POST", "/models"), ("POST", "/"), ("PUT", "/docs")],
)
def test_other_methods_are_closed(gateway: Gateway, method: str, path: str) -> None:
    assert gateway.request(path, b"x" if method != "GET" else None, method=method).status == 405


def test_the_applications_errors_pass(gateway: Gateway) -> None:
    response = gateway.request("/classify?k=0", photo("coffee"))
    assert (response.status, reason(response)) == (400, "invalid_k")
    response = gateway.request("/classify", b"no photo")
    assert response.json()["results"][0]["error"]["reason"] == "not_jpeg"
    response = gateway.request("/classify", photo("coffee"), {"Content-Encoding": "gzip"})
    assert (response.status, reason(response)) == (415, "unsupported_encoding")


def test_inference_itself_stays_open_and_has_its_own_errors(gateway: Gateway) -> None:
    assert gateway.request(INFER, small_jpeg(), RAW_HEADERS).status == 200
    assert "API key" in gateway.request(INFER, small_jpeg(), RAW_HEADERS, key=False).error


def test_the_log_has_the_path_and_neither_query_nor_key(gateway: Gateway) -> None:
    gateway.request("/classify?k=1&secret=abc", small_jpeg(), {"X-Request-Id": "web-request-1"})
    logged = gateway.logged("web-request-1")
    assert (logged["path"], logged["status"]) == ("/classify", "200")
    assert "abc" not in json.dumps(logged)


def test_images_count_in_the_limits_of_inference(server: TritonServer, web: WebCommand) -> None:
    settings: dict[str, str | int] = {"WEB": place(web), "RATE": 1, "BURST": 2}
    with Gateway([ports_of(server)], settings) as gateway:
        responses = [gateway.request("/classify?k=1", small_jpeg()) for _ in range(6)]
        limited = [response for response in responses if response.status == 429]
        assert limited
        assert reason(limited[0]) == "too_many_requests"
        assert limited[0].headers["retry-after"] == "1"
        # The same budget.
        assert gateway.request(INFER, small_jpeg(), RAW_HEADERS).status == 429


def test_an_open_image_counts_as_one_of_the_key(server: TritonServer) -> None:
    """A listener in the application's place takes a request and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings: dict[str, str | int] = {
            "WEB": f"127.0.0.1:{silent.getsockname()[1]}",
            "OPEN_REQUESTS": 1,
            "TIMEOUT_S": 2,
        }
        with Gateway([ports_of(server)], settings) as gateway, ThreadPoolExecutor(1) as threads:
            open_request = threads.submit(gateway.request, "/classify", small_jpeg())
            connection, _ = silent.accept()
            with connection:
                assert gateway.request(INFER, small_jpeg(), RAW_HEADERS).status == 429
                late = open_request.result(timeout=60)
            assert (late.status, reason(late)) == (504, "server_timeout")


def test_a_missing_application_is_503_or_502_and_the_server_goes_on(server: TritonServer) -> None:
    with Gateway([ports_of(server)], {"WEB": f"127.0.0.1:{free_port('127.0.0.1')}"}) as gateway:
        response = gateway.request("/classify", small_jpeg())
        assert (response.status, reason(response)) == (502, "server_unavailable")
        assert response.headers["retry-after"] == "1"
        assert gateway.request(INFER, small_jpeg(), RAW_HEADERS).status == 200


def test_a_busy_application_keeps_its_retry_after(server: TritonServer, tmp_path: Path) -> None:
    """Without a server, the application has 503 with its own Retry-After."""
    options = ["--url", f"grpc://127.0.0.1:{free_port('127.0.0.1')}", "--metrics-url", ""]
    with (
        web_command(tmp_path / "web.log", *options) as alone,
        Gateway([ports_of(server)], {"WEB": place(alone)}) as gateway,
    ):
        connection = gateway.endpoint.connection()
        connection.request("POST", "/classify", small_jpeg(), gateway.endpoint.headers)
        response = connection.getresponse()
        assert (response.status, response.headers.get_all("Retry-After")) == (503, ["1"])
        assert json.loads(response.read())["error"]["reason"] == "server_unavailable"
        connection.close()


def test_large_bodies_have_places_of_their_own(server: TritonServer) -> None:
    """So that the images that jpeg-web passes on leave the server's memory bounded, too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings: dict[str, str | int] = {
            "WEB": f"127.0.0.1:{silent.getsockname()[1]}",
            "SERVER_LARGE_BODIES": 1,
            "TIMEOUT_S": 3,
        }
        with Gateway([ports_of(server)], settings) as gateway, ThreadPoolExecutor(1) as threads:
            open_request = threads.submit(gateway.request, "/classify", bytes(LARGE))
            connection, _ = silent.accept()
            drain = threading.Thread(target=_drain, args=(connection,), daemon=True)
            drain.start()
            refused = gateway.request("/classify", bytes(LARGE))
            assert (refused.status, reason(refused)) == (503, "servers_busy")
            assert open_request.result(timeout=60).status == 504
            connection.close()
            drain.join(timeout=30)


def _drain(connection: socket.socket) -> None:
    try:
        while connection.recv(1 << 20):
            pass
    except OSError:
        pass  # the gateway gave the request up


def test_an_invalid_setting_is_refused(gateway: Gateway) -> None:
    for value in ("nowhere", "http://web:8080", "web:8080; return 200"):
        done = gateway.command("check", GATEWAY_WEB=value)
        assert done.returncode == 2
        assert "GATEWAY_WEB" in done.stderr


def test_without_the_setting_all_of_it_is_closed(server: TritonServer) -> None:
    with Gateway([ports_of(server)]) as gateway:
        for path in ("/classify", "/models", "/stats", "/docs", "/static/app.js"):
            assert gateway.request(path).status == 404
