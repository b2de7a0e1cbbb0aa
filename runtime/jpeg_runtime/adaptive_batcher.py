"""How the threads of a CPU share a batch: all in one run, or each with images of its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jpeg_runtime.batching import Array, Run


class AdaptiveBatcher:
    """Runs a small batch by all threads together, and a larger one by each thread alone, a few images at a time.

    Threads that share a run wait for each other after each layer, which costs more the more threads there are, and most
    where other processes use the same cores; and the tensors of few images stay in the cores' caches (bench/NOTES.md
    has the numbers). But with fewer images than threads, only sharing occupies them all.

    Args:
        shared: Runs a batch with all threads.
        alone: Run a batch with the calling thread; one function for each thread.
        piece: The most images of one call of `alone`.
    """

    def __init__(self, shared: Run, alone: list[Run], piece: int) -> None:
        self._shared, self._piece, self._threads = shared, piece, len(alone)
        # Each thread of the pool takes a function for itself, and keeps it: a runtime's model may not be shared.
        self._free = list(alone)
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="classify")

    def __call__(self, pixels: Array) -> Array:
        """Run (N, H, W, 3) uint8 to (N, classes) float32."""
        if len(pixels) < self._threads:
            return self._shared(pixels)
        # Every thread gets a piece.
        size = min(self._piece, len(pixels) // self._threads)
        pieces = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        return np.concatenate(list(self._pool.map(self._run_alone, pieces)))

    def _run_alone(self, pixels: Array) -> Array:
        if not hasattr(self._local, "run"):
            self._local.run = self._free.pop()
        logits: Array = self._local.run(pixels)
        return logits
