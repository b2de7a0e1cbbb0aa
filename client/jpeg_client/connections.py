"""Connections that the threads of a process share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from jpeg_client.errors import JpegClientError

_Connection = TypeVar("_Connection")


@dataclass
class _Entry(Generic[_Connection]):
    connection: _Connection
    generation: int
    requests: int = 0


class ConnectionPool(Generic[_Connection]):
    """Connections to one server address, opened when a request needs one, and safe to share between threads.

    Several servers may share the address: after a failure all connections are replaced, because a new one may reach
    another server.

    Args:
        connect: Opens a connection.
        disconnect: Closes a connection that carries no request.
        multiplexed: Whether one connection carries the requests of all threads, instead of one at a time.
    """

    def __init__(
        self,
        connect: Callable[[], _Connection],
        disconnect: Callable[[_Connection], None],
        *,
        multiplexed: bool,
    ) -> None:
        self._connect, self._disconnect, self._multiplexed = connect, disconnect, multiplexed
        self._lock = threading.Lock()
        self._available: list[_Entry[_Connection]] = []
        self._generation = 0
        self._closed = False

    @contextmanager
    def lease(self, is_failure: Callable[[BaseException], bool]) -> Iterator[_Connection]:
        """Yield a connection for one request.

        Args:
            is_failure: Whether an exception of the request means that later requests need new connections.

        Raises:
            JpegClientError: The pool is closed.
        """
        entry = self._take()
        try:
            yield entry.connection
        except BaseException as error:
            if is_failure(error):
                self._retire(entry)
            raise
        finally:
            self._give_back(entry)

    def close(self) -> None:
        """Refuse new requests, and close the connections; those with open requests close after their responses."""
        with self._lock:
            self._closed = True
            unused = self._withdraw()
        self._disconnect_all(unused)

    def _take(self) -> _Entry[_Connection]:
        with self._lock:
            if self._closed:
                raise JpegClientError("the client is closed: create a new one", reason="client_closed")
            entry = self._available.pop() if self._available else _Entry(self._connect(), self._generation)
            entry.requests += 1
            if self._multiplexed:
                self._available.append(entry)
            return entry

    def _give_back(self, entry: _Entry[_Connection]) -> None:
        with self._lock:
            entry.requests -= 1
            is_retired = self._closed or entry.generation != self._generation
            if not is_retired and not self._multiplexed:
                self._available.append(entry)
            is_unused = is_retired and entry.requests == 0
        if is_unused:
            self._disconnect(entry.connection)

    def _retire(self, entry: _Entry[_Connection]) -> None:
        """Replace all connections, unless another thread has done it since this one was opened."""
        with self._lock:
            unused = self._withdraw() if entry.generation == self._generation else []
        self._disconnect_all(unused)

    def _withdraw(self) -> list[_Entry[_Connection]]:
        """Begin a new generation, and return the connections without requests; the lock is held."""
        self._generation += 1
        unused = [entry for entry in self._available if entry.requests == 0]
        self._available.clear()
        return unused

    def _disconnect_all(self, entries: list[_Entry[_Connection]]) -> None:
        for entry in entries:
            self._disconnect(entry.connection)
