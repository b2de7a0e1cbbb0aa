"""Memory for the pixels of batches, taken again and again."""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
from numpy.typing import NDArray

# That of the attribute, and that of the argument of getrefcount.
_OWN_REFERENCES = 2


class PixelMemory:
    """One block of memory, of the size of the largest batch so far.

    A block as large as this one is given back to the system as soon as it is free, and a new one's pages take a tenth
    of the time of decoding (bench/NOTES.md).
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return an array of any values. While somebody holds it, or a part of it, the next one has other memory."""
        size = math.prod(shape)
        with self._lock:
            # Every view of the block holds it.
            if self._block.size < size or sys.getrefcount(self._block) > _OWN_REFERENCES:
                self._block = np.empty(size, np.uint8)
            return self._block[:size].reshape(shape)
