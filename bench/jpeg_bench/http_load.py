"""One process that asks over HTTP/1.1: keep-alive connections in one epoll loop, with as little Python as may be.

The load generator runs on the machine that it measures. A general client (urllib3, aiohttp) takes several times the
CPU of this one for each request, which would be taken from the server.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Sequence
from time import process_time, sleep

from jpeg_bench.arrivals import arrivals
from jpeg_bench.asks import Ask, Load
from jpeg_bench.errors import BenchError
from jpeg_bench.http_answer import INCOMPLETE, UNTIL_CLOSE, closes, end_of_answer, headers_and_body, status
from jpeg_bench.recorder import Recorder, clock

_CONNECT_S = 5.0
_CHUNK = 1 << 18
_WAKE_S = 0.25  # how often time-outs and the window are looked at when nothing happens


class _Connection:
    """A connection and the request on it."""

    __slots__ = ("ask", "deadline", "due", "is_busy", "is_reused", "is_sending", "received", "sent", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.ask, self.due, self.deadline, self.sent = 0, 0.0, 0.0, 0
        self.received = b""
        self.is_busy = self.is_reused = self.is_sending = False


class HttpLoad:
    """See `jpeg_bench.load`. Raises BenchError if nothing listens there."""

    def __init__(self, asks: Sequence[Ask], load: Load, index: int, count: int) -> None:
        self._requests = [memoryview(ask.http_bytes()) for ask in asks]
        host, _, port = asks[0].address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._load = load
        self._arrivals = arrivals(load, index=index, count=count) if load.arrivals_per_s else iter(())
        self._next_ask = index * len(asks) // count
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._backlog: deque[float] = deque()
        try:
            for _ in range(load.in_flight or 1):
                self._idle.append(self._connect())
        except OSError as error:
            raise BenchError(
                f"nothing answers at http://{asks[0].address} ({error}): is it running, and is that the right port?"
            ) from error

    def run(self, start: float, recorder: Recorder) -> None:
        """Ask from `start` to the end of the recorder's window, and wait for what is under way then."""
        self._recorder = recorder
        begin_cpu: float | None = None
        due = start + next(self._arrivals, 0.0)
        looked = start
        sleep(max(0.0, start - clock()))
        while (now := clock()) < recorder.end and not recorder.gave_up:
            if begin_cpu is None and now >= recorder.begin:
                begin_cpu = process_time()
            if self._load.in_flight:
                while self._idle:
                    self._send(self._idle.pop(), clock())
            else:
                while due <= now:
                    self._is_due(due)
                    due = start + next(self._arrivals)
            if now - looked > _WAKE_S:
                looked = now
                self._time_out(now)
            until = min(recorder.end, now + _WAKE_S) if self._load.in_flight else min(due, recorder.end, now + _WAKE_S)
            self._poll(max(0.0, until - clock()))
        recorder.notes.cpu_s = 0.0 if begin_cpu is None else process_time() - begin_cpu
        self._finish()
        for connection in list(self._connections.values()):
            self._forget(connection)
        self._epoll.close()

    def _finish(self) -> None:
        """Wait for what is under way, and send what was due in the window and was held back."""
        limit = clock() + self._load.timeout_s
        while not self._recorder.gave_up and any(each.is_busy for each in self._connections.values()):
            self._poll(_WAKE_S)
            self._time_out(clock())
            if clock() > limit:
                break
        for _ in self._backlog:
            self._recorder.failed(clock(), f"not sent within {self._load.timeout_s:g} s: too many were under way")

    def _is_due(self, due: float) -> None:
        self._backlog.append(due)
        while self._backlog and (connection := self._free()) is not None:
            self._send(connection, self._backlog.popleft())
        if self._backlog and due >= self._recorder.begin:
            self._recorder.notes.held_back += 1

    def _free(self) -> _Connection | None:
        if self._idle:
            return self._idle.pop()
        if len(self._connections) >= self._load.most_outstanding:
            return None
        try:
            return self._connect()
        except OSError as error:
            self._recorder.failed(clock(), f"no connection: {error}")
            return None

    def _connect(self) -> _Connection:
        opened = socket.create_connection(self._address, timeout=_CONNECT_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        connection = _Connection(opened)
        self._connections[opened.fileno()] = connection
        self._epoll.register(opened.fileno(), select.EPOLLIN)
        return connection

    def _send(self, connection: _Connection, due: float, ask: int | None = None) -> None:
        if ask is None:
            ask = self._next_ask
            self._next_ask = (ask + 1) % len(self._requests)
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
        # epoll counts milliseconds, select microseconds, which arrivals need.
        if seconds and self._load.arrivals_per_s:
            select.select([self._epoll.fileno()], [], [], seconds)
            seconds = 0.0
        for number, event in self._epoll.poll(seconds):
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
        received = connection.received = connection.received + data if connection.received else data
        end = end_of_answer(received)
        if end == INCOMPLETE or (end == UNTIL_CLOSE and data):
            if not data:
                self._broken(connection, "the server closed the connection before it had answered")
            return
        if not connection.is_busy:
            self._forget(connection)
            return
        self._answered(connection, received)

    def _answered(self, connection: _Connection, answer: bytes) -> None:
        now, recorder = clock(), self._recorder
        connection.is_busy, connection.is_reused = False, True
        if (code := status(answer)) == 200:
            recorder.answered(connection.due, now, connection.ask, answer)
        else:
            said = headers_and_body(answer)[1].decode(errors="replace") if code else repr(answer)
            recorder.failed(now, f"HTTP {code}: {said}" if code else f"no HTTP, but {said}")
        if closes(answer) or end_of_answer(answer) == UNTIL_CLOSE:
            self._forget(connection)
            self._replace()
        elif self._backlog:
            self._send(connection, self._backlog.popleft())
        elif self._load.in_flight and now < recorder.end and not recorder.gave_up:
            self._send(connection, now)
        else:
            self._idle.append(connection)

    def _broken(self, connection: _Connection, why: str) -> None:
        """A connection that the server closed. If it was between two requests, the one on it is sent again."""
        self._forget(connection)
        if not connection.is_busy:
            if connection in self._idle:
                self._idle.remove(connection)
            self._replace()
            return
        if connection.is_reused and not connection.received:
            self._recorder.notes.reconnects += 1
            with contextlib.suppress(OSError):
                self._send(self._connect(), connection.due, connection.ask)
                return
        self._recorder.failed(clock(), f"no answer: {why}")
        self._replace()

    def _replace(self) -> None:
        """Another connection for one that is gone; an open loop makes one when it needs it."""
        if not self._load.in_flight or clock() >= self._recorder.end:
            return
        while not self._recorder.gave_up:
            try:
                connection = self._connect()
            except OSError as error:
                self._recorder.failed(clock(), f"no connection: {error}")
            else:
                self._idle.append(connection)
                return

    def _time_out(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if connection.is_busy and now > connection.deadline:
                self._forget(connection)
                self._recorder.failed(now, f"no answer within {self._load.timeout_s:g} s")
                self._replace()

    def _forget(self, connection: _Connection) -> None:
        number = connection.socket.fileno()
        if self._connections.pop(number, None) is not None:
            self._epoll.unregister(number)
            connection.socket.close()
