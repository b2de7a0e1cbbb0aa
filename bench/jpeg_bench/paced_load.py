"""When a client process asks: a closed or an open loop, whatever the protocol is."""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from time import process_time, sleep

from jpeg_bench.arrivals import arrivals
from jpeg_bench.asks import Ask, Load
from jpeg_bench.recorder import Recorder, clock

_WAKE_S = 0.25  # how often time-outs and the window are looked at when nothing happens


class PacedLoad(ABC):
    """See `jpeg_bench.load`. One thread and one epoll; a protocol adds how a request is sent and an answer received."""

    _recorder: Recorder

    def __init__(self, asks: Sequence[Ask], load: Load, index: int, count: int) -> None:
        self._load = load
        self._arrivals = arrivals(load, index=index, count=count) if load.arrivals_per_s else iter(())
        self._asks = len(asks)
        self._upcoming = index * len(asks) // count
        self._most = load.in_flight or load.most_outstanding
        self._under_way = 0
        self._backlog: deque[float] = deque()
        self._epoll = select.epoll()

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
            until = min(recorder.end, now + _WAKE_S)
            if self._load.in_flight:
                while self._has_room():
                    self._ask(clock())
            else:
                while due <= now:
                    self._is_due(due)
                    due = start + next(self._arrivals)
                until = min(until, due)
            if now - looked > _WAKE_S:
                looked = now
                self._time_out(now)
            self._poll(max(0.0, until - clock()))
        recorder.notes.cpu_s = 0.0 if begin_cpu is None else process_time() - begin_cpu
        self._finish()
        self._close()
        self._epoll.close()

    @abstractmethod
    def _send(self, ask: int, due: float) -> None:
        """Begin a request, which is counted as under way; `_answered` or `_failed` ends it, at once or later."""

    @abstractmethod
    def _poll(self, seconds: float) -> None:
        """Wait so long at most, and go on with what can go on."""

    @abstractmethod
    def _close(self) -> None:
        """Close all connections."""

    def _time_out(self, now: float) -> None:  # noqa: B027  # libcurl looks after its own
        """What has waited too long has failed."""

    def _answered(self, due: float, ask: int, answer: bytes) -> None:
        """A right answer."""
        self._under_way -= 1
        self._recorder.answered(due, clock(), ask, answer)

    def _failed(self, message: str) -> None:
        """An answer that is not right, or none."""
        self._under_way -= 1
        self._recorder.failed(clock(), message)

    def _next(self) -> None:
        """An answer lets the next request go: one that was held back, or one of a closed loop."""
        if self._backlog and self._has_room():
            self._ask(self._backlog.popleft())
        elif self._load.in_flight and self._has_room() and (now := clock()) < self._recorder.end:
            self._ask(now)

    def _events(self, seconds: float) -> list[tuple[int, int]]:
        # epoll counts milliseconds, select microseconds, which arrivals need.
        if seconds and self._load.arrivals_per_s:
            select.select([self._epoll.fileno()], [], [], seconds)
            seconds = 0.0
        return self._epoll.poll(seconds)

    def _finish(self) -> None:
        """Wait for what is under way, and send what was due in the window and was held back."""
        limit = clock() + self._load.timeout_s
        while self._under_way and not self._recorder.gave_up and clock() <= limit:
            self._poll(_WAKE_S)
            self._time_out(clock())
            self._send_held_back()
        for _ in self._backlog:
            self._recorder.failed(clock(), f"not sent within {self._load.timeout_s:g} s: too many were under way")

    def _is_due(self, due: float) -> None:
        self._backlog.append(due)
        self._send_held_back()
        if self._backlog and due >= self._recorder.begin:
            self._recorder.notes.held_back += 1

    def _send_held_back(self) -> None:
        while self._backlog and self._has_room():
            self._ask(self._backlog.popleft())

    def _has_room(self) -> bool:
        return self._under_way < self._most and not self._recorder.gave_up

    def _ask(self, due: float) -> None:
        ask = self._upcoming
        self._upcoming = (ask + 1) % self._asks
        self._under_way += 1
        self._send(ask, due)
