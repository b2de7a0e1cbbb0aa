"""The gateway closes every path and method that users do not need, over HTTP and gRPC, also with a valid key."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from gateway_support import INFER, RAW_HEADERS, Gateway, Response, infer_request, ports_of, small_jpeg, stub
from jpeg_serve import TritonServer
from tritonclient.grpc import service_pb2

INTERNAL = ("preprocess", "classifier_onnx", "postprocess")
SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
OPEN_METHODS = {
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelInfer",
}


@pytest.fixture(scope="module")
def gateway(server: TritonServer) -> Iterator[Gateway]:
    with Gateway([ports_of(server)]) as gateway:
        yield gateway


def server_status(server: TritonServer, method: str, path: str) -> int:
    """Return the status of the server's own response."""
    connection = http.client.HTTPConnection(server.http_address, timeout=30)
    try:
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        return connection.getresponse().status
    finally:
        connection.close()


def upstream(gateway: Gateway, request_id: str) -> str:
    """Return the server that received a request, empty if none did."""
    return gateway.logged(request_id)["server"]


# --- HTTP ---

# Triton responds to all of these with another status than 404, so each path exists.
CLOSED = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/jpeg_classifier/load"),
    ("POST", "/v2/repository/models/jpeg_classifier/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/x/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/x/register"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/models/jpeg_classifier/trace/setting"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/jpeg_classifier/stats"),
    ("POST", "/v2/models/jpeg_classifier/generate"),
    ("POST", "/v2/models/jpeg_classifier/generate_stream"),
    ("POST", "/v2/models/jpeg_classifier/versions/1/infer"),
    ("GET", "/v2/models/jpeg_classifier/versions/1"),
    ("GET", "/v2/models/jpeg_classifier/versions/1/config"),
    *(("GET", f"/v2/models/{model}{rest}") for model in INTERNAL for rest in ("", "/ready", "/stats")),
    *(("POST", f"/v2/models/{model}/infer") for model in INTERNAL),
]


@pytest.mark.parametrize(("method", "path"), CLOSED, ids=[f"{method} {path}" for method, path in CLOSED])
def test_closed_path(gateway: Gateway, server: TritonServer, method: str, path: str) -> None:
    assert server_status(server, method, path) != 404, "Triton has no such path"
    for key in (True, False):
        response = gateway.request(path, b"{}" if method == "POST" else None, method=method, key=key)
        assert response.status == 404
        assert response.error == "this gateway has nothing at that path"
        assert upstream(gateway, response.headers["x-request-id"]) == ""


def test_metrics_and_internal_paths_are_closed(gateway: Gateway) -> None:
    for path in ("/metrics", "/v2/metrics", "/nginx_status", "/_read", "/_error/http/401", "/_error/grpc/401"):
        assert gateway.request(path).status == 404, path


ALTERNATIVE_PATHS = [
    "/v2/models/jpeg_classifier/../../repository/index",
    "/v2/models/jpeg_classifier/infer/../../classifier_onnx/infer",
    "/v2/models/jpeg_classifier/%2e%2e/classifier_onnx/infer",
    "/v2/models/jpeg_classifier/..%2fclassifier_onnx/infer",
    "/v2/models/jpeg_classifier%2f..%2fclassifier_onnx/infer",
    "/v2/models/%2e/jpeg_classifier/infer",
    "/v2//models/jpeg_classifier/infer",
    "//v2/models/jpeg_classifier/infer",
    "//evil.example/v2/repository/index",
    "/v2/models/jpeg_classifier/infer/",
    "/v2/models/jpeg_classifier/infer?x=1",
    "/v2/models/jpeg_classifier/infer?",
    "/v2/models/jpeg_classifier/infer;x",
    "/v2/models/jpeg_classifier/infer%20",
    "/v2/models/jpeg_classifier/infer%0a",
    "/v2/models/jpeg_classifier/infer%23",
    "/v2/models/jpeg_classifier/infer#x",
    "/v2/models/jpeg_classifie%72/infer",
    "/V2/models/jpeg_classifier/infer",
    "/v2/models/JPEG_CLASSIFIER/infer",
    "/v2/Repository/index",
    "/v2%2frepository%2findex",
    "/%76%32/repository/index",
    "/v2/./repository/index",
    "/x/../v2/repository/index",
    "/v2/repository/index%3f",
    "\\v2\\repository\\index",
    "/v2/models/jpeg_classifier/config?x",
    "/v2/health/ready/",
    "/v2/health/../repository/index",
    "https://localhost/v2/repository/index",
    "http://127.0.0.1:8000/v2/models/classifier_onnx/infer",
]


@pytest.mark.parametrize("path", ALTERNATIVE_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_alternative_spelling_of_a_path_is_refused(gateway: Gateway, path: str, method: str) -> None:
    body = b"x" if method == "POST" else b""
    raw = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {gateway.endpoint.key}\r\nConnection: close\r\n"
    response = gateway.send(raw.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    status, headers = _parse(response)
    # 405: a path of the web page, which takes no POST.
    assert status in (400, 404, 405), response
    assert upstream(gateway, headers["x-request-id"]) == ""


def _parse(raw: bytes) -> tuple[int, dict[str, str]]:
    head = raw.split(b"\r\n\r\n", 1)[0].decode()
    first, *lines = head.split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in pairs}


def test_absolute_form_of_the_target_is_the_same_path(gateway: Gateway) -> None:
    """RFC 9112 allows the absolute form; it opens nothing else."""
    head = f"GET https://elsewhere.example/v2 HTTP/1.1\nHost: x\nX-Api-Key: {gateway.endpoint.key}\n"
    assert _parse(gateway.send(lines_of(f"{head}Connection: close\n\n")))[0] == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "PROPFIND", "infer"])
def test_inference_takes_post_only(gateway: Gateway, method: str) -> None:
    response = gateway.request(INFER, method=method)
    assert response.status in (400, 405)
    assert gateway.request("/v2/health/ready", b"", method="POST").status == 405
    assert gateway.request("/v2", b"", method="DELETE").status == 405


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_unused_methods_are_refused(gateway: Gateway, method: str) -> None:
    assert gateway.request("/v2/health/ready", method=method).status in (400, 405)


def test_compressed_bodies_and_invalid_lengths_are_refused(gateway: Gateway) -> None:
    jpeg = small_jpeg()
    for encoding in ("gzip", "deflate", "GZIP", "identity, gzip", "br"):
        assert gateway.classify(jpeg, {"Content-Encoding": encoding}).status == 415, encoding
    assert gateway.classify(jpeg, {"Content-Encoding": "identity"}).status == 200
    for length in ("-1", "0x0", "1e3", "999999999999999999999", "0 0", "0,0"):
        assert gateway.classify(jpeg, {"Inference-Header-Content-Length": length}).status == 400, length


def lines_of(head: str) -> bytes:
    return head.replace("\n", "\r\n").encode()


SMUGGLED = "GET /v2/repository/index HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 5",
        "Transfer-Encoding: chunked\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Content-Length: 5\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length: -5",
        "Transfer-Encoding : chunked",
        "Content-Length: 5\n Transfer-Encoding: chunked",
    ],
)
def test_ambiguous_framing_is_refused(gateway: Gateway, framing: str) -> None:
    """A request with two readings gets one error response and a closed connection, and reaches no server."""
    head = f"POST {INFER} HTTP/1.1\nHost: x\nX-Api-Key: {gateway.endpoint.key}\n{framing}\n\n"
    response = gateway.send(lines_of(head) + b"0\r\n\r\n" + SMUGGLED.encode())
    assert response.count(b"HTTP/1.1 ") == 1, response
    status, headers = _parse(response)
    assert status == 400, response
    assert upstream(gateway, headers["x-request-id"]) == ""


def test_pipelined_request_passes_the_same_checks(gateway: Gateway) -> None:
    head = f"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nX-Api-Key: {gateway.endpoint.key}\r\n"
    response = gateway.send(
        f"{head}\r\n{head.replace('/v2/health/ready', '/v2/repository/index')}Connection: close\r\n\r\n".encode()
    )
    assert [part[:3] for part in response.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"]


def test_plain_http_and_invalid_requests_get_an_error(gateway: Gateway) -> None:
    import socket

    with socket.create_connection(("localhost", gateway.endpoint.port), timeout=10) as plain:
        plain.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        response = plain.recv(65536)
    assert _parse(response)[0] == 400
    assert b"[tls_required]" in response
    for raw in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ):
        received = gateway.send(raw)
        assert b" 200 " not in received[:20], (raw, received)
    assert gateway.request("/healthz").status == 200


def test_old_tls_is_refused(gateway: Gateway) -> None:
    import socket
    import ssl
    import warnings

    context = gateway.endpoint.tls()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old protocol versions
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with (
        socket.create_connection(("localhost", gateway.endpoint.port), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


# --- gRPC ---


def call(gateway: Gateway, path: str, message: bytes, **metadata: str) -> tuple[str, str]:
    """Send raw bytes to a method; return the name of the status, and its details."""
    with gateway.endpoint.channel() as channel:
        method = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            method(message, metadata=gateway.endpoint.metadata(**metadata), timeout=20)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""


def method(name: str) -> str:
    return f"/inference.GRPCInferenceService/{name}"


@pytest.mark.parametrize("name", sorted({each.name for each in SERVICE.methods} - OPEN_METHODS))
def test_closed_method(gateway: Gateway, name: str) -> None:
    status, details = call(gateway, method(name), b"", **{"x-request-id": f"closed-{name}"})
    assert (status, details) == ("UNIMPLEMENTED", "this gateway does not offer that method")
    assert upstream(gateway, f"closed-{name}") == ""


def test_open_methods_exist() -> None:
    assert {each.name for each in SERVICE.methods} > OPEN_METHODS


@pytest.mark.parametrize(
    "path",
    [
        "/inference.GRPCInferenceService/modelinfer",
        "/inference.GRPCInferenceService/ModelInfer/",
        "/inference.GRPCInferenceService/ModelInfer?x",
        "/inference.GRPCInferenceService/../inference.GRPCInferenceService/RepositoryIndex",
        "//inference.GRPCInferenceService/RepositoryIndex",
        "/inference.GRPCInferenceService/Repository%49ndex",
        "/inference.GRPCInferenceService/ServerLive%2f..%2fRepositoryIndex",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Watch",
        "/v2/models/jpeg_classifier/infer",
        "/",
    ],
)
def test_alternative_spelling_of_a_method_is_refused(gateway: Gateway, path: str) -> None:
    status, _ = call(gateway, path, b"", **{"x-request-id": "alternative-method"})
    assert status == "UNIMPLEMENTED"


def test_the_health_service_is_open(gateway: Gateway) -> None:
    assert call(gateway, "/grpc.health.v1.Health/Check", b"")[0] == "OK"


@pytest.mark.parametrize("model", [*INTERNAL, "jpeg_classifier2", "jpeg", ""])
def test_other_models_are_closed(gateway: Gateway, model: str) -> None:
    assert call(gateway, method("ModelInfer"), infer_request(small_jpeg(), model).SerializeToString())[0] == (
        "PERMISSION_DENIED"
    )
    # The config of a step is open (test_gateway_models.py).
    for name in ("ModelReady", "ModelMetadata", *(["ModelConfig"] if model not in INTERNAL else [])):
        request = getattr(service_pb2, f"{name}Request")(name=model)
        assert call(gateway, method(name), request.SerializeToString())[0] == "PERMISSION_DENIED"


@pytest.mark.parametrize("version", ["1", "2", "x"])
def test_versions_are_closed(gateway: Gateway, version: str) -> None:
    request = infer_request(small_jpeg())
    request.model_version = version
    assert call(gateway, method("ModelInfer"), request.SerializeToString())[0] == "PERMISSION_DENIED"
    for name in ("ModelReady", "ModelMetadata", "ModelConfig"):
        message = getattr(service_pb2, f"{name}Request")(name="jpeg_classifier", version=version)
        assert call(gateway, method(name), message.SerializeToString())[0] == "PERMISSION_DENIED"


def field(number: int, value: bytes, tag_padding: int = 0, length_padding: int = 0) -> bytes:
    """Encode a length-delimited field of protobuf with padded varints, which parsers accept."""
    return _varint(number << 3 | 2, tag_padding) + _varint(len(value), length_padding) + value


def _varint(number: int, padding: int) -> bytes:
    assert number < 128
    return bytes([number]) if padding == 0 else bytes([number | 128]) + b"\x80" * (padding - 1) + b"\x00"


@pytest.mark.parametrize("model", INTERNAL)
@pytest.mark.parametrize("paddings", [(0, 0), (1, 0), (0, 1), (1, 1), (3, 4)])
def test_second_model_name_in_the_message_is_refused(
    gateway: Gateway, server: TritonServer, model: str, paddings: tuple[int, int]
) -> None:
    """Protobuf takes the last of two values: the server would run the internal model."""
    good = infer_request(small_jpeg()).SerializeToString()
    twice = good + field(1, model.encode(), *paddings)
    assert service_pb2.ModelInferRequest.FromString(twice).model_name == model
    assert call(gateway, method("ModelInfer"), twice)[0] == "PERMISSION_DENIED"
    assert call(gateway, method("ModelInfer"), good)[0] == "OK"
    ready = service_pb2.ModelReadyRequest(name="jpeg_classifier").SerializeToString()
    assert call(gateway, method("ModelConfig"), ready + field(1, model.encode(), *paddings))[0] == "PERMISSION_DENIED"
    with grpc.insecure_channel(server.grpc_address) as channel:
        # Without the gateway, the server responds.
        config = channel.unary_unary(method("ModelConfig"), request_serializer=bytes, response_deserializer=bytes)
        assert model.encode() in config(ready + field(1, model.encode(), *paddings))


def test_compressed_messages_are_refused(gateway: Gateway) -> None:
    request = infer_request(small_jpeg())
    with gateway.endpoint.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        stub(channel).ModelInfer(request, metadata=gateway.endpoint.metadata(), compression=grpc.Compression.Gzip)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_grpc_path_over_http_1_and_http_path_as_grpc_are_refused(gateway: Gateway) -> None:
    path = method("ModelInfer")
    assert gateway.request(path, b"x").status == 415
    response: Response = gateway.request(path, b"x", {"Content-Type": "application/grpc"})
    assert response.headers["grpc-status"] == "3"
    assert gateway.request(INFER, b"x", {**RAW_HEADERS, "Content-Type": "application/grpc-web"}).status in (400, 415)


def test_concurrent_streams_are_bounded(gateway: Gateway) -> None:
    """Calls beyond the limit of HTTP/2 streams wait, or get RESOURCE_EXHAUSTED."""
    request = service_pb2.ServerReadyRequest()
    with gateway.endpoint.channel() as channel:
        calls: list[Any] = [stub(channel).ServerReady.future(request, timeout=30) for _ in range(400)]
        codes = {each.code().name for each in calls}
    assert codes <= {"OK", "RESOURCE_EXHAUSTED"}
    assert "OK" in codes
