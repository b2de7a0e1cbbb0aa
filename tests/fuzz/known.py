"""Requests that are known to end a server: they are counted, and sent only through a gateway that refuses them."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from jpeg_contract.tensors import ENSEMBLE, LABEL, PREPROCESS, RESPONSE_TENSORS
from tritonclient.grpc import service_pb2 as pb

from fuzz.oracle import REFUSED
from fuzz.samples import colour_samples, to_bytes
from fuzz.wire import MOST_STREAMED, GrpcRequest, HttpRequest, Request, dechunk

_BYTES_OUTPUTS = {tensor.name for tensor in RESPONSE_TENSORS if tensor.data_type == "TYPE_STRING"}
# What a server survives; the bounds are not sharp.
_DEEPEST_SURVIVED = 25_000
_MOST_ELEMENTS = 2**24
_MOST_CHUNKS = 300_000
_INFER = f"/v2/models/{ENSEMBLE}/infer"


@dataclass(frozen=True)
class Killer:
    """A kind of request that ends a server.

    Attributes:
        name: Of the kind.
        signal: How tritonserver ends.
        matches: Whether a request is of the kind; it may say so of a few that are not.
        examples: Makes requests that end a server, each alone; or, with `together_s`, all together.
        together_s: The requests end a server only together, by chance, and after so many seconds at the latest.
        passes_gateway: The gateway cannot refuse it.
    """

    name: str
    signal: str
    matches: Callable[[Request], bool]
    examples: Callable[[], list[Request]]
    together_s: float = 0.0
    passes_gateway: bool = False


@dataclass(frozen=True)
class Fault:
    """A grave finding that cannot be fixed here.

    Attributes:
        kind: Class of the finding.
        message: Pattern of its message.
        reason: What goes wrong, and where.
    """

    kind: str
    message: str
    reason: str


FAULTS: tuple[Fault, ...] = (
    Fault(
        REFUSED,
        r"incomplete string (data|length) for inference input",
        "The Python backend refuses a whole batch for one request whose BYTES do not fit their length.",
    ),
    Fault(
        REFUSED,
        r"batch size N for '\.\.\.', max allowed is N",
        "A batch of 0 is let through to a model, where its first dimension counts as its batch.",
    ),
    Fault(
        REFUSED,
        r"GOAWAY received; Error code: N",
        "nginx closes a connection at its age: a request that crosses that did not run, and clients repeat it.",
    ),
)


def known_fault(kind: str, message: str) -> Fault | None:
    """Return what is known of a finding."""
    return next((fault for fault in FAULTS if fault.kind == kind and re.search(fault.message, message)), None)


def matching(request: Request, *, behind_gateway: bool = False) -> Killer | None:
    """Return what is known of a request; None if it may be sent, directly or to the gateway."""
    return next(
        (killer for killer in KNOWN if (killer.passes_gateway or not behind_gateway) and killer.matches(request)), None
    )


# The classification extension on a BYTES output: Triton divides by the size of an element, which BYTES do not have.


def _classifies_bytes(request: Request) -> bool:
    if isinstance(request, GrpcRequest):
        return any(_grpc_classifies(message) for message in request.messages)
    return any(_json_classifies(body) for body in _readings(request))


def _grpc_classifies(message: bytes) -> bool:
    try:
        outputs = pb.ModelInferRequest.FromString(message).outputs
    except DecodeError:
        return False
    return any("classification" in output.parameters and output.name in _BYTES_OUTPUTS for output in outputs)


def _json_classifies(body: bytes) -> bool:
    if b"classification" not in body and b"\\u" not in body:
        return False
    text = body.decode("latin-1")
    try:
        # Both parsers see different things in repeated members: here all of them count.
        document, _ = json.JSONDecoder(object_pairs_hook=list).raw_decode(text.lstrip("\ufeffï»¿ \t\r\n"))
    except (ValueError, RecursionError):
        return "classification" in text
    return any(name == "classification" and value for name, value in _pairs(document)) and any(
        value in _BYTES_OUTPUTS for name, value in _pairs(document) if name == "name" and isinstance(value, str)
    )


def _pairs(document: Any) -> Iterator[tuple[Any, Any]]:
    """Return all members at any depth; a document may nest more deeply than functions can call themselves."""
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, tuple):
            yield value[0], value[1]
            left.append(value[1])
        elif isinstance(value, list):
            left.extend(value)


def _classification_examples() -> list[Request]:
    image = colour_samples()[0].data
    head = {
        "inputs": [
            {
                "name": "IMAGE",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(image) + 4},
            }
        ],
        "outputs": [{"name": LABEL, "parameters": {"classification": 3}}],
    }
    text = json.dumps(head).encode()
    body = text + len(image).to_bytes(4, "little") + image
    message = pb.ModelInferRequest(model_name=ENSEMBLE)
    message.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    message.outputs.add(name=LABEL).parameters["classification"].int64_param = 3
    message.raw_input_contents.append(to_bytes(np.array([image], dtype=object)))
    return [
        HttpRequest(_post(_INFER, body, f"Inference-Header-Content-Length: {len(text)}")),
        GrpcRequest("ModelInfer", (message.SerializeToString(),)),
    ]


# JSON that nests deeply: Triton's parser calls itself for each level of a member, and what reads `data` does so again,
# with larger frames.


def _nests_deeply(request: Request) -> bool:
    return isinstance(request, HttpRequest) and any(
        body.count(b"[") + body.count(b"{") > _DEEPEST_SURVIVED for body in _readings(request)
    )


def _nesting_examples() -> list[Request]:
    body = b'{"inputs":' + b"[" * 200_000
    return [HttpRequest(_post(_INFER, body)), HttpRequest(_post(_INFER, body, "Content-Type: text/plain"))]


def _nested_data_examples() -> list[Request]:
    data = b"[" * 60_000 + b'"x"' + b"]" * 60_000
    tensor = b'{"inputs":[{"name":"IMAGE","shape":[1,1],"datatype":"BYTES","data":' + data + b"}]}"
    return [
        HttpRequest(_post(_INFER, tensor)),
        HttpRequest(_post(_INFER.replace("infer", "generate"), b'{"IMAGE":' + data + b"}")),
    ]


# JSON data of a huge shape: Triton reserves the memory that the shape asks for, and touches it, before it looks at the
# data, the model's shape, or the name of the input.


def _reserves_memory(request: Request) -> bool:
    return isinstance(request, HttpRequest) and any(_has_huge_data(body) for body in _readings(request))


def _has_huge_data(body: bytes) -> bool:
    if b'"data"' not in body and b"\\u" not in body:
        return False
    elements = 0
    for shape in re.finditer(rb"\[([-0-9eE+., \t\r\n]*)\]", body):
        product = 1.0
        for length in shape[1].split(b","):
            try:
                # A 0 beside it does not help where another member repeats it.
                product *= max(1.0, abs(float(length)))
            except ValueError:
                continue
        elements = max(elements, int(min(product, 2.0**80)))
    return elements > _MOST_ELEMENTS


def _huge_data_examples() -> list[Request]:
    tensor = {"name": "IMAGE", "shape": [1, 2**40], "datatype": "UINT8", "data": [1]}
    unknown = {"name": "nothing", "shape": [2**20, 2**20], "datatype": "FP32", "data": [1]}
    return [HttpRequest(_post(_INFER, json.dumps({"inputs": [each]}).encode())) for each in (tensor, unknown)]


# A chunked body: Triton puts a record of 16 bytes for each piece on the stack of a thread.


def _has_many_chunks(request: Request) -> bool:
    return (
        isinstance(request, HttpRequest)
        and b"chunked" in request.wire.partition(b"\r\n\r\n")[0].lower()
        and request.body.count(b"\r\n") > 2 * _MOST_CHUNKS
    )


def _chunk_examples() -> list[Request]:
    head = f"POST {_INFER} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [HttpRequest(head.encode() + b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n")]


# A call that its client cancels, or whose deadline passes: its end races with the response in the gRPC front end.


def _is_cancelled(request: Request) -> bool:
    return (
        isinstance(request, GrpcRequest)
        and request.method == "ModelInfer"
        and (request.cancel_after_s is not None or request.timeout_s is not None)
    )


def _cancelled_examples() -> list[Request]:
    # The ensemble shows it, too, but not as soon.
    sent = (_image_message(PREPROCESS),)
    return [GrpcRequest("ModelInfer", sent, timeout_s=timeout) for timeout in (0.001, 0.002, 0.003, None) * 10]


# A stream with more requests under way than Triton keeps states for: the thread that writes a response holds the lock
# of the request's state while another one frees that state, and then writes to freed memory. Valid requests do that.


def _streams_many(request: Request) -> bool:
    return isinstance(request, GrpcRequest) and request.is_stream and len(request.messages) > MOST_STREAMED


def _stream_examples() -> list[Request]:
    return [GrpcRequest("ModelStreamInfer", (_image_message(ENSEMBLE),) * (MOST_STREAMED + 1))] * 16


def _image_message(model: str) -> bytes:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    message.raw_input_contents.append(to_bytes(np.array([colour_samples()[0].data], dtype=object)))
    serialised: bytes = message.SerializeToString()
    return serialised


def _post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def _readings(request: HttpRequest) -> list[bytes]:
    """Return the body in all the ways in which a server may read it."""
    head, body = request.wire.partition(b"\r\n\r\n")[0].lower(), request.body
    bodies = [body]
    if b"chunked" in head:
        bodies.append(dechunk(body))
    if b"content-encoding" in head:
        bodies += [unpacked for each in bodies for unpacked in [_unpack(each)] if unpacked]
    return bodies


def _unpack(body: bytes) -> bytes:
    match = re.match(rb"\x1f\x8b|\x78", body)
    if not match:
        return b""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, 64_000_000)
    except zlib.error:
        return b""


KNOWN: tuple[Killer, ...] = (
    Killer("classification of a BYTES output", "SIGFPE", _classifies_bytes, _classification_examples),
    Killer("JSON nested deeply", "SIGSEGV", _nests_deeply, _nesting_examples),
    Killer("JSON data nested deeply", "SIGSEGV", _nests_deeply, _nested_data_examples),
    Killer("JSON data of a huge shape", "SIGABRT", _reserves_memory, _huge_data_examples),
    Killer("a body of very many chunks", "SIGSEGV", _has_many_chunks, _chunk_examples),
    Killer("a gRPC stream of many requests", "SIGSEGV", _streams_many, _stream_examples, together_s=300.0),
    Killer(
        "a cancelled gRPC call", "SIGSEGV", _is_cancelled, _cancelled_examples, together_s=180.0, passes_gateway=True
    ),
)
