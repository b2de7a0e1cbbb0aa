"""Sends requests in a closed or an open loop; the protocols are subclasses."""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from time import process_time, sleep

from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.recorder import Recorder, clock
from jpeg_bench.send_schedule import send_times

_POLL_S = 0.25  # interval of the checks for timeouts and for the end of the measurement


class PacedSender(ABC):
    """Sends requests from one thread with one epoll. A subclass sends a request and receives its response.

    Args:
        requests: Prepared requests, sent in rotation.
        load: The load of this process, one of `Load.split`.
        index: Number of this client process.
        count: Number of client processes.
    """

    _recorder: Recorder

    def __init__(self, requests: Sequence[PreparedRequest], load: Load, index: int, count: int) -> None:
        self._load = load
        self._schedule = send_times(load, index=index, count=count) if load.request_rate else iter(())
        self._request_count = len(requests)
        self._next_request = index * len(requests) // count
        self._max_outstanding = load.concurrency or load.max_outstanding
        self._outstanding = 0
        self._delayed: deque[float] = deque()
        self._epoll = select.epoll()

    def run(self, start: float, recorder: Recorder) -> None:
        """Send requests until the measurement ends, and wait for the outstanding responses.

        Args:
            start: Time of the first request, in seconds on `recorder.clock`.
            recorder: Records the requests.
        """
        self._recorder = recorder
        begin_cpu: float | None = None
        scheduled = start + next(self._schedule, 0.0)
        checked = start
        sleep(max(0.0, start - clock()))
        while (now := clock()) < recorder.end and not recorder.aborted:
            if begin_cpu is None and now >= recorder.begin:
                begin_cpu = process_time()
            wake = min(recorder.end, now + _POLL_S)
            if self._load.concurrency:
                while self._can_send():
                    self._send_next(clock())
            else:
                while scheduled <= now:
                    self._send_or_delay(scheduled)
                    scheduled = start + next(self._schedule)
                wake = min(wake, scheduled)
            if now - checked > _POLL_S:
                checked = now
                self._expire(now)
            self._poll(max(0.0, wake - clock()))
        recorder.records.cpu_s = 0.0 if begin_cpu is None else process_time() - begin_cpu
        self._drain()
        self._close()
        self._epoll.close()

    @abstractmethod
    def _send(self, request: int, scheduled: float) -> None:
        """Send a request; `_succeeded` or `_failed` completes it, now or later.

        Args:
            request: Index of the prepared request.
            scheduled: Scheduled time.
        """

    @abstractmethod
    def _poll(self, seconds: float) -> None:
        """Wait for events for at most this many seconds, and handle them."""

    @abstractmethod
    def _close(self) -> None:
        """Close all connections."""

    def _expire(self, now: float) -> None:  # noqa: B027, libcurl has its own timeouts
        """Fail requests that exceed the time limit."""

    def _succeeded(self, scheduled: float, request: int, response: bytes) -> None:
        """Complete a request with a successful response."""
        self._outstanding -= 1
        self._recorder.succeeded(scheduled, clock(), request, response)

    def _failed(self, message: str) -> None:
        """Complete a request that failed."""
        self._outstanding -= 1
        self._recorder.failed(clock(), message)

    def _after_completion(self) -> None:
        """Send a delayed request, or the next request of a closed loop."""
        if self._delayed and self._can_send():
            self._send_next(self._delayed.popleft())
        elif self._load.concurrency and self._can_send() and (now := clock()) < self._recorder.end:
            self._send_next(now)

    def _events(self, seconds: float) -> list[tuple[int, int]]:
        # epoll has a resolution of 1 ms; an open loop needs the microseconds of select.
        if seconds and self._load.request_rate:
            select.select([self._epoll.fileno()], [], [], seconds)
            seconds = 0.0
        return self._epoll.poll(seconds)

    def _drain(self) -> None:
        """Send the delayed requests of the measurement, and wait for the outstanding responses."""
        deadline = clock() + self._load.timeout_s
        while self._outstanding and not self._recorder.aborted and clock() <= deadline:
            self._poll(_POLL_S)
            self._expire(clock())
            self._send_delayed()
        for _ in self._delayed:
            self._recorder.failed(clock(), f"not sent within {self._load.timeout_s:g} s: too many outstanding requests")

    def _send_or_delay(self, scheduled: float) -> None:
        self._delayed.append(scheduled)
        self._send_delayed()
        if self._delayed and scheduled >= self._recorder.begin:
            self._recorder.records.delayed += 1

    def _send_delayed(self) -> None:
        while self._delayed and self._can_send():
            self._send_next(self._delayed.popleft())

    def _can_send(self) -> bool:
        return self._outstanding < self._max_outstanding and not self._recorder.aborted

    def _send_next(self, scheduled: float) -> None:
        request = self._next_request
        self._next_request = (request + 1) % self._request_count
        self._outstanding += 1
        self._send(request, scheduled)
