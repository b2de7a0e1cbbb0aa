"""Arrays of several requests as one, and what comes of it in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Input = TypeVar("Input")

# (N, ...) to (N, ...), in host memory.
Run = Callable[[Array], Array]
# What several requests bring, wherever it lies, to what each of them gets, in the same order.
RunEach = Callable[[Sequence[Input]], Sequence[Array]]


def concatenated(run: Run) -> RunEach[Array]:
    """What runs several arrays, alike but for the length of the first axis, as one."""

    def run_each(inputs: Sequence[Array]) -> Sequence[Array]:
        # A single request is the common case under light load, and needs no copy.
        output = run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        return split_rows(output, [len(rows) for rows in inputs])

    return run_each


def split_rows(output: Array, sizes: Sequence[int]) -> list[Array]:
    """Cut an output along its first axis. Raises RuntimeError if it is not as long as `sizes` together."""
    if len(output) != sum(sizes):
        raise RuntimeError(f"the network answered {len(output)} rows for {sum(sizes)} images")
    return list(np.split(output, np.cumsum(sizes)[:-1]))
