"""Which labels of each image a request gets."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from numbers import Real

from jpeg_client.errors import InvalidArgument


@dataclass(frozen=True)
class TopK:
    """Which labels of each image a request gets; None leaves it to the server.

    Attributes:
        k: At most so many.
        threshold: Those with a lower score are left out, 0 to 1.

    Raises:
        InvalidArgument: k does not fit into 32 bits, or the threshold is out of range. The server knows the range of k.
    """

    k: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.k is not None and not _fits(self.k):
            raise InvalidArgument(f"k must be from 1 to the number of classes, but is {self.k!r}", reason="invalid_k")
        if self.threshold is not None:
            object.__setattr__(self, "threshold", _checked(self.threshold))

    @property
    def parameters(self) -> dict[str, int | float]:
        """The parameters of a request."""
        named = {"k": None if self.k is None else int(self.k), "threshold": self.threshold}
        return {name: value for name, value in named.items() if value is not None}


def _fits(k: int) -> bool:
    try:
        return -(2**31) <= operator.index(k) < 2**31
    except TypeError:
        return False


def _checked(threshold: object) -> float:
    if not isinstance(threshold, Real) or not 0 <= float(threshold) <= 1:
        raise InvalidArgument(f"threshold must be from 0 to 1, but is {threshold!r}", reason="invalid_threshold")
    return float(threshold)
