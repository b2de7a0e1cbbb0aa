"""Split batches to the supported size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def split_batches(run: Run, largest: int) -> Run:
    """Run batches of any size through a function that takes at most `largest` images."""

    def run_all(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([run(pixels[first : first + largest]) for first in range(0, len(pixels), largest)])

    return run_all
