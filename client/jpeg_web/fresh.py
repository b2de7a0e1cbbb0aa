"""Readings that many requests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Fresh(Generic[_Value]):
    """The result of an asynchronous reading, which is repeated on demand, at most once per period.

    Concurrent callers share one reading, and a failure lasts as long as a result.

    Args:
        read: Does the reading.
        lasts_s: Seconds from the begin of one reading to the next.
    """

    def __init__(self, read: Callable[[], Awaitable[_Value]], lasts_s: float) -> None:
        self._read, self._lasts_s = read, lasts_s
        self._task: asyncio.Task[_Value] | None = None
        self._begun = 0.0

    async def get(self) -> _Value:
        """Return the result of the current reading, or raise its exception."""
        task = self._task
        if task is None or (task.done() and time.monotonic() - self._begun >= self._lasts_s):
            self._begun = time.monotonic()
            self._task = task = asyncio.ensure_future(self._reading())
            task.add_done_callback(_retrieve)
        # A caller that leaves ends the reading of nobody else.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the current reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _reading(self) -> _Value:
        return await self._read()


def _retrieve(task: asyncio.Task[_Value]) -> None:
    """Take the exception of a task that nobody may await, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
