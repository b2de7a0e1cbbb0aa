"""How the threads of a CPU share a batch: all in one run, or each with images of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jpeg_backend.batching import Array, Run


class Sized:
    """Runs a small batch by all threads together, and a larger one by each thread for itself, a few images at a time.

    Threads that share a run wait for each other after each layer, which costs more the more threads there are, and most
    where other processes use the same cores; and the tensors of few images stay in the cores' caches (bench/NOTES.md
    has the numbers). But with fewer images than threads, only sharing occupies them all.

    together: runs a batch with all threads. alone: runs a batch with the thread that calls it. threads: how many call
    `alone` at a time. piece: the most images of one such call.
    """

    def __init__(self, together: Run, alone: Run, threads: int, piece: int) -> None:
        self._together, self._alone, self._threads, self._piece = together, alone, threads, piece
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="classify")

    def __call__(self, pixels: Array) -> Array:
        """(N, H, W, 3) uint8 to (N, classes) float32."""
        if len(pixels) < self._threads:
            return self._together(pixels)
        # No thread is without a piece.
        size = min(self._piece, len(pixels) // self._threads)
        pieces = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        return np.concatenate(list(self._pool.map(self._alone, pieces)))
