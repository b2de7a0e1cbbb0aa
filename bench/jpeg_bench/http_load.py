"""One process that asks over HTTP/1.1: keep-alive connections in one epoll loop, with as little Python as may be.

The load generator runs on the machine that it measures. A general client (urllib3, aiohttp) takes several times the
CPU of this one for each request, which would be taken from the server.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Sequence

from jpeg_bench.asks import Ask, Load
from jpeg_bench.errors import BenchError
from jpeg_bench.http_answer import INCOMPLETE, UNTIL_CLOSE, closes, end_of_answer, headers_and_body, status
from jpeg_bench.paced_load import PacedLoad
from jpeg_bench.recorder import clock

_CONNECT_S = 5.0
_CHUNK = 1 << 18


class _Connection:
    """A connection and the request on it."""

    __slots__ = ("ask", "deadline", "due", "is_busy", "is_reused", "is_sending", "received", "sent", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.ask, self.due, self.deadline, self.sent = 0, 0.0, 0.0, 0
        self.received = b""
        self.is_busy = self.is_reused = self.is_sending = False


class HttpLoad(PacedLoad):
    """See `jpeg_bench.load`. Raises BenchError if nothing listens there."""

    def __init__(self, asks: Sequence[Ask], load: Load, index: int, count: int) -> None:
        super().__init__(asks, load, index, count)
        self._requests = [memoryview(ask.http_bytes()) for ask in asks]
        host, _, port = asks[0].address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        try:
            for _ in range(load.in_flight or 1):
                self._idle.append(self._connect())
        except OSError as error:
            raise BenchError(
                f"nothing answers at http://{asks[0].address} ({error}): is it running, and is that the right port?"
            ) from error

    def _connect(self) -> _Connection:
        opened = socket.create_connection(self._address, timeout=_CONNECT_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        connection = _Connection(opened)
        self._connections[opened.fileno()] = connection
        self._epoll.register(opened.fileno(), select.EPOLLIN)
        return connection

    def _send(self, ask: int, due: float) -> None:
        try:
            connection = self._idle.pop() if self._idle else self._connect()
        except OSError as error:
            self._failed(f"no connection: {error}")
            return
        self._send_on(connection, ask, due)

    def _send_on(self, connection: _Connection, ask: int, due: float) -> None:
        connection.ask, connection.due, connection.is_busy = ask, due, True
        connection.sent, connection.received = 0, b""
        connection.deadline = clock() + self._load.timeout_s
        self._send_more(connection)

    def _send_more(self, connection: _Connection) -> None:
        request = self._requests[connection.ask]
        try:
            connection.sent += connection.socket.send(request[connection.sent :])
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken(connection, str(error))
            return
        if (is_sending := connection.sent < len(request)) != connection.is_sending:
            connection.is_sending = is_sending
            more = select.EPOLLOUT if is_sending else 0
            self._epoll.modify(connection.socket.fileno(), select.EPOLLIN | more)

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
            data = connection.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(connection, str(error))
            return
        if not connection.is_busy:
            # Closed between two requests, or something that nobody asked for.
            self._broken(connection, "")
            return
        received = connection.received = connection.received + data if connection.received else data
        end = end_of_answer(received)
        if end == INCOMPLETE or (end == UNTIL_CLOSE and data):
            if not data:
                self._broken(connection, "the server closed the connection before it had answered")
            return
        self._take(connection, received)

    def _take(self, connection: _Connection, answer: bytes) -> None:
        """A whole answer, right or not."""
        connection.is_busy, connection.is_reused = False, True
        if closes(answer) or end_of_answer(answer) == UNTIL_CLOSE:
            self._forget(connection)
        else:
            self._idle.append(connection)
        if (code := status(answer)) == 200:
            self._answered(connection.due, connection.ask, answer)
        else:
            said = headers_and_body(answer)[1].decode(errors="replace") if code else repr(answer)
            self._failed(f"HTTP {code}: {said}" if code else f"no HTTP, but {said}")
        self._next()

    def _broken(self, connection: _Connection, why: str) -> None:
        """A connection that the server closed. If it was between two requests, the one on it is sent again."""
        self._forget(connection)
        if not connection.is_busy:
            self._idle.remove(connection)
            return
        if connection.is_reused and not connection.received:
            self._recorder.notes.reconnects += 1
            with contextlib.suppress(OSError):
                self._send_on(self._connect(), connection.ask, connection.due)
                return
        self._failed(f"no answer: {why}")

    def _time_out(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if connection.is_busy and now > connection.deadline:
                self._forget(connection)
                self._failed(f"no answer within {self._load.timeout_s:g} s")

    def _forget(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        if self._connections.pop(number, None) is not None:
            self._epoll.unregister(number)
            connection.socket.close()

    def _close(self) -> None:
        for connection in list(self._connections.values()):
            self._forget(connection)
