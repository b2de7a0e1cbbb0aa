"""Sends requests over HTTP/1.1 with keep-alive connections and one epoll.

The load generator shares the machine with the server. General HTTP clients (urllib3, aiohttp) use several times the CPU
time per request.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence

from jpeg_bench.errors import BenchError
from jpeg_bench.http_response import (
    INCOMPLETE,
    UNTIL_CLOSE,
    closes_connection,
    headers_and_body,
    response_length,
    status,
)
from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.paced_sender import PacedSender
from jpeg_bench.recorder import clock

_CONNECT_TIMEOUT_S = 5.0
_RECEIVE_BYTES = 1 << 18


class _Connection:
    """A connection and the request that it carries."""

    __slots__ = ("busy", "deadline", "received", "request", "reused", "scheduled", "sending", "sent", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.request, self.scheduled, self.deadline, self.sent = 0, 0.0, 0.0, 0
        self.received = b""
        self.busy = self.reused = self.sending = False


class HttpSender(PacedSender):
    """See `PacedSender`.

    Raises:
        BenchError: No server listens at the address.
    """

    def __init__(self, requests: Sequence[PreparedRequest], load: Load, index: int, count: int) -> None:
        super().__init__(requests, load, index, count)
        self._requests = [memoryview(request.http_bytes()) for request in requests]
        host, _, port = requests[0].address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        try:
            for _ in range(load.concurrency or 1):
                self._idle.append(self._connect())
        except OSError as error:
            raise BenchError(
                f"no server responds at http://{requests[0].address} ({error}): check that it runs, and its port",
                reason="server_unreachable",
            ) from error

    def _connect(self) -> _Connection:
        opened = socket.create_connection(self._address, timeout=_CONNECT_TIMEOUT_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        connection = _Connection(opened)
        self._connections[opened.fileno()] = connection
        self._epoll.register(opened.fileno(), select.EPOLLIN)
        return connection

    def _send(self, request: int, scheduled: float) -> None:
        try:
            connection = self._idle.pop() if self._idle else self._connect()
        except OSError as error:
            self._failed(f"no connection: {error}")
            return
        self._send_on(connection, request, scheduled)

    def _send_on(self, connection: _Connection, request: int, scheduled: float) -> None:
        connection.request, connection.scheduled, connection.busy = request, scheduled, True
        connection.sent, connection.received = 0, b""
        connection.deadline = clock() + self._load.timeout_s
        self._send_more(connection)

    def _send_more(self, connection: _Connection) -> None:
        data = self._requests[connection.request]
        try:
            connection.sent += connection.socket.send(data[connection.sent :])
        except BlockingIOError:
            pass
        except OSError as error:
            self._handle_close(connection, str(error))
            return
        if (sending := connection.sent < len(data)) != connection.sending:
            connection.sending = sending
            self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if sending else 0))

    def _poll(self, seconds: float) -> None:
        for number, event in self._events(seconds):
            connection = self._connections.get(number)
            if connection is None:
                continue
            if event & select.EPOLLOUT:
                self._send_more(connection)
            if event & ~select.EPOLLOUT and number in self._connections:
                self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._handle_close(connection, str(error))
            return
        if not connection.busy:
            # The server closed an idle connection, or sent unexpected data on it.
            self._handle_close(connection, "")
            return
        received = connection.received = connection.received + data if connection.received else data
        length = response_length(received)
        if length == INCOMPLETE or (length == UNTIL_CLOSE and data):
            if not data:
                self._handle_close(connection, "the server closed the connection before the response was complete")
            return
        self._complete(connection, received)

    def _complete(self, connection: _Connection, response: bytes) -> None:
        """Complete the request with a whole response of any status."""
        connection.busy, connection.reused = False, True
        if closes_connection(response) or response_length(response) == UNTIL_CLOSE:
            self._remove(connection)
        else:
            self._idle.append(connection)
        if (code := status(response)) == 200:
            self._succeeded(connection.scheduled, connection.request, response)
        elif code:
            self._failed(f"HTTP {code}: {headers_and_body(response)[1].decode(errors='replace')}")
        else:
            self._failed(f"the response is not HTTP: {response!r}")
        self._after_completion()

    def _handle_close(self, connection: _Connection, cause: str) -> None:
        """Handle a connection that the server closed; send the request again if it was closed while idle."""
        self._remove(connection)
        if not connection.busy:
            self._idle.remove(connection)
            return
        if connection.reused and not connection.received:
            self._recorder.records.reconnects += 1
            with contextlib.suppress(OSError):
                self._send_on(self._connect(), connection.request, connection.scheduled)
                return
        self._failed(f"no response: {cause}")

    def _expire(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if connection.busy and now > connection.deadline:
                self._remove(connection)
                self._failed(f"no response within {self._load.timeout_s:g} s")

    def _remove(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        if self._connections.pop(number, None) is not None:
            self._epoll.unregister(number)
            connection.socket.close()

    def _close(self) -> None:
        for connection in list(self._connections.values()):
            self._remove(connection)
