"""Requests and answers as bytes of the two protocols (KServe v2), for plain clients that repeat nothing."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import tritonclient.http as triton_http
from jpeg_contract.tensors import ENSEMBLE, IMAGE
from tritonclient.grpc import InferResult, service_pb2

from faults.answers import Judgement, Tensors, Verdict, judge_error, judge_tensors, reason_of
from faults.samples import Sample

INFER_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_HEADER_LENGTH = "inference-header-content-length"
_CHANNEL_OPTIONS = (
    # A connection of its own, so that the kernel spreads channels over the servers of one port.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # the time that one attempt may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


def grpc_message(samples: Sequence[Sample], *, model: str = ENSEMBLE, timeout_us: int | None = None) -> bytes:
    """Serialise a ModelInferRequest that takes all outputs."""
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name=IMAGE, datatype="BYTES", shape=[len(samples), 1])
    message.raw_input_contents.append(_elements(samples))
    if timeout_us is not None:
        message.parameters["timeout"].int64_param = timeout_us
    serialised: bytes = message.SerializeToString()
    return serialised


def http_request(
    address: str, samples: Sequence[Sample], *, model: str = ENSEMBLE, timeout_us: int | None = None
) -> bytes:
    """Serialise a POST with binary tensors that takes all outputs."""
    data = _elements(samples)
    timeout = "" if timeout_us is None else f',"timeout":{timeout_us}'
    head = (
        f'{{"parameters":{{"binary_data_output":true{timeout}}},"inputs":[{{"name":"{IMAGE}","shape":[{len(samples)},1],'
        f'"datatype":"BYTES","parameters":{{"binary_data_size":{len(data)}}}}}]}}'
    ).encode()
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {address}",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + len(data)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + head + data


def open_channel(address: str) -> grpc.aio.Channel:
    """Open a gRPC channel with one connection of its own that repeats nothing."""
    return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)


async def send_grpc(channel: grpc.aio.Channel, message: bytes, samples: Sequence[Sample]) -> Judgement:
    """Send a request over gRPC, and judge its answer."""
    try:
        response = await channel.unary_unary(INFER_METHOD)(message)
    except grpc.aio.AioRpcError as error:
        return judge_error(samples, error.code().name, error.details() or "")
    result = InferResult(service_pb2.ModelInferResponse.FromString(response))
    names = [output.name for output in result.get_response().outputs]
    return judge_tensors(samples, _arrays(result, names))


class HttpConnection:
    """A kept HTTP/1.1 connection, opened when it is needed.

    Args:
        address: HOST:PORT.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes, samples: Sequence[Sample]) -> Judgement:
        """Send a request, and judge its answer."""
        try:
            status, headers, body = await self._exchange(request)
        except (OSError, EOFError) as error:
            await self.close()
            return Verdict.REFUSED, "disconnected", type(error).__name__, ""
        except BaseException:  # the time is over: a late answer must not meet the next request
            await self.close()
            raise
        if headers.get("connection", "").lower() == "close":
            await self.close()
        if status != "200":
            return judge_error(samples, status, _error_message(body))
        length = headers.get(_HEADER_LENGTH)
        try:
            result = triton_http.InferenceServerClient.parse_response_body(
                body, header_length=int(length) if length else None
            )
            names = [output["name"] for output in result.get_response()["outputs"]]
            tensors = _arrays(result, names)
        except Exception as error:
            return Verdict.LIE, status, f"unreadable: {reason_of(str(error))}", repr(body[:200])
        return judge_tensors(samples, tensors)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return its streams; connect if it is closed."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        return self._streams

    async def close(self) -> None:
        """Close it; the next request opens it again."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def _exchange(self, request: bytes) -> tuple[str, dict[str, str], bytes]:
        reader, writer = await self.open()
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return first.split(" ", 2)[1], headers, body


def _error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")


def _elements(samples: Sequence[Sample]) -> bytes:
    return b"".join(struct.pack("<I", len(sample.data)) + sample.data for sample in samples)


def _arrays(result: Any, names: Sequence[str]) -> Tensors:
    return {name: result.as_numpy(name) for name in names}
