"""`jpeg-web` as a command, and the statuses of the client's errors."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from jpeg_client import errors
from jpeg_web.failures import from_client_error
from support import photo, run_module
from web_command import wait_until, web_command

COFFEE = photo("coffee")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--url", "nothing"], "invalid_url"),
        (["--url", "grpc://user:secret@host:1"], "invalid_url"),
        (["--metrics-url", "https://host/metrics"], "invalid_metrics_url"),
        (["--cors", "https://example.org/path"], "invalid_origin"),
        (["--cors", "example.org"], "invalid_origin"),
        (["--root-path", "jpeg"], "invalid_call"),
        (["--port", "70000"], "invalid_call"),
        (["--timeout-s", "0"], "invalid_call"),
        (["--timeout-s", "100000"], "invalid_timeout"),
        (["--api-key", "n.SECRET"], "invalid_call"),
        (["--api-key-file", "/nonexistent"], "file_missing"),
        (["--ca", "/nonexistent"], "file_missing"),
    ],
)
def test_an_invalid_call_is_2_with_a_reason(options, reason):
    done = run_module("jpeg_web", *options)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"[{reason}]")
    assert "Traceback" not in done.stderr
    assert "SECRET" not in done.stderr.replace("--api-key-file", "")


def test_a_taken_port_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_module("jpeg_web", "--port", str(port))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("[port_taken]")
    assert f"port {port}" in line
    assert "--port" in line


def read_all(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_the_open_requests(server, tmp_path, number):
    options = ["--url", f"grpc://{server.grpc_address}", "--metrics-url", ""]
    with web_command(tmp_path / "log", *options) as web, ThreadPoolExecutor(1) as threads:
        port = int(web.url.rpartition(":")[2])
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        head = (
            f"POST /classify?k=1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(COFFEE)}\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert b" 100 " in connection.recv(100)  # the request is open
        web.process.send_signal(number)

        def refuses() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(refuses)
        connection.sendall(COFFEE)
        answer = threads.submit(read_all, connection).result(timeout=60)
        connection.close()
        assert b" 200 OK" in answer
        assert b"espresso" in answer
        assert web.process.wait(timeout=30) == 0
        assert "Traceback" not in web.log.read_text()


@pytest.mark.parametrize(
    ("error", "status", "reason", "retry_after"),
    [
        (errors.ServerUnavailable("grpc://inside:1", reason="queue_full"), 503, "queue_full", "1"),
        (errors.ServerUnavailable("x", reason="server_stopping", wait_s=2.5), 503, "server_stopping", "3"),
        (errors.RequestLost("grpc://inside:1", wait_s=5.0), 503, "request_lost", "5"),
        (errors.TooManyRequests("grpc://inside:1", "429", 7.0), 429, "too_many_requests", "7"),
        (errors.ServerTimeout("grpc://inside:1"), 504, "server_timeout", None),
        (errors.InvalidResponse("grpc://inside:1", reason="wrong_checksum"), 502, "wrong_checksum", None),
        (errors.ProtocolMismatch("grpc://inside:1"), 502, "protocol_mismatch", None),
        (errors.CertificateRefused("grpc://inside:1"), 502, "certificate_refused", None),
        (errors.RequestRefused("grpc://inside:1", "401", reason="api_key_rejected"), 502, "api_key_rejected", None),
        (errors.RequestRefused("grpc://inside:1", "413", reason="request_too_large"), 413, "request_too_large", None),
        (errors.RequestRefused("grpc://inside:1", "404", reason="not_found"), 404, "unknown_model", None),
        (errors.RequestRefused("grpc://inside:1", "NOT_FOUND", reason="unknown_model"), 404, "unknown_model", None),
        (errors.RequestRefused("k must be small", "400", reason="invalid_k"), 400, "invalid_k", None),
        (errors.RequestRefused("odd", "400", reason="no_usable_image"), 400, "no_usable_image", None),
        (errors.InvalidArgument("odd", reason="invalid_k"), 400, "invalid_k", None),
        (errors.JpegClientError("grpc://inside:1", reason="not_an_ensemble"), 502, "not_an_ensemble", None),
    ],
)
def test_each_error_of_the_client_has_a_status(error, status, reason, retry_after):
    failure = from_client_error(error)
    assert (failure.status, failure.reason) == (status, reason)
    assert failure.headers.get("Retry-After") == retry_after
    assert "inside" not in str(failure)


def test_several_models_can_be_named(server, tmp_path):
    options = [
        "--url",
        f"http://{server.http_address}",
        "--metrics-url",
        "",
        "--model",
        "jpeg_classifier",
        "--model",
        "b",
    ]
    with web_command(tmp_path / "log", *options) as web:
        names = [model["name"] for model in httpx2.get(f"{web.url}/models").json()["models"]]
        response = httpx2.post(f"{web.url}/classify?k=1", content=COFFEE)
    assert names == ["jpeg_classifier", "b"]
    assert response.json()["results"][0]["predictions"][0]["label"] == "espresso"
