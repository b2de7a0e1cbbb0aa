"""One run for all requests of a batch, and an outcome for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Array = NDArray[Any]
Input = TypeVar("Input")

# (N, ...) to (N, ...), in host memory.
Run = Callable[[Array], Array]
# What several requests bring, wherever it lies, to what each of them gets, in the same order.
RunEach = Callable[[Sequence[Input]], Sequence[Array]]


def run_batched(run: RunEach[Input], inputs: Sequence[Input]) -> list[Array | Exception]:
    """Run the inputs of all requests together.

    Returns, in the order of the requests, its part of the output or the exception that cost it its answer. If
    the run over all fails, each request is run alone: what one request causes, no other one pays for.
    """
    if not inputs:
        return []
    try:
        return list(run(inputs))
    except Exception as error:
        log.exception("a batch of %d requests failed", len(inputs))
        if len(inputs) == 1:
            return [error]
        return [outcome for alone in inputs for outcome in run_batched(run, [alone])]


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
