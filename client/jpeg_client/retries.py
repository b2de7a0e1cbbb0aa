"""Retries of one request within its time limit.

| error | retried |
|---|---|
| TooManyRequests | after the time in Retry-After |
| ServerUnavailable | while time remains: refused connections, UNAVAILABLE, HTTP 503, a full queue, a stopping server |
| InvalidResponse | while time remains: a wrong checksum |
| RequestLost | once: the server may have died of the request, which must not end one server after the other |
| any other, and ProtocolMismatch | no |
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import stamina

from jpeg_client.errors import (
    JpegClientError,
    ProtocolMismatch,
    RequestLost,
    ServerTimeout,
    ServerUnavailable,
    TooManyRequests,
)

WAIT_INITIAL_S, WAIT_JITTER_S, WAIT_MAX_S = 0.1, 1.0, 2.0
"""Exponential back-off and its jitter, as stamina defines them; at most a tenth of the time limit."""

MAX_LOST = 2
"""Attempts in all for a request that was sent and lost."""

SETTLE_S = 1.0
"""From the loss of a request to the next attempt: for moments, the port of a server that ends still accepts requests,
which are then lost without ever being read."""

MIN_ATTEMPT_S = 0.05
"""No attempt begins when less time remains."""

_Response = TypeVar("_Response")

# stamina logs each retry as a warning. Without a handler, Python would print it to stderr.
logging.getLogger("stamina").addHandler(logging.NullHandler())


def call_with_retries(request: Callable[[float], _Response], timeout_s: float, max_lost: int = MAX_LOST) -> _Response:
    """Send a request, and retry it with back-off and jitter until it succeeds or the time is over.

    Args:
        request: Sends the request with a time limit in seconds, the time that remains.
        timeout_s: Time limit for all attempts and the waits between them, in seconds.
        max_lost: Attempts in all for a request that is lost.

    Raises:
        JpegClientError: The error of the last attempt; that of the one before if time was too short for the last one.
    """
    try:
        return _retried(request, _Backoff(timeout_s, max_lost))
    except JpegClientError as error:
        # The frames of the retries hold the error, and its frames the call of gRPC, with its connection.
        raise error.with_traceback(None) from error.__cause__


async def call_with_retries_async(
    request: Callable[[float], Awaitable[_Response]], timeout_s: float, max_lost: int = MAX_LOST
) -> _Response:
    """Do what `call_with_retries` does, between other tasks."""
    try:
        return await _retried_async(request, _Backoff(timeout_s, max_lost))
    except JpegClientError as error:
        raise error.with_traceback(None) from error.__cause__


def _retried(request: Callable[[float], _Response], backoff: _Backoff) -> _Response:
    for attempt in backoff.attempts():
        with attempt, backoff.limited() as limit_s:
            return request(limit_s)
    raise AssertionError("stamina ends with a response or an exception")


async def _retried_async(request: Callable[[float], Awaitable[_Response]], backoff: _Backoff) -> _Response:
    async for attempt in backoff.attempts():
        with attempt, backoff.limited() as limit_s:
            return await request(limit_s)
    raise AssertionError("stamina ends with a response or an exception")


class _Backoff:
    """Decide whether a failed attempt is retried, and when: a backoff hook of stamina.

    Args:
        timeout_s: Time limit of the request in seconds.
        max_lost: Attempts in all for a request that is lost.

    Attributes:
        retried: The error of the last attempt that is retried.
    """

    def __init__(self, timeout_s: float, max_lost: int) -> None:
        self._timeout_s, self._max_lost = timeout_s, max_lost
        self._deadline = time.monotonic() + timeout_s
        self._lost = 0
        self._wait_max_s = min(WAIT_MAX_S, timeout_s / 10)
        self.retried: ServerUnavailable | TooManyRequests | None = None

    def attempts(self) -> Any:
        """Return stamina's attempts, for a loop."""
        return stamina.retry_context(
            self,
            attempts=None,
            timeout=None,  # the hook knows the deadline
            wait_initial=min(WAIT_INITIAL_S, self._wait_max_s),
            wait_jitter=WAIT_JITTER_S,
            wait_max=self._wait_max_s,
        )

    @contextmanager
    def limited(self) -> Iterator[float]:
        """Yield the time limit of one attempt in seconds, and let a cut attempt not hide the cause of the others."""
        limit_s = self._remaining_s()
        try:
            yield limit_s
        except ServerTimeout as late:
            if self.retried is None or limit_s > self._timeout_s / 2 or self.has_time():
                raise
            # Most of the time went into attempts with another cause.
            raise self.retried from late

    def _remaining_s(self) -> float:
        """Return the time that remains in seconds, above 0; the whole time limit for the first attempt."""
        if self.retried is None:
            return self._timeout_s
        return max(MIN_ATTEMPT_S, round(self._deadline - time.monotonic(), 3))

    def has_time(self) -> bool:
        """Whether time for another attempt remains."""
        return self._deadline - time.monotonic() > MIN_ATTEMPT_S

    def __call__(self, error: Exception) -> bool | float:
        """Return False to give up, True for stamina's own wait, or the wait in seconds."""
        if not isinstance(error, (ServerUnavailable, TooManyRequests)) or isinstance(error, ProtocolMismatch):
            return False
        if not self.has_time():
            return False
        if isinstance(error, RequestLost):
            self._lost += 1
            if self._lost >= self._max_lost:
                return False
        wait = self._wait_s(error)
        if wait is not False:
            self.retried = error
        return wait

    def _wait_s(self, error: ServerUnavailable | TooManyRequests) -> bool | float:
        left_s = self._deadline - time.monotonic()
        if isinstance(error, RequestLost):
            # An estimate: a shorter wait is better than none.
            wait_s = error.wait_s or min(SETTLE_S, self._wait_max_s)
            return min(wait_s + random.uniform(0, self._wait_max_s), left_s / 2)  # noqa: S311  # not a secret
        spare_s = left_s - error.wait_s
        if spare_s <= MIN_ATTEMPT_S:
            return False
        if error.wait_s:
            # Jitter spreads the retries of many clients; half of the spare time is kept for the response.
            return error.wait_s + random.uniform(0, min(WAIT_JITTER_S, spare_s / 2))  # noqa: S311  # not a secret
        # Near the deadline, stamina's wait might be longer than the time that remains.
        return True if left_s > self._wait_max_s else left_s / 2
