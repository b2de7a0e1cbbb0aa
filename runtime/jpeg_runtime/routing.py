"""Which requests go to which of two classifiers, and how their logits are compared."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class Share:
    """Chooses an exact part of what it is called for, evenly spread: of a tenth, each tenth one.

    Args:
        percent: Above 0, up to 100.
    """

    def __init__(self, percent: float) -> None:
        self._percent, self._seen = percent, 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Return whether the next one is chosen."""
        with self._lock:
            before, self._seen = self._seen, self._seen + 1
        return int(self._seen * self._percent / 100) > int(before * self._percent / 100)


@dataclass(frozen=True)
class Comparison:
    """How many of N images have the same best class, and how many do not."""

    same: int
    different: int


def compare(primary: NDArray[np.float32], candidate: NDArray[np.float32]) -> Comparison:
    """Compare the best classes of two classifiers.

    Args:
        primary: (N, classes) logits.
        candidate: Likewise. With a single class, the sign of the logit is compared: on which side of 0.5 the score is.
    """
    if primary.shape[1] == 1:
        equal = (primary[:, 0] > 0) == (candidate[:, 0] > 0)
    else:
        equal = primary.argmax(axis=1) == candidate.argmax(axis=1)
    same = int(np.count_nonzero(equal))
    return Comparison(same, len(equal) - same)
