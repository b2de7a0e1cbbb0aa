"""Gates of a stream: many requests pass together, and a suspect passes alone.

A lost request may have ended its server. Its images are sent once more, each while no other request of the stream is
open: whichever ends the next server takes no other image with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Gate:
    """A gate for threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open, self._waiting, self._is_alone = 0, 0, False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Pass with others. Who wants to pass alone comes first."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_alone)
            self._open += 1
        try:
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

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """See Gate."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting and not self._is_alone)
            self._open += 1
        try:
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
            yield
        finally:
            async with self._changed:
                self._is_alone = False
                self._changed.notify_all()
