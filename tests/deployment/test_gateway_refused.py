"""Requests that end Triton before 2.60 stop at the gateway, whatever their encoding; other odd requests do no harm.

Each request goes to a real server, which must be the same process afterwards and answer.
"""

from __future__ import annotations

import http.client
import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import serve
from gateway_support import INFER, Gateway, Response, infer_request, labels, ports_of, stub, tiny_jpeg
from jpeg_serve import TritonServer

JPEG = tiny_jpeg()
BINARY = struct.pack("<I", len(JPEG)) + JPEG
CLASSIFICATION = {"name": "LABEL", "parameters": {"classification": 3}}
DEEP = b'{"inputs":' + b"[" * 200_000


@pytest.fixture(scope="module")
def behind(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    yield from serve(small_repository, tmp_path_factory.mktemp("behind") / "triton.log")


@pytest.fixture(scope="module")
def gateway(behind: TritonServer) -> Iterator[Gateway]:
    with Gateway([ports_of(behind)]) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _server_survives(gateway: Gateway, behind: TritonServer) -> Iterator[None]:
    before = running(behind.pid)
    assert before
    yield
    assert running(behind.pid) == before
    assert len(labels(gateway.classify(JPEG))) == 3


def running(pid: int) -> str:
    """Return when a process started; empty if it ended."""
    stat = Path(f"/proc/{pid}/stat")
    fields = stat.read_text().rpartition(") ")[2].split() if stat.exists() else ["Z"]
    return "" if fields[0] == "Z" else fields[19]


def head_of(**changes: Any) -> bytes:
    """Return the JSON of a request for one binary image."""
    image = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(BINARY)}}
    return json.dumps({"inputs": [image], **changes}).encode()


def image_with(**changes: Any) -> dict[str, Any]:
    image = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(BINARY)}}
    return {**image, **changes}


def post(gateway: Gateway, head: bytes, binary: bytes = BINARY, *, length: str = "") -> Response:
    """Send JSON and binary data; length: of the JSON, as the header states it."""
    headers = {"Inference-Header-Content-Length": length or str(len(head)), "Content-Type": "application/octet-stream"}
    return gateway.request(INFER, head + binary, headers)


def infer(gateway: Gateway, message: bytes) -> tuple[str, str, str]:
    """Send a gRPC message; return the status, the details, and the server that had it."""
    path = "/inference.GRPCInferenceService/ModelInfer"
    with gateway.endpoint.channel(("grpc.enable_retries", 0)) as channel:
        method = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            _, call = method.with_call(message, metadata=gateway.endpoint.metadata(), timeout=20)
        except grpc.RpcError as error:
            sent = dict([*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())])
            return error.code().name, error.details(), gateway.logged(sent["x-request-id"])["server"]
        return "OK", "", gateway.logged(dict(call.initial_metadata())["x-request-id"])["server"]


def reached(gateway: Gateway, response: Response) -> bool:
    """Whether a server had the request."""
    return "refusal" not in gateway.logged(response.headers["x-request-id"])["server"]


# --- The classification extension ---

UNUSUAL_JSON = {
    "escaped c": lambda head: head.replace(b'"classification"', b'"\\u0063lassification"'),
    "escaped n": lambda head: head.replace(b'"classification"', b'"classificatio\\u006e"'),
    "all escaped": lambda head: head.replace(
        b'"classification"', b'"' + b"".join(b"\\u%04X" % byte for byte in b"classification") + b'"'
    ),
    "byte order mark": lambda head: b"\xef\xbb\xbf" + head,
    "white space": lambda head: head.replace(b":", b"\t\r\n : \r\n").replace(b"{", b"{" + b"\n" * 1500),
    "written twice": lambda head: head.replace(b'"outputs"', b'"outputs": [], "outputs"'),
}


@pytest.mark.parametrize("output", ["LABEL", "SCORE", "INDEX", "ERROR"])
def test_classification_in_json_is_refused(gateway: Gateway, output: str) -> None:
    response = post(gateway, head_of(outputs=[{**CLASSIFICATION, "name": output}]))
    assert response.status == 400
    assert response.error.endswith("[parameter_refused]")
    assert not reached(gateway, response)


def test_data_in_json_is_refused(gateway: Gateway) -> None:
    """A shape of 2^40 elements with one of them in JSON ends Triton 2.51."""
    tensor = {"name": "IMAGE", "shape": [1, 2**40], "datatype": "UINT8", "data": [1]}
    for body in (json.dumps({"inputs": [tensor]}), json.dumps({"inputs": [tensor]}).replace("data", "d\\u0061ta", 2)):
        response = gateway.request(INFER, body.encode())
        assert response.status == 400
        assert response.error.endswith("[parameter_refused]")
        assert not reached(gateway, response)


@pytest.mark.parametrize("change", UNUSUAL_JSON.values(), ids=UNUSUAL_JSON)
def test_classification_in_unusual_json_is_refused(gateway: Gateway, change: Callable[[bytes], bytes]) -> None:
    head = change(head_of(outputs=[CLASSIFICATION]))
    for response in (post(gateway, head), post(gateway, head, b""), gateway.request(INFER, head)):
        assert response.status == 400
        assert response.error.endswith("[parameter_refused]")
        assert not reached(gateway, response)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(head), head)
    assert gateway.request(INFER, chunked, {"Transfer-Encoding": "chunked"}).status == 400


def varint(number: int, padding: bytes = b"") -> bytes:
    """Encode a number below 128, with bytes after it that parsers accept."""
    return bytes([number | 128]) + padding if padding else bytes([number])


def field(number: int, value: bytes, tag_padding: bytes = b"", length_padding: bytes = b"") -> bytes:
    """Encode a length-delimited field."""
    assert len(value) < 128
    return varint(number << 3 | 2, tag_padding) + varint(len(value), length_padding) + value


def classification(tag_padding: bytes = b"", length_padding: bytes = b"", *, key_last: bool = False) -> bytes:
    """Encode an output with the parameter `classification`, which protobuf merges into a request wherever it comes."""
    entry = [field(1, b"classification", tag_padding, length_padding), field(2, b"\x10\x03")]
    parameter = field(2, b"".join(reversed(entry) if key_last else entry))
    return field(6, field(1, b"LABEL") + parameter)


# (padding of the tag, padding of the length): the bytes of a varint after the first. Triton's parser ignores the bits
# of a tag above 32; Python's refuses such a tag.
PADDINGS = [
    (b"", b""),
    (b"\x00", b""),
    (b"", b"\x00"),
    (b"\x80\x80\x80\x00", b"\x80\x80\x80\x00"),
    *((b"\x80\x80\x80" + bytes([last]), b"") for last in range(0x10, 0x80, 0x10)),
]


@pytest.mark.parametrize("paddings", PADDINGS)
@pytest.mark.parametrize("key_last", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_classification_in_protobuf_is_refused(
    gateway: Gateway, paddings: tuple[bytes, bytes], key_last: bool, first: bool
) -> None:
    good = infer_request(JPEG).SerializeToString()
    odd = classification(*paddings, key_last=key_last)
    end = len(field(1, b"jpeg_classifier"))
    status, details, server = infer(gateway, good[:end] + odd + good[end:] if first else good + odd)
    assert status == "INVALID_ARGUMENT"
    assert details.endswith("[parameter_refused]")
    assert "refusal" in server


@pytest.mark.parametrize("paddings", PADDINGS)
def test_internal_model_is_refused_in_every_encoding(
    gateway: Gateway, behind: TritonServer, paddings: tuple[bytes, bytes]
) -> None:
    second = field(1, b"preprocess", *paddings)
    assert infer(gateway, infer_request(JPEG).SerializeToString() + second)[0] == "PERMISSION_DENIED"
    # Without the gateway, the server reads each of them as the name.
    with grpc.insecure_channel(behind.grpc_address) as channel:
        config = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelConfig", request_serializer=bytes, response_deserializer=bytes
        )
        assert b"preprocess" in config(field(1, b"jpeg_classifier") + second, timeout=20)


@pytest.mark.parametrize("region", ["x", "", "../x"])
@pytest.mark.parametrize("output", [True, False])
def test_shared_memory_is_refused(gateway: Gateway, region: str, output: bool) -> None:
    """A region that somebody registered at the server itself belongs to them."""
    parameters = {"shared_memory_region": region, "shared_memory_byte_size": 4}
    tensor = {"name": "LABEL", "parameters": parameters}
    head = head_of(outputs=[tensor]) if output else head_of(inputs=[image_with(parameters=parameters)])
    for each in (head, head.replace(b"shared_memory", b"shared\\u005Fmemory")):
        response = post(gateway, each)
        assert response.status == 400
        assert response.error.endswith("[parameter_refused]")
        assert not reached(gateway, response)
    request = infer_request(JPEG)
    named = request.outputs.add(name="LABEL") if output else request.inputs[0]
    named.parameters["shared_memory_region"].string_param = region
    status, details, server = infer(gateway, request.SerializeToString())
    assert (status, details.rpartition(" ")[2]) == ("INVALID_ARGUMENT", "[parameter_refused]")
    assert "refusal" in server


def with_comment(comment: bytes) -> bytes:
    """Return the photo with a comment in its metadata (a COM segment)."""
    return JPEG[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + JPEG[2:]


def test_photo_may_hold_the_word(gateway: Gateway) -> None:
    expected = labels(gateway.classify(JPEG))
    photo = with_comment(b'{"classification":3} "\\u0063lassification" \n\nclassification\x00\x0fclassification')
    assert labels(gateway.classify(photo)) == expected
    size = {"parameters": {"binary_data_size": len(photo) + 4}}
    head = head_of(inputs=[image_with(**size)], outputs=[{"name": "LABEL", "parameters": {"binary_data": True}}])
    assert labels(post(gateway, head, struct.pack("<I", len(photo)) + photo)) == expected
    assert infer(gateway, infer_request(photo).SerializeToString())[0] == "OK"


def test_json_of_usual_encoders_passes(gateway: Gateway) -> None:
    """Escapes that encoders write: quotes, line breaks, letters beyond ASCII, and Go's < > &."""
    for name in ('a "b" \\ / \n', "Müller", "\U0001f4f7", "class ification"):
        assert post(gateway, head_of(id=name)).status == 200
    assert post(gateway, head_of(id="?").replace(b"?", b"\\u003c\\u003e\\u0026\\/")).status == 200


@pytest.mark.parametrize("control", range(9))
def test_server_takes_no_json_after_a_control_byte(gateway: Gateway, behind: TritonServer, control: int) -> None:
    """What lets the gateway look no further than the first of these bytes: sent to the server itself."""
    whole = head_of(outputs=[CLASSIFICATION])
    byte = bytes([control])
    for head in (byte + whole, b"{" + byte + whole[1:], b'{"id":"%s",%s' % (byte, whole[1:]), b"{}" + byte + whole):
        connection = http.client.HTTPConnection(behind.http_address, timeout=20)
        connection.request("POST", INFER, head + BINARY, {"Inference-Header-Content-Length": str(len(head))})
        assert connection.getresponse().status in (400, 500)
        connection.close()


# --- The length of the JSON ---


def test_long_json_is_refused(gateway: Gateway) -> None:
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(DEEP), DEEP)
    unknown = {"Transfer-Encoding": "chunked"}
    for response in (
        post(gateway, DEEP),
        post(gateway, DEEP, b""),
        gateway.request(INFER, DEEP),
        gateway.request(INFER, DEEP, {"Content-Type": "text/plain"}),
        gateway.request(INFER, DEEP, {"Inference-Header-Content-Length": ""}),
        gateway.request(INFER, DEEP, {"Inference-Header-Content-Length": "00210000"}),
        gateway.request(INFER, chunked, unknown),
        gateway.request(INFER, chunked, {**unknown, "Inference-Header-Content-Length": str(len(DEEP))}),
        gateway.request(INFER, JPEG * 10, {"Content-Type": "application/octet-stream"}),
    ):
        assert response.status == 413
        assert response.error.endswith("[json_too_long]")
        assert not reached(gateway, response)


def test_json_up_to_the_limit_passes(gateway: Gateway) -> None:
    empty = len(head_of(id=""))
    longest = head_of(id="x" * (9999 - empty))
    assert len(longest) == 9999
    assert post(gateway, longest).status == 200
    assert post(gateway, longest, length="00009999").status == 200
    assert post(gateway, head_of(id="x" * (10_000 - empty))).status == 413
    # 64 images in one tensor, and the deepest JSON within the limit.
    for head in (b'{"inputs":' + b"[" * 9900, b'{"parameters":' + b'{"a":' * 1900):
        assert post(gateway, head, b"").status in (400, 500)
        assert gateway.request(INFER, head).status in (400, 500)


# --- Other odd requests ---

LIMITS = [0, -1, 1, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1]
# Without the name of a region; with it, the gateway refuses them.
SHARED = [{"shared_memory_byte_size": 4}, {"shared_memory_byte_size": 2**62, "shared_memory_offset": 2**62}]
PARAMETERS: list[Any] = [
    *({name: limit} for name in ("priority", "timeout", "sequence_id", "k") for limit in LIMITS),
    {"sequence_id": "a", "sequence_start": True, "sequence_end": True},
    {"sequence_id": 7, "sequence_start": 1},
    {"a": {"b": [1]}},
    {"a": None},
    {"a": 1e308},
    {"": 1},
    {f"p{number}": number for number in range(300)},
    {"binary_data_output": "yes"},
    [],
    1,
]
INPUTS: list[Any] = [[], {}, None, [None], [1], [image_with()] * 60]
OUTPUTS: list[Any] = [[], None, [{}], [{"name": "LABEL"}] * 500]
DATA: list[Any] = [[[]], [[[["x"]]]], [None], "x", ["\0"]]
ODD_HEADS = {
    **{f"parameters {str(each)[:40]}": head_of(parameters=each) for each in PARAMETERS},
    **{f"shape {each}": head_of(inputs=[image_with(shape=[each, 1])]) for each in LIMITS},
    **{f"shape of {each}": head_of(inputs=[image_with(shape=[1, each])]) for each in LIMITS},
    **{f"size {each}": head_of(inputs=[image_with(parameters={"binary_data_size": each})]) for each in LIMITS},
    **{f"in {each}": head_of(inputs=[image_with(parameters=each)]) for each in SHARED},
    **{f"out {each}": head_of(outputs=[{"name": "LABEL", "parameters": each}]) for each in SHARED},
    **{f"type {each}": head_of(inputs=[image_with(datatype=each)]) for each in ("FP32", "BOOL", "X", None)},
    **{f"inputs {each}": head_of(inputs=each) for each in INPUTS},
    **{f"data {each}": head_of(inputs=[image_with(data=each)]) for each in DATA},
    **{f"outputs {str(each)[:30]}": head_of(outputs=each) for each in OUTPUTS},
    "shape that overflows": head_of(inputs=[image_with(shape=[2**32, 2**32])]),
    "shape of 2000 dimensions": head_of(inputs=[image_with(shape=[1] * 2000)]),
    "not UTF-8": head_of(id="?").replace(b"?", b"\xff\xfe"),
    "UTF-16": head_of().decode().encode("utf-16"),
    "no object": b"[]",
    "no JSON": b"\xff\xd8\xff",
}


@pytest.mark.parametrize("head", ODD_HEADS.values(), ids=ODD_HEADS)
def test_odd_json_does_no_harm(gateway: Gateway, head: bytes) -> None:
    allowed = {200, 400, 500}
    if head == head_of(parameters={"timeout": 1}):  # a deadline of one microsecond passes in the queue
        allowed.add(503)
    for binary in (BINARY, b"", b"\xff\xff\xff\xffabc", bytes(4000)):
        assert post(gateway, head, binary).status in allowed
    for length in ("1", str(len(head) - 1), str(len(head) + 1), "9999"):
        assert post(gateway, head, length=length).status in (400, 500)


Requests = Iterator[tuple[str, Any]]


def odd_parameters() -> Requests:
    for limit in LIMITS:
        for name in ("priority", "timeout", "sequence_id", "k"):
            request = infer_request(JPEG)
            setattr(request.parameters[name], "int64_param" if limit < 2**63 else "uint64_param", limit)
            yield f"{name} {limit}", request


def odd_shapes() -> Requests:
    limits = [limit for limit in LIMITS if limit < 2**63]
    one = [*([limit, 1] for limit in limits), *([1, limit] for limit in limits)]
    for shape in (*one, [2**32, 2**32], [1] * 300, []):
        request = infer_request(JPEG)
        request.inputs[0].shape[:] = shape
        yield f"shape {str(shape)[:30]}", request


def odd_contents() -> Requests:
    for contents in ([], [b""], [b"abc"], [b"\xff\xff\xff\xffab"], [BINARY] * 2, [BINARY] * 1000):
        request = infer_request(JPEG)
        request.raw_input_contents[:] = contents
        yield f"{len(contents)} contents {contents[:1]!r:.20}", request
    for kind, value in (("bytes", b"x"), ("int", 1), ("fp32", 1.0), ("bool", True), ("int64", 1), ("uint64", 1)):
        for raw in ([BINARY], []):
            request = infer_request(JPEG)
            getattr(request.inputs[0].contents, f"{kind}_contents").extend([value] * 1000)
            request.raw_input_contents[:] = raw
            yield f"{kind}, {len(raw)} raw", request


def odd_outputs() -> Requests:
    for name, number in (("X", 1), ("LABEL", 1000), ("", 1)):
        request = infer_request(JPEG)
        for _ in range(number):
            request.outputs.add(name=name)
        yield f"{number} outputs {name}", request


def shared_memory() -> Requests:
    for each in SHARED:
        for output in (True, False):
            request = infer_request(JPEG)
            tensor = request.outputs.add(name="LABEL") if output else request.inputs[0]
            for name, value in each.items():
                tensor.parameters[name].int64_param = value
            yield f"shared memory {output} {each}", request


def odd_versions() -> Requests:
    for version in ("99999999999999999999", "-1", "x", "9" * 500):
        request = infer_request(JPEG)
        request.model_version = version
        yield f"version {version[:20]}", request


KINDS = [odd_parameters, odd_shapes, odd_contents, odd_outputs, shared_memory, odd_versions]
GRPC_REQUESTS = {name: request for kind in KINDS for name, request in kind()}


@pytest.mark.parametrize("name", GRPC_REQUESTS)
def test_odd_message_does_no_harm(gateway: Gateway, name: str) -> None:
    allowed = {"OK", "INVALID_ARGUMENT", "INTERNAL", "UNIMPLEMENTED", "NOT_FOUND", "UNKNOWN"}
    if name == "timeout 1":  # a deadline of one microsecond passes in the queue
        allowed.add("UNAVAILABLE")
    if name.startswith("version"):
        allowed = {"PERMISSION_DENIED"}
    assert infer(gateway, GRPC_REQUESTS[name].SerializeToString())[0] in allowed


def test_damaged_message_does_no_harm(gateway: Gateway) -> None:
    good = infer_request(JPEG).SerializeToString()
    # Cut, with an unknown field of 1 MB, and with groups nested 200,000 deep.
    for message in (good[:-50], good[:40], good + b"\x7a\x80\x80\x40" + bytes(2**20), good + b"\x7b" * 200_000):
        assert infer(gateway, message)[0] in ("OK", "INVALID_ARGUMENT", "INTERNAL")


# --- That these requests are what ends a server ---


def over_http(server: TritonServer, head: bytes) -> None:
    connection = http.client.HTTPConnection(server.http_address, timeout=20)
    connection.request("POST", INFER, head + BINARY, {"Inference-Header-Content-Length": str(len(head))})
    connection.getresponse()


def over_grpc(server: TritonServer) -> None:
    request = infer_request(JPEG)
    request.outputs.add(name="LABEL").parameters["classification"].int64_param = 3
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub(channel).ModelInfer(request, timeout=20)


@pytest.mark.parametrize(
    "send",
    [
        lambda server: over_http(server, head_of(outputs=[CLASSIFICATION])),
        lambda server: over_http(server, DEEP),
        over_grpc,
    ],
    ids=["classification over HTTP", "deep JSON", "classification over gRPC"],
)
def test_without_the_gateway_the_server_ends(
    small_repository: Path, tmp_path: Path, send: Callable[[TritonServer], None]
) -> None:
    with contextmanager(serve)(small_repository, tmp_path / "triton.log") as server:
        assert running(server.pid)
        with pytest.raises((OSError, grpc.RpcError)):
            send(server)
        limit = time.monotonic() + 10  # it writes a stack trace first
        while running(server.pid):
            assert time.monotonic() < limit
            time.sleep(0.05)
