"""One process that asks over gRPC: libcurl speaks HTTP/2, with messages that are serialised already.

It takes two thirds of the CPU that grpcio takes for a request (bench/NOTES.md), which would be taken from the server.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from urllib.parse import unquote

import pycurl

from jpeg_bench.asks import Ask, Load
from jpeg_bench.errors import BenchError
from jpeg_bench.paced_load import PacedLoad
from jpeg_bench.recorder import clock

_CONNECT_MS = 5000
_HEADERS = ["content-type: application/grpc", "te: trailers", "user-agent: jpeg-bench", "expect:"]
# What tells a gRPC server from anything else, and is no load: each answers that it does not know this method.
_NO_METHOD = "/jpeg_bench/NoSuchMethod"
_PREFIX = 5  # before each message: whether it is compressed, and its length in 4 bytes
_STATUS = (
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
    """A transfer of libcurl, used again and again, and what came of the request on it."""

    __slots__ = ("answer", "ask", "due", "handle", "headers")

    def __init__(self, address: str, path: str, timeout_s: float) -> None:
        self.ask, self.due = 0, 0.0
        self.answer: list[bytes] = []
        self.headers: list[bytes] = []
        self.handle = pycurl.Curl()
        options = {
            pycurl.URL: f"http://{address}{path}",
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE,
            pycurl.HTTPHEADER: _HEADERS,
            pycurl.POST: 1,
            pycurl.NOSIGNAL: 1,
            # The environment may name a proxy, and this machine is reached without.
            pycurl.NOPROXY: "*",
            pycurl.CONNECTTIMEOUT_MS: _CONNECT_MS,
            pycurl.TIMEOUT_MS: max(1, round(timeout_s * 1e3)),
            pycurl.WRITEFUNCTION: self._received,
            pycurl.HEADERFUNCTION: self._received_header,
        }
        for name, value in options.items():
            self.handle.setopt(name, value)

    def begin(self, message: bytes, ask: int = 0, due: float = 0.0) -> None:
        """Forget the last request, and make ready to send this one."""
        self.ask, self.due = ask, due
        self.answer.clear()
        self.headers.clear()
        self.handle.setopt(pycurl.POSTFIELDS, message)

    def outcome(self) -> tuple[bytes, str]:
        """The message of the answer and nothing, or nothing and why there is none."""
        answer = b"".join(self.answer)
        if (code := self.handle.getinfo(pycurl.RESPONSE_CODE)) != 200:
            return b"", f"HTTP {code}, where gRPC answers 200"
        headers = dict(line.decode("latin-1").rstrip("\r\n").partition(": ")[::2] for line in self.headers)
        if (status := headers.get("grpc-status", "")) != "0":
            known = status.isdigit() and int(status) < len(_STATUS)
            name = _STATUS[int(status)] if known else f"grpc-status {status!r}"
            return b"", f"{name}: {unquote(headers.get('grpc-message', ''))}"
        if len(answer) < _PREFIX or answer[0] or int.from_bytes(answer[1:_PREFIX], "big") != len(answer) - _PREFIX:
            return b"", f"no single uncompressed message, but {answer[:20]!r}"
        return answer[_PREFIX:], ""

    def _received(self, data: bytes) -> None:
        self.answer.append(data)

    def _received_header(self, line: bytes) -> None:
        self.headers.append(line)


class GrpcLoad(PacedLoad):
    """See `jpeg_bench.load`. Raises BenchError if no gRPC server listens there."""

    def __init__(self, asks: Sequence[Ask], load: Load, index: int, count: int) -> None:
        super().__init__(asks, load, index, count)
        self._address, self._path = asks[0].address, asks[0].path
        self._messages = [_framed(ask.body) for ask in asks]
        self._calls: dict[pycurl.Curl, _Call] = {}
        self._idle: list[_Call] = []
        self._wake_at: float | None = None
        self._sockets: set[int] = set()
        self._multi = multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, load.channels)
        self._connect()
        multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, -(-self._most // load.channels))
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._wake_in)

    def _connect(self) -> None:
        """Open all connections, so that the first requests find them, and what the server allows is known."""
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
        for _, code, why in failed:
            raise _nobody(self._address, code, why)

    def _send(self, ask: int, due: float) -> None:
        call = self._idle.pop() if self._idle else self._new_call()
        call.begin(self._messages[ask], ask, due)
        self._multi.add_handle(call.handle)

    def _new_call(self) -> _Call:
        call = _Call(self._address, self._path, self._load.timeout_s)
        self._calls[call.handle] = call
        return call

    def _watch(self, event: int, number: int, _multi: pycurl.CurlMulti, _data: object) -> None:
        """libcurl says what it waits for on a socket."""
        if event == pycurl.POLL_REMOVE:
            if number in self._sockets:
                self._sockets.remove(number)
                self._epoll.unregister(number)
        elif number in self._sockets:
            self._epoll.modify(number, _EVENTS[event])
        else:
            self._sockets.add(number)
            self._epoll.register(number, _EVENTS[event])

    def _wake_in(self, milliseconds: int) -> None:
        self._wake_at = None if milliseconds < 0 else clock() + milliseconds / 1e3

    def _poll(self, seconds: float) -> None:
        if self._wake_at is not None:
            seconds = min(seconds, max(0.0, self._wake_at - clock()))
        for number, event in self._events(seconds):
            readable = pycurl.CSELECT_IN if event & ~select.EPOLLOUT else 0
            writable = pycurl.CSELECT_OUT if event & select.EPOLLOUT else 0
            self._multi.socket_action(number, readable | writable)
        if self._wake_at is not None and self._wake_at <= clock():
            self._wake_at = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._take_ended()

    def _take_ended(self) -> None:
        left = 1
        while left:
            left, answered, failed = self._multi.info_read()
            for handle in answered:
                call = self._taken(handle)
                message, failure = call.outcome()
                if failure:
                    self._failed(failure)
                else:
                    self._answered(call.due, call.ask, message)
                self._next()
            for handle, code, why in failed:
                self._taken(handle)
                is_late = code == pycurl.E_OPERATION_TIMEDOUT
                self._failed(f"no answer within {self._load.timeout_s:g} s" if is_late else f"no answer: {why}")
                self._next()

    def _taken(self, handle: pycurl.Curl) -> _Call:
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


def _probe(address: str) -> _Call:
    call = _Call(address, _NO_METHOD, _CONNECT_MS / 1e3)
    call.begin(_framed(b""))
    return call


def _nobody(address: str, code: int, why: str) -> BenchError:
    nobody = f"no gRPC server answers at grpc://{address}"
    if code in (pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST):
        return BenchError(f"{nobody} ({why}): is it running, and is that the right port?")
    return BenchError(f"{nobody}, but something else does ({why}): is that the right port?")


def ask_once(ask: Ask, timeout_s: float) -> bytes:
    """The message that answers a single request. Raises BenchError with what went wrong."""
    probe, call = _probe(ask.address), _Call(ask.address, ask.path, timeout_s)
    call.begin(_framed(ask.body))
    try:
        probe.handle.perform()
    except pycurl.error as error:
        raise _nobody(ask.address, *error.args) from error
    try:
        call.handle.perform()
    except pycurl.error as error:
        raise BenchError(f"no answer: {error.args[1]}") from error
    message, failure = call.outcome()
    if failure:
        raise BenchError(failure)
    return message


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message
