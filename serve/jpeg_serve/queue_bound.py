"""Bounds the queue in front of each first step of a server.

Triton could do that with a queue policy, but with any policy 2.51 lets responses wait for half a second again and again
(tried). So `jpeg-serve` looks at Triton's own count of waiting requests, and tells the first step how many to refuse.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from jpeg_contract.run_folder import begun_requests, write_excess

from jpeg_serve.triton_metrics import read_metrics, waiting_requests

LEAST_BOUND = 128
"""Requests that may wait however slow the server is, so that a burst is no overload."""

BOUND_S = 1.0
"""Beyond these, as many may wait as the server begins in this time, in seconds."""

_LOOK_S = 0.1
_SMOOTHING = 0.2


class QueueBound:
    """Watches the queue of one server, from `start` to `stop`, in a thread of its own.

    Args:
        run_folder: Of the server and its workers.
        metrics_address: HOST:PORT of the server's metrics.
        most: How many requests may wait for each first step; 0 for `LEAST_BOUND`, or what is begun in `BOUND_S` if that
            is more.
    """

    def __init__(self, run_folder: Path, metrics_address: str, most: int) -> None:
        self._folder, self._address, self._most = run_folder, metrics_address, most
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queue-bound", daemon=True)

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait for the thread."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        queues: dict[str, _Queue] = {}
        at = time.monotonic()
        while not self._ending.wait(_LOOK_S):
            try:
                waiting = waiting_requests(read_metrics(self._address))
            except OSError:
                continue  # switched off, or the server ends, which others notice
            before, at = at, time.monotonic()
            for model, begun in begun_requests(self._folder).items():
                queue = queues.setdefault(model, _Queue(begun))
                if queue.look(begun, at - before, waiting.get(model, 0), self._most):
                    write_excess(self._folder, model, queue.reading, queue.excess)


class _Queue:
    """The queue in front of one model.

    Args:
        begun: Requests that the model has begun until now.

    Attributes:
        excess: Requests that wait beyond the bound.
        reading: Number of the last reading that the model shall look at.
    """

    def __init__(self, begun: int) -> None:
        self.excess = self.reading = 0
        self._begun, self._rate = begun, 0.0

    def look(self, begun: int, seconds: float, waiting: int, most: int) -> bool:
        """Compute the excess; return whether the model shall look at it.

        Args:
            begun: Requests that the model has begun until now.
            seconds: Since the last call.
            waiting: Requests that wait.
            most: How many may; 0 for a bound by the rate.
        """
        self._rate += _SMOOTHING * (max(0, begun - self._begun) / seconds - self._rate)
        self._begun, before = begun, self.excess
        self.excess = max(0, waiting - (most or max(LEAST_BOUND, int(self._rate * BOUND_S))))
        if not self.excess and not before:
            return False
        self.reading += 1
        return True
