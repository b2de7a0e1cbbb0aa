"""Any batch on a network that takes only some sizes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
Run = Callable[[Pixels], Logits]


def any_batch(run: Run, smallest: int, largest: int) -> Run:
    """`run` for batches of any size from 1 on: larger ones are cut, smaller ones filled up with their last image."""

    def run_part(pixels: Pixels) -> Logits:
        missing = smallest - len(pixels)
        if missing <= 0:
            return run(pixels)
        return run(np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)]))[: len(pixels)]

    def run_all(pixels: Pixels) -> Logits:
        return np.concatenate([run_part(pixels[first : first + largest]) for first in range(0, len(pixels), largest)])

    return run_all
