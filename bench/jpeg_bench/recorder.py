"""Records the requests of one client process."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field

MAX_CONSECUTIVE_FAILURES = 100
"""Abort the load after this many consecutive failures."""

MAX_FAILURE_MESSAGES = 5
_MAX_MESSAGE_LENGTH = 300

clock = time.monotonic  # CLOCK_MONOTONIC: the same for all processes of the machine


@dataclass
class Records:
    """The records of one client process.

    Attributes:
        scheduled: Scheduled time of each successful request that completed after the warm-up, in seconds on `clock`.
        completed: Time of the last byte of its response.
        requests: Its index in the list of prepared requests.
        responses: Last response to each prepared request, by index.
        failures: Number of failed requests.
        delayed: See `LoadResult.delayed`.
        reconnects: See `LoadResult.reconnects`.
        failure_messages: Different failures.
        cpu_s: CPU seconds of the process during the measurement.
    """

    scheduled: array[float] = field(default_factory=lambda: array("d"))
    completed: array[float] = field(default_factory=lambda: array("d"))
    requests: array[int] = field(default_factory=lambda: array("H"))
    responses: dict[int, bytes] = field(default_factory=dict)
    failures: int = 0
    delayed: int = 0
    reconnects: int = 0
    failure_messages: list[str] = field(default_factory=list)
    cpu_s: float = 0.0


class Recorder:
    """Records the requests of a measurement.

    Args:
        begin: Begin of the measurement, in seconds on `clock`.
        end: End of the measurement.
    """

    def __init__(self, begin: float, end: float) -> None:
        self.begin, self.end = begin, end
        self.records = Records()
        self._consecutive_failures = 0

    @property
    def aborted(self) -> bool:
        """Whether the load is aborted because of too many consecutive failures."""
        return self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES

    def succeeded(self, scheduled: float, completed: float, request: int, response: bytes) -> None:
        """Record a successful request.

        Args:
            scheduled: Scheduled time.
            completed: Time of the last byte of the response.
            request: Index of the prepared request.
            response: The gRPC message or the whole HTTP response.
        """
        self._consecutive_failures = 0
        if completed < self.begin:
            return
        records = self.records
        records.scheduled.append(scheduled)
        records.completed.append(completed)
        records.requests.append(request)
        records.responses[request] = response

    def failed(self, completed: float, message: str) -> None:
        """Record a failed request. Failures during the warm-up count only if they abort the load."""
        self._consecutive_failures += 1
        if completed < self.begin and not self.aborted:
            return
        self.records.failures += 1
        message = message[:_MAX_MESSAGE_LENGTH]
        messages = self.records.failure_messages
        if len(messages) < MAX_FAILURE_MESSAGES and message not in messages:
            messages.append(message)
