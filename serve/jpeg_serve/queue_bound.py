"""Bounds the queue in front of a server's first step.

Triton could do that with a queue policy, but with any policy 2.51 lets responses wait for half a second again and again
(tried). So `jpeg-serve` looks at Triton's own count of waiting requests, and tells the first step how many to refuse.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from jpeg_contract.run_folder import begun_requests, write_excess
from jpeg_contract.tensors import PREPROCESS

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
        most: How many requests may wait; 0 for `LEAST_BOUND`, or what is begun in `BOUND_S` if that is more.
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
        reading, rate = 0, 0.0
        begun, at = begun_requests(self._folder), time.monotonic()
        excess_before = 0
        while not self._ending.wait(_LOOK_S):
            try:
                waiting = waiting_requests(read_metrics(self._address)).get(PREPROCESS, 0)
            except OSError:
                continue  # switched off, or the server ends, which others notice
            before, begun_before, at, begun = at, begun, time.monotonic(), begun_requests(self._folder)
            rate += _SMOOTHING * (max(0, begun - begun_before) / (at - before) - rate)
            excess = max(0, waiting - (self._most or max(LEAST_BOUND, int(rate * BOUND_S))))
            if excess or excess_before:
                reading += 1
                write_excess(self._folder, reading, excess)
            excess_before = excess
