"""Sends serialised gRPC messages over HTTP/2 with libcurl.

It uses two thirds of grpcio's CPU time per request (bench/NOTES.md). The load generator shares the machine with the
server.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from urllib.parse import unquote

import pycurl

from jpeg_bench.errors import BenchError
from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.paced_sender import PacedSender
from jpeg_bench.recorder import clock

_CONNECT_TIMEOUT_MS = 5000
_HEADERS = ["content-type: application/grpc", "te: trailers", "user-agent: jpeg-bench", "expect:"]
# A gRPC server responds UNIMPLEMENTED: the call detects other protocols and costs the server nothing.
_UNKNOWN_METHOD = "/jpeg_bench/NoSuchMethod"
_PREFIX_BYTES = 5  # before each message: a compression flag, and the length in 4 bytes
_STATUS_NAMES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_EVENTS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class _Call:
    """A reusable libcurl transfer with the response that it received."""

    __slots__ = ("handle", "headers", "request", "response", "scheduled")

    def __init__(self, address: str, path: str, timeout_s: float) -> None:
        self.request, self.scheduled = 0, 0.0
        self.response: list[bytes] = []
        self.headers: list[bytes] = []
        self.handle = pycurl.Curl()
        options = {
            pycurl.URL: f"http://{address}{path}",
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE,
            pycurl.HTTPHEADER: _HEADERS,
            pycurl.POST: 1,
            pycurl.NOSIGNAL: 1,
            # Ignore proxies of the environment.
            pycurl.NOPROXY: "*",
            pycurl.CONNECTTIMEOUT_MS: _CONNECT_TIMEOUT_MS,
            pycurl.TIMEOUT_MS: max(1, round(timeout_s * 1e3)),
            pycurl.WRITEFUNCTION: self._receive,
            pycurl.HEADERFUNCTION: self._receive_header,
        }
        for name, value in options.items():
            self.handle.setopt(name, value)

    def begin(self, message: bytes, request: int = 0, scheduled: float = 0.0) -> None:
        """Discard the last response, and set the next message.

        Args:
            message: With its prefix; see `_framed`.
            request: Index of the prepared request.
            scheduled: Scheduled time.
        """
        self.request, self.scheduled = request, scheduled
        self.response.clear()
        self.headers.clear()
        self.handle.setopt(pycurl.POSTFIELDS, message)

    def outcome(self) -> tuple[bytes, str]:
        """Return the message of the response and "", or b"" and the failure."""
        response = b"".join(self.response)
        if (code := self.handle.getinfo(pycurl.RESPONSE_CODE)) != 200:
            return b"", f"HTTP {code} instead of gRPC"
        headers = dict(line.decode("latin-1").rstrip("\r\n").partition(": ")[::2] for line in self.headers)
        if (status := headers.get("grpc-status", "")) != "0":
            known = status.isdigit() and int(status) < len(_STATUS_NAMES)
            name = _STATUS_NAMES[int(status)] if known else f"grpc-status {status!r}"
            return b"", f"{name}: {unquote(headers.get('grpc-message', ''))}"
        length = int.from_bytes(response[1:_PREFIX_BYTES], "big")
        if len(response) < _PREFIX_BYTES or response[0] or length != len(response) - _PREFIX_BYTES:
            return b"", f"the response is not one uncompressed message: {response[:20]!r}"
        return response[_PREFIX_BYTES:], ""

    def _receive(self, data: bytes) -> None:
        self.response.append(data)

    def _receive_header(self, line: bytes) -> None:
        self.headers.append(line)


class GrpcSender(PacedSender):
    """See `PacedSender`.

    Raises:
        BenchError: No gRPC server listens at the address.
    """

    def __init__(self, requests: Sequence[PreparedRequest], load: Load, index: int, count: int) -> None:
        super().__init__(requests, load, index, count)
        self._address, self._path = requests[0].address, requests[0].path
        self._messages = [_framed(request.body) for request in requests]
        self._calls: dict[pycurl.Curl, _Call] = {}
        self._idle: list[_Call] = []
        self._timer: float | None = None
        self._sockets: set[int] = set()
        self._multi = multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, load.channels)
        self._connect()
        multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, -(-self._max_outstanding // load.channels))
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch_socket)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def _connect(self) -> None:
        """Open all connections before the first request, and learn the server's HTTP/2 settings."""
        self._multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, 1)
        probes = [_probe(self._address) for _ in range(self._load.channels)]
        for probe in probes:
            self._multi.add_handle(probe.handle)
        while self._multi.perform()[1]:
            self._multi.select(0.1)
        failed = self._multi.info_read()[2]
        for probe in probes:
            self._multi.remove_handle(probe.handle)
            probe.handle.close()
        for _, code, cause in failed:
            raise _unreachable(self._address, code, cause)

    def _send(self, request: int, scheduled: float) -> None:
        call = self._idle.pop() if self._idle else self._new_call()
        call.begin(self._messages[request], request, scheduled)
        self._multi.add_handle(call.handle)

    def _new_call(self) -> _Call:
        call = _Call(self._address, self._path, self._load.timeout_s)
        self._calls[call.handle] = call
        return call

    def _watch_socket(self, event: int, number: int, _multi: pycurl.CurlMulti, _data: object) -> None:
        """Called by libcurl: watch a socket for these events."""
        if event == pycurl.POLL_REMOVE:
            if number in self._sockets:
                self._sockets.remove(number)
                self._epoll.unregister(number)
        elif number in self._sockets:
            self._epoll.modify(number, _EVENTS[event])
        else:
            self._sockets.add(number)
            self._epoll.register(number, _EVENTS[event])

    def _set_timer(self, milliseconds: int) -> None:
        """Called by libcurl: set its timer, or stop it (-1)."""
        self._timer = None if milliseconds < 0 else clock() + milliseconds / 1e3

    def _poll(self, seconds: float) -> None:
        if self._timer is not None:
            seconds = min(seconds, max(0.0, self._timer - clock()))
        for number, event in self._events(seconds):
            readable = pycurl.CSELECT_IN if event & ~select.EPOLLOUT else 0
            writable = pycurl.CSELECT_OUT if event & select.EPOLLOUT else 0
            self._multi.socket_action(number, readable | writable)
        if self._timer is not None and self._timer <= clock():
            self._timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._complete_calls()

    def _complete_calls(self) -> None:
        remaining = 1
        while remaining:
            remaining, completed, failed = self._multi.info_read()
            for handle in completed:
                call = self._release(handle)
                message, failure = call.outcome()
                if failure:
                    self._failed(failure)
                else:
                    self._succeeded(call.scheduled, call.request, message)
                self._after_completion()
            for handle, code, cause in failed:
                self._release(handle)
                if code == pycurl.E_OPERATION_TIMEDOUT:
                    self._failed(f"no response within {self._load.timeout_s:g} s")
                else:
                    self._failed(f"no response: {cause}")
                self._after_completion()

    def _release(self, handle: pycurl.Curl) -> _Call:
        self._multi.remove_handle(handle)
        call = self._calls[handle]
        self._idle.append(call)
        return call

    def _close(self) -> None:
        for call in self._calls.values():
            if call not in self._idle:
                self._multi.remove_handle(call.handle)
            call.handle.close()
        self._multi.close()


def send_once(request: PreparedRequest, timeout_s: float) -> bytes:
    """Send one request, and return the message of the response.

    Raises:
        BenchError: No gRPC server listens at the address, or the request fails.
    """
    probe, call = _probe(request.address), _Call(request.address, request.path, timeout_s)
    call.begin(_framed(request.body))
    try:
        probe.handle.perform()
    except pycurl.error as error:
        raise _unreachable(request.address, *error.args) from error
    try:
        call.handle.perform()
    except pycurl.error as error:
        raise BenchError(f"no response: {error.args[1]}", reason="request_failed") from error
    message, failure = call.outcome()
    if failure:
        raise BenchError(failure, reason="request_failed")
    return message


def _probe(address: str) -> _Call:
    call = _Call(address, _UNKNOWN_METHOD, _CONNECT_TIMEOUT_MS / 1e3)
    call.begin(_framed(b""))
    return call


def _unreachable(address: str, code: int, cause: str) -> BenchError:
    if code in (pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST):
        return BenchError(
            f"no server responds at grpc://{address} ({cause}): check that it runs, and its port",
            reason="server_unreachable",
        )
    return BenchError(
        f"the server at grpc://{address} does not speak gRPC ({cause}): check its port", reason="not_grpc"
    )


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message
