"""Requests and responses as bytes, and how they are sent."""

from __future__ import annotations

import base64
import http.client
import io
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
from tls_context import trusting

# A server that has no response after this time has lost the request.
RESPONSE_LIMIT_S = 15.0
# Requests that the server may rightly go on waiting for, since the client withholds a part.
STARVED_S = 0.05
# Triton keeps 8 states of requests for reuse (--grpc-infer-allocation-pool-size); two more serve the stream itself. So
# many requests of streams at once do no harm.
MOST_STREAMED = 6

SERVICE = "/inference.GRPCInferenceService/"

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)

Kind = Literal["ok", "client_error", "server_error", "unavailable", "closed", "silent", "abandoned"]


@dataclass(frozen=True)
class HttpRequest:
    """What is sent over one connection.

    Attributes:
        wire: All bytes that the client sends.
        may_starve: The server may rightly wait for more bytes than these, and send no response.
        hang_up: The client closes the connection without reading a response.
    """

    wire: bytes
    may_starve: bool = False
    hang_up: bool = False

    @property
    def method(self) -> str:
        """The method, for the client that reads the response."""
        return self.wire.split(b" ", 1)[0].decode("latin-1")

    @property
    def body(self) -> bytes:
        """Everything behind the first empty line."""
        return self.wire.partition(b"\r\n\r\n")[2]

    def to_json(self) -> dict[str, Any]:
        """Describe it for a file."""
        return {
            "protocol": "http",
            "wire": base64.b64encode(self.wire).decode(),
            "may_starve": self.may_starve,
            "hang_up": self.hang_up,
        }


@dataclass(frozen=True)
class GrpcRequest:
    """One call.

    Attributes:
        method: Name in the inference service.
        messages: Serialised; a call that is no stream has one.
        metadata: Keys and values.
        timeout_s: Deadline that the client sets; None for the limit of every request.
        cancel_after_s: The client cancels the call so long after it began; None for never.
        compressed: The messages are sent with gzip.
    """

    method: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, str], ...] = ()
    timeout_s: float | None = None
    cancel_after_s: float | None = None
    compressed: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether the call takes a stream."""
        return self.method == "ModelStreamInfer"

    def to_json(self) -> dict[str, Any]:
        """Describe it for a file."""
        return {
            "protocol": "grpc",
            "method": self.method,
            "messages": [base64.b64encode(message).decode() for message in self.messages],
            "metadata": [list(pair) for pair in self.metadata],
            "timeout_s": self.timeout_s,
            "cancel_after_s": self.cancel_after_s,
            "compressed": self.compressed,
        }


Request = HttpRequest | GrpcRequest


def request_from_json(described: Mapping[str, Any]) -> Request:
    """Read what `to_json` wrote."""
    if described["protocol"] == "http":
        return HttpRequest(base64.b64decode(described["wire"]), described["may_starve"], described["hang_up"])
    return GrpcRequest(
        described["method"],
        tuple(base64.b64decode(message) for message in described["messages"]),
        tuple((key, value) for key, value in described["metadata"]),
        described["timeout_s"],
        described["cancel_after_s"],
        described["compressed"],
    )


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        kind: `ok`; `client_error` (4xx); `server_error` (5xx); `unavailable` (503); `closed`: the connection ended
            without a response; `silent`: no response within the limit; `abandoned`: the client did not wait.
        code: HTTP status, or name of the gRPC status; empty without a response.
        text: Message of the error.
        headers: Of an HTTP response.
        payloads: Body of the HTTP response, or the messages of the gRPC response.
        seconds: From the first byte sent to the end.
    """

    kind: Kind
    code: str = ""
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    payloads: tuple[bytes, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Describe it for a file."""
        return {"kind": self.kind, "code": self.code, "text": self.text[:2000], "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Access:
    """What a gateway asks of its clients.

    Attributes:
        key: Sent with each request.
        certificate: PEM file of the authority to trust, for `localhost`.
    """

    key: str
    certificate: Path


class Sender:
    """Sends requests to one server: a connection for each HTTP request, one channel for all gRPC calls.

    Streams of a few requests wait for each other, since many of their requests at once end a server (`fuzz.known`).

    Args:
        http_address: HOST:PORT.
        grpc_address: HOST:PORT.
        concurrency: Requests of `send_all` that are under way at once.
        access: Of a gateway; None for a server without one.
    """

    def __init__(
        self, http_address: str, grpc_address: str, concurrency: int = 12, access: Access | None = None
    ) -> None:
        host, _, port = http_address.rpartition(":")
        self._http = (host.strip("[]"), int(port))
        self._grpc_key: tuple[tuple[str, str], ...] = ()
        self._stream_turn = threading.Lock()
        if access is None:
            self._channel = grpc.insecure_channel(grpc_address, options=_CHANNEL_OPTIONS)
            self._tls, self._http_key = None, b""
        else:
            credentials = grpc.ssl_channel_credentials(access.certificate.read_bytes())
            # nginx ends a connection after some requests: gRPC repeats those that it has not looked at.
            options = (*_CHANNEL_OPTIONS, ("grpc.enable_retries", 1))
            self._channel = grpc.secure_channel(grpc_address, credentials, options=options)
            self._tls = trusting(access.certificate)
            self._http_key = f"\r\nX-Api-Key: {access.key}\r\n".encode()
            self._grpc_key = (("x-api-key", access.key),)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="fuzz-send")

    def close(self) -> None:
        """Close the channel and end the threads."""
        self._pool.shutdown()
        self._channel.close()

    def send_all(self, requests: Sequence[Request]) -> list[Outcome]:
        """Send requests concurrently, and return their outcomes in the same order."""
        return list(self._pool.map(self.send, requests))

    def send(self, request: Request) -> Outcome:
        """Send one request, and wait for its response or for its limit."""
        if isinstance(request, GrpcRequest) and request.is_stream and len(request.messages) <= MOST_STREAMED:
            with self._stream_turn:
                return self._send_timed(request)
        return self._send_timed(request)

    def _send_timed(self, request: Request) -> Outcome:
        begun = time.perf_counter()
        outcome = self._send_http(request) if isinstance(request, HttpRequest) else self._send_grpc(request)
        return Outcome(
            outcome.kind, outcome.code, outcome.text, outcome.headers, outcome.payloads, time.perf_counter() - begun
        )

    def _send_http(self, request: HttpRequest) -> Outcome:
        limit = STARVED_S if request.may_starve else RESPONSE_LIMIT_S
        try:
            with self._connect() as connection:
                try:
                    # Behind the request line. Without a key, all that is tested is that a gateway asks for one.
                    connection.sendall(request.wire.replace(b"\r\n", self._http_key or b"\r\n", 1))
                except TimeoutError:
                    return Outcome("silent", text="the server stopped reading")
                except OSError:
                    pass  # it may have sent its response before it had everything
                if request.hang_up:
                    # Reset, not closed: the server learns of it at once.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return Outcome("abandoned")
                connection.settimeout(limit)
                return _read_response(connection, request)
        except TimeoutError:
            return Outcome("abandoned" if request.may_starve else "silent")
        except (OSError, http.client.HTTPException) as error:
            return Outcome("closed", text=f"{type(error).__name__}: {error}"[:200])

    @contextmanager
    def _connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(self._http, timeout=RESPONSE_LIMIT_S) as plain:
            if self._tls is None:
                yield plain
                return
            with self._tls.wrap_socket(plain, server_hostname="localhost") as connection:
                yield connection

    def _send_grpc(self, request: GrpcRequest) -> Outcome:
        options: dict[str, Any] = {
            "timeout": request.timeout_s or RESPONSE_LIMIT_S,
            "metadata": (*request.metadata, *self._grpc_key),
            "compression": grpc.Compression.Gzip if request.compressed else None,
        }
        path = SERVICE + request.method
        received: list[bytes] = []
        try:
            if request.is_stream:
                responses = self._channel.stream_stream(path)(iter(request.messages), **options)
                if request.cancel_after_s is not None:
                    time.sleep(request.cancel_after_s)
                    responses.cancel()
                received.extend(responses)
            elif request.cancel_after_s is not None:
                future = self._channel.unary_unary(path).future(request.messages[0], **options)
                time.sleep(request.cancel_after_s)
                future.cancel()
                received.append(future.result(timeout=RESPONSE_LIMIT_S))
            else:
                received.append(self._channel.unary_unary(path)(request.messages[0], **options))
        except grpc.FutureCancelledError:
            return Outcome("abandoned", "CANCELLED")
        except grpc.FutureTimeoutError:
            return Outcome("silent", "", "a cancelled call did not end")
        except grpc.RpcError as error:
            code = error.code().name
            impatient = request.timeout_s is not None or request.cancel_after_s is not None
            return Outcome(_grpc_kind(code, impatient), code, error.details() or "", payloads=tuple(received))
        return Outcome("ok", "OK", payloads=tuple(received))


def _read_response(connection: socket.socket, request: HttpRequest) -> Outcome:
    response = http.client.HTTPResponse(connection, method=request.method)
    try:
        response.begin()
        body = response.read()
    finally:
        response.close()
    code = response.status
    kind: Kind
    if code == 503:
        kind = "unavailable"
    elif code >= 500:
        kind = "server_error"
    else:
        kind = "client_error" if code >= 400 else "ok"
    text = "" if kind == "ok" else body[:4000].decode(errors="replace")
    return Outcome(kind, str(code), text, tuple(response.getheaders()), (body,))


def _grpc_kind(code: str, impatient: bool) -> Kind:
    if code == "UNAVAILABLE":
        return "unavailable"
    if code in ("INTERNAL", "UNKNOWN", "DATA_LOSS"):
        return "server_error"
    if code == "DEADLINE_EXCEEDED":
        return "abandoned" if impatient else "silent"
    return "abandoned" if code == "CANCELLED" and impatient else "client_error"


def dechunk(body: bytes) -> bytes:
    """Join the chunks of a body, as far as they can be read."""
    stream, chunks = io.BytesIO(body), []
    while line := stream.readline():
        try:
            length = int(line.split(b";")[0], 16)
        except ValueError:
            break
        if length <= 0:
            break
        chunks.append(stream.read(length))
        stream.readline()
    return b"".join(chunks)
