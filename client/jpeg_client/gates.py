"""Gates of a stream: many requests pass together, and a suspect passes alone.

A lost request may have ended its server. Its images are sent once more, each while no other request of the stream is
open: whichever ends the next server takes no other image with it.

A suspect also waits until what has ended is gone: a server that ends closes one connection after the other, and for
moments its port still accepts requests, which are then lost without ever being read.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from jpeg_client.errors import RequestLost
from jpeg_client.retries import SETTLE_S


class _Losses:
    """When the last request was lost."""

    def __init__(self) -> None:
        self._settled_at = 0.0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the loss of a request of the block."""
        try:
            yield
        except RequestLost:
            self._settled_at = time.monotonic() + SETTLE_S
            raise

    def left_s(self) -> float:
        """Return how long a suspect has to wait, in seconds."""
        return max(0.0, self._settled_at - time.monotonic())


class Gate:
    """A gate for threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open, self._waiting, self._is_alone = 0, 0, False
        self._losses = _Losses()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Pass with others. Who wants to pass alone comes first."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_alone)
            self._open += 1
        try:
            with self._losses.noted():
                yield
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Pass when all others have."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._open and not self._is_alone)
            self._waiting -= 1
            self._is_alone = True
        try:
            time.sleep(self._losses.left_s())
            with self._losses.noted():
                yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()


class AsyncGate:
    """A `Gate` for the tasks of an event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._open, self._waiting, self._is_alone = 0, 0, False
        self._losses = _Losses()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """See Gate."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting and not self._is_alone)
            self._open += 1
        try:
            with self._losses.noted():
                yield
        finally:
            async with self._changed:
                self._open -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """See Gate."""
        async with self._changed:
            self._waiting += 1
            try:
                await self._changed.wait_for(lambda: not self._open and not self._is_alone)
            finally:  # a cancelled task waits no more
                self._waiting -= 1
                self._changed.notify_all()
            self._is_alone = True
        try:
            await asyncio.sleep(self._losses.left_s())
            with self._losses.noted():
                yield
        finally:
            async with self._changed:
                self._is_alone = False
                self._changed.notify_all()
