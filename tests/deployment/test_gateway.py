"""Access, API keys, limits, request ids and the log of the gateway: the real nginx in front of the real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from gateway_support import (
    INFER,
    RAW_HEADERS,
    Gateway,
    grpc_labels,
    infer_request,
    labels,
    ports_of,
    small_jpeg,
    stub,
)
from jpeg_client import Client
from jpeg_client.requests import MAX_REQUEST_BYTES
from jpeg_serve import TritonServer
from support import ROOT, photo
from tritonclient.grpc import service_pb2

PHOTOS = [photo(name) for name in ("chelsea", "coffee", "china")]


@pytest.fixture(scope="module")
def gateway(server: TritonServer) -> Iterator[Gateway]:
    with Gateway([ports_of(server)]) as gateway:
        page = gateway.folder / "web"
        (page / "index.html").write_text("<!doctype html><title>A page</title>")
        (page / "app.js").write_text("export {}")
        (page / ".secret").write_text("not for you")
        yield gateway


def code_of(call: Callable[[], Any]) -> str:
    """Return the name of a call's gRPC status."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


# --- Labels ---


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_labels_are_those_of_the_server(gateway: Gateway, server: TritonServer, protocol: str) -> None:
    """tritonclient with three photos in one request and k = 3, compared with a direct request."""
    with Client(f"grpc://{server.grpc_address}") as client:
        direct = client.classify(PHOTOS, k=3)
    endpoint = gateway.endpoint
    if protocol == "http":
        module: Any = tritonclient.http
        options = {"ca_certs": str(endpoint.certificate)}
        through: Any = module.InferenceServerClient(f"localhost:{endpoint.port}", ssl=True, ssl_options=options)
    else:
        module = tritonclient.grpc
        through = module.InferenceServerClient(
            f"localhost:{endpoint.port}", ssl=True, root_certificates=str(endpoint.certificate)
        )
    tensor = module.InferInput("IMAGE", [3, 1], "BYTES")
    tensor.set_data_from_numpy(np.array(PHOTOS, dtype=object).reshape(-1, 1))
    try:
        headers = {"authorization": f"Bearer {endpoint.key}"}
        assert through.is_server_ready()
        assert through.is_model_ready("jpeg_classifier", headers=headers)
        result = through.infer("jpeg_classifier", [tensor], headers=headers, parameters={"k": 3})
    finally:
        through.close()
    got = [[label.decode() for label in row] for row in result.as_numpy("LABEL")]
    assert got == [list(prediction.labels) for prediction in direct]
    np.testing.assert_array_equal(result.as_numpy("SCORE"), [prediction.scores for prediction in direct])


def test_raw_jpeg_with_k_as_a_header(gateway: Gateway) -> None:
    got = labels(gateway.classify(photo("coffee"), {"k": "2"}))
    assert len(got) == 2
    assert got[0] == "espresso"
    request = infer_request(photo("coffee"))
    with gateway.endpoint.channel() as channel:
        assert grpc_labels(stub(channel).ModelInfer(request, metadata=gateway.endpoint.metadata(k="2"))) == got


def test_chunked_body_reaches_the_server_whole(gateway: Gateway) -> None:
    jpeg = small_jpeg()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (jpeg[:10], jpeg[10:])) + b"0\r\n\r\n"
    headers = {**RAW_HEADERS, "Transfer-Encoding": "chunked"}
    assert labels(gateway.request(INFER, chunks, headers))[0] == "espresso"


def test_longest_request_of_jpeg_client_passes(gateway: Gateway) -> None:
    """jpeg_client splits at MAX_REQUEST_BYTES of images. The server refuses this one, not the gateway."""
    response = gateway.classify(b"\xff\xd8" + bytes(MAX_REQUEST_BYTES))
    assert response.status == 400
    assert "too large" in response.error


def test_errors_of_the_server_pass(gateway: Gateway) -> None:
    assert "not a JPEG" in gateway.classify(b"GIF89a").error
    with gateway.endpoint.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        stub(channel).ModelInfer(infer_request(b"GIF89a"), metadata=gateway.endpoint.metadata())
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "not a JPEG" in refused.value.details()


def test_health_and_metadata(gateway: Gateway) -> None:
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready"):
        assert gateway.request(path, key=False).status == 200, path
    for path in ("/v2", *(f"/v2/models/jpeg_classifier{rest}" for rest in ("", "/ready", "/config"))):
        assert gateway.request(path).status == 200, path
        assert gateway.request(path, key=False).status == 401, path
    assert gateway.request("/v2/models/jpeg_classifier/config").json()["max_batch_size"] == 64
    key = gateway.endpoint.metadata()
    with gateway.endpoint.channel() as channel:
        triton = stub(channel)
        assert triton.ServerLive(service_pb2.ServerLiveRequest()).live
        assert triton.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert triton.ServerMetadata(service_pb2.ServerMetadataRequest(), metadata=key).name == "triton"
        for method, request in (
            (triton.ModelReady, service_pb2.ModelReadyRequest(name="jpeg_classifier")),
            (triton.ModelMetadata, service_pb2.ModelMetadataRequest(name="jpeg_classifier")),
            (triton.ModelConfig, service_pb2.ModelConfigRequest(name="jpeg_classifier")),
        ):
            method(request, metadata=key)
            assert code_of(partial(method, request)) == "UNAUTHENTICATED"
        assert code_of(lambda: triton.ServerMetadata(service_pb2.ServerMetadataRequest())) == "UNAUTHENTICATED"
    health = gateway.command("health")
    assert health.returncode == 0, health.stderr
    assert gateway.command("health", GATEWAY_PORT="1").returncode != 0


# --- Keys ---


def test_requests_without_a_valid_key_are_refused(gateway: Gateway) -> None:
    jpeg, key = small_jpeg(), gateway.endpoint.key
    name, secret = key.split(".")
    wrong = [
        {},
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer "},
        {"X-Api-Key": secret},
        {"X-Api-Key": f"{name}."},
        {"X-Api-Key": f"nobody.{secret}"},
        {"X-Api-Key": f"{name.upper()}.{secret}"},
        {"X-Api-Key": key.swapcase()},
        {"X-Api-Key": key[:-1] + ("A" if key[-1] != "A" else "B")},
        {"X-Api-Key": f"{name}.{'A' * 43}"},
        {"X-Api-Key": gateway.keys.read_text().split('"')[1]},
    ]
    for headers in wrong:
        response = gateway.classify(jpeg, headers, key=False)
        assert response.status == 401, headers
        assert "API key" in response.error
        assert response.headers["content-type"] == "application/json"
        assert response.headers["www-authenticate"] == "Bearer"
    with gateway.endpoint.channel() as channel:
        for headers in wrong:
            metadata = [(header.lower(), value) for header, value in headers.items()]
            call = partial(stub(channel).ModelInfer, infer_request(jpeg), metadata=metadata)
            assert code_of(call) == "UNAUTHENTICATED"
        metadata = [("x-api-key", key)]
        assert code_of(lambda: stub(channel).ModelInfer(infer_request(jpeg), metadata=metadata)) == "OK"
    assert gateway.classify(jpeg, {"X-Api-Key": key}, key=False).status == 200


def test_adding_removing_and_expiring_keys(server: TritonServer) -> None:
    with Gateway([ports_of(server)]) as gateway:
        for_ever, past = (gateway.secrets("add", gateway.keys, *rest).strip() for rest in (["a-b_1"], ["old", "0"]))
        text = gateway.keys.read_text()
        # The file holds digests only, and one user can read it.
        assert for_ever not in text
        assert for_ever.split(".")[1] not in text
        assert stat.S_IMODE(gateway.keys.stat().st_mode) == 0o600
        assert stat.S_IMODE((gateway.folder / "secrets" / "certificate.key").stat().st_mode) == 0o600

        def status(key: str) -> int:
            return gateway.request("/v2", headers={"X-Api-Key": key}, key=False).status

        def reload() -> None:
            """Reload, and wait until the old workers have ended."""
            old = workers(gateway)
            done = gateway.command("reload")
            assert done.returncode == 0, done.stderr
            limit = time.monotonic() + 10
            while old & workers(gateway):
                assert time.monotonic() < limit
                time.sleep(0.05)

        time.sleep(1.1)  # the key for 0 days expires within its second
        reload()
        assert (status(for_ever), status(past), status(gateway.endpoint.key)) == (200, 401, 200)
        gateway.secrets("remove", gateway.keys, "first")
        reload()
        assert (status(for_ever), status(gateway.endpoint.key)) == (200, 401)
        # The gateway rejects a damaged file and keeps the old keys.
        gateway.keys.write_text("this is no list of keys {")
        assert gateway.command("reload").returncode != 0
        assert status(for_ever) == 200


def test_key_expires_without_a_reload(server: TritonServer) -> None:
    with Gateway([ports_of(server)]) as gateway:
        key = gateway.secrets("add", gateway.keys, "soon", "1").strip()
        # DAYS are days: the test shortens what secrets.sh wrote.
        text = gateway.keys.read_text()
        gateway.keys.write_text(re.sub(r",\d+", f",{int(time.time()) + 4}", text))
        assert gateway.command("reload").returncode == 0

        def status() -> int:
            return gateway.request("/v2", headers={"X-Api-Key": key}, key=False).status

        limit = time.monotonic() + 3
        while status() != 200:  # an old worker may still take a connection
            assert time.monotonic() < limit
            time.sleep(0.1)
        limit = time.monotonic() + 10
        while status() != 401:
            assert time.monotonic() < limit
            time.sleep(0.2)
        assert gateway.request("/v2").status == 200


def test_requests_without_a_key_meet_no_rate_limit(server: TritonServer) -> None:
    with Gateway([ports_of(server)], {"RATE": 1, "BURST": 1}) as gateway:
        assert {gateway.classify(small_jpeg(), key=False).status for _ in range(12)} == {401}


def workers(gateway: Gateway) -> set[int]:
    """Return the process ids of nginx's workers."""
    children = f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children"
    with open(children) as stream:  # noqa: PTH123  # a file of the kernel
        pids = {int(pid) for pid in stream.read().split()}
    # Beside them is the shell that copies the errors.
    return {pid for pid in pids if b"nginx: worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


# --- Limits ---


def test_too_long_requests_are_refused(server: TritonServer) -> None:
    with Gateway([ports_of(server)], {"MAX_BODY_MB": 1}) as gateway:
        jpeg = small_jpeg()
        long = jpeg + bytes(2**20)
        response = gateway.classify(long)
        assert response.status == 413
        assert "1 MiB" in response.error
        # Without a Content-Length the gateway notices while it reads.
        pieces = b"".join(b"10000\r\n%s\r\n" % bytes(65536) for _ in range(20)) + b"0\r\n\r\n"
        assert gateway.request(INFER, pieces, {**RAW_HEADERS, "Transfer-Encoding": "chunked"}).status == 413
        with gateway.endpoint.channel() as channel:
            metadata = gateway.endpoint.metadata()
            assert code_of(lambda: stub(channel).ModelInfer(infer_request(long), metadata=metadata)) == (
                "RESOURCE_EXHAUSTED"
            )
            assert code_of(lambda: stub(channel).ModelInfer(infer_request(jpeg), metadata=metadata)) == "OK"
        # Only an inference takes a larger body.
        assert gateway.request("/v2/health/ready", bytes(2000), method="GET").status == 413
        headers = {"X-Long": "x" * 40_000}
        assert gateway.request("/v2", headers=headers).status == 400


def test_request_rate_is_limited_per_key(server: TritonServer) -> None:
    with Gateway([ports_of(server)], {"RATE": 1, "BURST": 2}) as gateway:
        responses = [gateway.request("/v2") for _ in range(6)]
        assert [response.status for response in responses] == [200] * 3 + [429] * 3
        assert responses[-1].headers["retry-after"] == "1"
        assert "too many" in responses[-1].error
        with gateway.endpoint.channel() as channel:
            metadata = gateway.endpoint.metadata()
            assert code_of(lambda: stub(channel).ModelInfer(infer_request(b"x"), metadata=metadata)) == (
                "RESOURCE_EXHAUSTED"
            )
        other = gateway.secrets("add", gateway.keys, "other").strip()
        assert gateway.command("reload").returncode == 0
        limit = time.monotonic() + 5
        while gateway.request("/v2", headers={"X-Api-Key": other}, key=False).status == 401:
            assert time.monotonic() < limit
            time.sleep(0.5)
        assert gateway.request("/v2", headers={"X-Api-Key": other}, key=False).status in (200, 429)
        # Requests without a key share the limit of their address.
        assert 429 in [gateway.request("/v2/health/live", key=False).status for _ in range(8)]


def test_the_number_of_requests_ends_no_connection(gateway: Gateway) -> None:
    """A request that crosses GOAWAY is lost; nginx's default ends a connection after 1,000 requests."""
    request = service_pb2.ModelReadyRequest(name="preprocess")  # refused without a server

    async def statuses(count: int) -> Counter[str]:
        credentials = grpc.ssl_channel_credentials(gateway.endpoint.certificate.read_bytes())
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.secure_channel(f"localhost:{gateway.endpoint.port}", credentials, options) as channel:
            found: Counter[str] = Counter()

            async def send() -> None:
                for _ in range(count // 30):
                    try:
                        await stub(channel).ModelReady(request, metadata=gateway.endpoint.metadata())
                    except grpc.aio.AioRpcError as error:
                        found[error.code().name] += 1

            await asyncio.gather(*(send() for _ in range(30)))
            return found

    assert asyncio.run(statuses(4500)) == {"PERMISSION_DENIED": 4500}


def test_concurrency_is_limited_per_key(server: TritonServer) -> None:
    with Gateway([ports_of(server)], {"OPEN_REQUESTS": 2}) as gateway:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {gateway.endpoint.key}\r\nContent-Length: 99\r\n\r\n"
        with gateway.endpoint.stream() as first, gateway.endpoint.stream() as second:
            for stream in (first, second):
                stream.sendall(head.encode() + b"half")
            limit = time.monotonic() + 5
            while gateway.request("/v2").status != 429:
                assert time.monotonic() < limit
        limit = time.monotonic() + 5
        while gateway.request("/v2").status != 200:
            assert time.monotonic() < limit


def test_slow_clients_are_disconnected(server: TritonServer) -> None:
    with Gateway([ports_of(server)], {"CLIENT_TIMEOUT_S": 1}) as gateway:
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {gateway.endpoint.key}\r\nContent-Length: 99999\r\n\r\n"
        # A header whose bytes each arrive in time but that never ends; a body that stops; a TLS handshake that never
        # begins.
        with gateway.endpoint.stream() as slow:
            begun = time.monotonic()
            with pytest.raises(OSError):  # reset or broken pipe
                while time.monotonic() - begun < 10:
                    slow.sendall(b"G")
                    time.sleep(0.2)
            assert time.monotonic() - begun < 5
        begun = time.monotonic()
        gateway.send(head.encode() + b"and no more")
        assert time.monotonic() - begun < 5
        with socket.create_connection(("localhost", gateway.endpoint.port), timeout=10) as silent:
            begun = time.monotonic()
            assert silent.recv(1) == b""
            assert time.monotonic() - begun < 5
        # Other clients are served meanwhile.
        assert gateway.classify(small_jpeg()).status == 200


# --- Unresponsive servers ---


def test_no_server_and_a_hanging_server(server: TritonServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = hangs.getsockname()[1], closed.getsockname()[1]
        closed.close()
        for port, status, word, code in (
            (ports[1], 502, "no server answers", "UNAVAILABLE"),
            (ports[0], 504, "in time", "DEADLINE_EXCEEDED"),
        ):
            with Gateway([f"127.0.0.1:{port}:{port}"], {"TIMEOUT_S": 1}) as gateway:
                response = gateway.classify(b"x")
                assert response.status == status
                assert word in response.error
                with gateway.endpoint.channel() as channel:
                    metadata = gateway.endpoint.metadata()
                    call = partial(stub(channel).ModelInfer, infer_request(b"x"), metadata=metadata)
                    assert code_of(call) == code


# --- Request ids and the log ---


def test_request_ids(gateway: Gateway) -> None:
    jpeg = small_jpeg()
    mine = "order-4711_a.b"
    assert gateway.classify(jpeg, {"X-Request-Id": mine}).headers["x-request-id"] == mine
    line = gateway.logged(mine)
    assert (line["client"], line["status"], line["path"]) == ("first", "200", INFER)
    for bad in ("short", "x" * 65, "with space in", 'quote"quote', "line\tbreak!", "<script>alert</script>"):
        made = gateway.classify(jpeg, {"X-Request-Id": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made), (bad, made)
    refused = gateway.classify(jpeg, {"X-Request-Id": mine}, key=False)
    assert (refused.status, refused.headers["x-request-id"]) == (401, mine)
    with gateway.endpoint.channel() as channel:
        call = stub(channel).ModelInfer.with_call
        _, done = call(infer_request(jpeg), metadata=gateway.endpoint.metadata(**{"x-request-id": "over-grpc-1"}))
        assert dict(done.initial_metadata())["x-request-id"] == "over-grpc-1"
        with pytest.raises(grpc.RpcError) as refusal:
            call(infer_request(jpeg), metadata=[("x-request-id", "over-grpc-2")])
        sent = [*(refusal.value.initial_metadata() or ()), *(refusal.value.trailing_metadata() or ())]
        assert ("x-request-id", "over-grpc-2") in [(name, value) for name, value in sent]
    assert gateway.logged("over-grpc-1")["grpc_status"] == "0"
    assert gateway.logged("over-grpc-2")["grpc_status"] == "16"


def test_headers_that_reach_the_server(server: TritonServer) -> None:
    """A socket in place of the server records the gateway's request."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Gateway([f"127.0.0.1:{listener.getsockname()[1]}:1"], {"TIMEOUT_S": 1, "TRACE_CONTEXT": "on"}) as gateway,
    ):
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        sent = {
            "X-Request-Id": "order-4711",
            "Cookie": "k=3",
            "admin-key": "guess",
            "X-K": "3",
            "traceparent": trace,
            "Accept-Encoding": "gzip",
            "k": "3",
        }
        gateway.classify(b"x", sent)
        server_side, _ = listener.accept()
        with server_side:
            got = server_side.recv(65536).decode()
        request, _, body = got.partition("\r\n\r\n")
        first, *lines = request.split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert first == f"POST {INFER} HTTP/1.1"
    assert body == "x"
    assert headers.pop("host") == f"localhost:{gateway.endpoint.port}"
    assert headers == {
        "content-length": "1",
        "content-type": "application/octet-stream",
        "inference-header-content-length": "0",
        "k": "3",
        "x-request-id": "order-4711",
        "traceparent": trace,
    }


def test_the_log_holds_no_secret_and_no_image(gateway: Gateway) -> None:
    jpeg = small_jpeg()
    key = gateway.endpoint.key
    gateway.classify(jpeg)
    gateway.classify(jpeg, {"X-Api-Key": key}, key=False)
    gateway.request(f"/v2?key={key}", headers={"X-Request-Id": "with-a-query"})
    # nginx writes an error for a body that is too long, with the whole request.
    assert gateway.request(f"/page?key={key}&x=1", bytes(4096), {"Referer": f"https://x/?key={key}"}).status == 413
    gateway.request('/"},{"x":"', headers={"User-Agent": 'a"b\\c\x01', "X-Request-Id": "with-quotes"}, key=False)
    with gateway.endpoint.channel() as channel:
        stub(channel).ModelInfer(infer_request(jpeg), metadata=gateway.endpoint.metadata())
    assert gateway.logged("with-a-query")["path"] == "/v2"
    assert gateway.logged("with-quotes")["path"] == '/"},{"x":"'
    text = gateway.log.read_text() + (gateway.folder / "nginx.log").read_text()
    for line in gateway.log.read_text().splitlines():
        assert isinstance(json.loads(line), dict)
    assert '"POST /page?... HTTP/1.1"' in text
    for secret in (key, key.split(".")[1], gateway.keys.read_text().split('"')[1], "Bearer", "JFIF"):
        assert secret not in text
    # No photo is on a disk.
    assert [
        path for path in (gateway.folder / "run").rglob("*") if path.is_file() and b"JFIF" in path.read_bytes()
    ] == []


# --- The page ---


def test_web_page_and_its_headers(gateway: Gateway) -> None:
    page = gateway.request("/", key=False)
    assert page.status == 200
    assert b"A page" in page.body
    assert page.headers["content-type"] == "text/html"
    assert page.headers["server"] == "nginx"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-cache"
    script = gateway.request("/app.js?v=1", key=False)
    assert (script.status, script.headers["content-type"]) == (200, "text/javascript")
    assert gateway.request("/app.js", method="HEAD", key=False).body == b""
    for path in (
        "/.secret",
        "/nothing",
        "/../run/nginx.conf",
        "/%2e%2e/secrets/keys",
        "/..%2fsecrets/keys",
        "/a\\..\\b",
    ):
        response = gateway.request(path, key=False)
        assert response.status in (400, 404), path
        assert response.error
    assert gateway.request("/app.js", b"x", key=False).status == 405


# --- The configuration ---

OTHER_SETTINGS = {
    "GATEWAY_SERVERS": "127.0.0.1:8000:8001 [::1]:8000:8001 localhost:9000:9001",
    "GATEWAY_MODELS": "another-model_2 x",
    "GATEWAY_PRIVATE_MODELS": "one two",
    "GATEWAY_ADDRESS": "[::]",
    "GATEWAY_PORT": "9443",
    "GATEWAY_MAX_BODY_MB": "7",
    "GATEWAY_RATE": "3",
    "GATEWAY_BURST": "1",
    "GATEWAY_OPEN_REQUESTS": "9",
    "GATEWAY_OPEN_BODIES": "6",
    "GATEWAY_SERVER_OPEN_REQUESTS": "8",
    "GATEWAY_SERVER_LARGE_BODIES": "2",
    "GATEWAY_CONNECTION_AGE_S": "9",
    "GATEWAY_CONNECTIONS": "512",
    "GATEWAY_TIMEOUT_S": "5",
    "GATEWAY_CLIENT_TIMEOUT_S": "2",
    "GATEWAY_WEB": "localhost:8080",
    "GATEWAY_WORKERS": "3",
    "GATEWAY_HSTS_S": "0",
    "GATEWAY_TRACE_CONTEXT": "on",
}


def test_nginx_takes_every_setting(gateway: Gateway) -> None:
    script = (ROOT / "deploy" / "gateway" / "gateway.sh").read_text()
    known = set(re.findall(r": \"\$\{(GATEWAY_[A-Z_]+):=", script))
    # The remaining settings are paths, which the fixture sets.
    assert known - set(OTHER_SETTINGS) == {
        "GATEWAY_KEYS",
        "GATEWAY_CERTIFICATE",
        "GATEWAY_CERTIFICATE_KEY",
        "GATEWAY_WEB_ROOT",
        "GATEWAY_RUN",
        "GATEWAY_ACCESS_LOG",
        "GATEWAY_NGINX",
    }
    run = str(gateway.folder / "checked")
    done = gateway.command("check", GATEWAY_RUN=run, **OTHER_SETTINGS)
    assert done.returncode == 0, done.stderr
    assert "test is successful" in done.stderr
    assert "[warn]" not in done.stderr
    for name in (
        "GATEWAY_RATE",
        "GATEWAY_BURST",
        "GATEWAY_WORKERS",
        "GATEWAY_MAX_BODY_MB",
        "GATEWAY_ADDRESS",
        "GATEWAY_PORT",
    ):
        # An empty variable is one that is not set.
        assert gateway.command("check", GATEWAY_RUN=run, **{name: ""}).returncode == 0, name


def test_too_few_open_files_are_named(gateway: Gateway) -> None:
    done = gateway.command("check", GATEWAY_CONNECTIONS="999999999")
    assert done.returncode == 1
    assert "999999999" in done.stderr
    assert "may open only" in done.stderr


def test_settings_bring_no_directives(gateway: Gateway) -> None:
    script = (ROOT / "deploy" / "gateway" / "gateway.sh").read_text()
    names = set(re.findall(r": \"\$\{(GATEWAY_[A-Z_]+):=", script)) - {"GATEWAY_NGINX"}
    for name in sorted(names):
        for value in ("1; load_module x", "1\n2", "${GATEWAY_KEYS}"):
            done = gateway.command("check", **{name: value})
            assert done.returncode == 2, (name, value, done.stderr)
            assert name in done.stderr


def test_the_documentation_names_every_setting() -> None:
    script = (ROOT / "deploy" / "gateway" / "gateway.sh").read_text()
    page = (ROOT / "docs" / "gateway.md").read_text()
    for name, default in re.findall(r": \"\$\{(GATEWAY_[A-Z_]+):=([^}]*)\}", script):
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}`")), None)
        assert row is not None, name
        assert default in row, name


def test_missing_secrets_and_root_are_named(gateway: Gateway) -> None:
    done = gateway.command("check", GATEWAY_KEYS="/nowhere/keys")
    assert done.returncode == 1
    assert "/nowhere/keys" in done.stderr
    assert gateway.command("fly").returncode == 2
    if os.geteuid() == 0:
        from support import run

        refused = run(gateway.folder / "gateway" / "gateway.sh", "check", env=gateway.environment)
        assert refused.returncode == 2
        assert "not as root" in refused.stderr
