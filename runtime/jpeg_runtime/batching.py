"""Batches of several requests: run together, split again, and retried alone if the batch fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Array = NDArray[Any]
Input = TypeVar("Input")
Output = TypeVar("Output")

Run = Callable[[Array], Array]
"""Runs a network on the host: (N, H, W, 3) uint8 to (N, classes) float32."""

RunEach = Callable[[Sequence[Any]], Sequence[Array]]
"""Runs the inputs of several requests together, wherever they lie; one output for each, in the same order."""


class NoBatchDimension(ValueError):
    """A request has a batch of 0 and the values of one image: Triton 2.51 lets it through, without that dimension."""


def check_batched(name: str, shape: Sequence[int], dims: int) -> None:
    """Check that a request's tensor has a dimension for the batch.

    Args:
        name: Of the tensor.
        shape: Of the tensor, as it reached the model.
        dims: Number of dimensions of one image.

    Raises:
        NoBatchDimension: It has none.
    """
    if len(shape) != 1 + dims:
        raise NoBatchDimension(f"{name} has a batch of 0: send at least one image, as {[1, *shape]} [bad_shape]")


def concatenated(run: Run) -> RunEach:
    """Run the arrays of several requests as one; they differ in the length of the first axis only."""

    def run_each(inputs: Sequence[Array]) -> Sequence[Array]:
        # A single request is the common case under light load, and needs no copy.
        output = run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        return split_rows(output, [len(rows) for rows in inputs])

    return run_each


def split_rows(output: Array, sizes: Sequence[int]) -> list[Array]:
    """Split an output along its first axis into parts of these sizes.

    Raises:
        RuntimeError: The output is not as long as the sizes together.
    """
    if len(output) != sum(sizes):
        raise RuntimeError(f"the network returned {len(output)} rows for {sum(sizes)} images")
    return list(np.split(output, np.cumsum(sizes)[:-1]))


def run_batch(
    run: Callable[[Sequence[Input]], Sequence[Output]], inputs: Sequence[Input | Exception]
) -> list[Output | Exception]:
    """Run a batch; if it raises, retry each request alone, so that no request pays for another.

    Args:
        run: Takes the inputs of several requests; returns one output for each, in the same order.
        inputs: The requests. An exception in the place of one is returned as it is.

    Returns:
        For each request its output, or the exception that cost it its output.
    """
    places = [place for place, each in enumerate(inputs) if not isinstance(each, Exception)]
    outcomes: list[Any] = list(inputs)
    for place, outcome in zip(places, _run_or_retry(run, [inputs[place] for place in places]), strict=True):
        outcomes[place] = outcome
    return outcomes


def _run_or_retry(run: Callable[[Sequence[Any]], Sequence[Any]], inputs: Sequence[Any]) -> list[Any]:
    if not inputs:
        return []
    try:
        return list(run(inputs))
    except Exception as error:
        if len(inputs) == 1:
            return [error]
        log.exception("a batch of %d requests failed: retrying each alone", len(inputs))
        return [outcome for each in inputs for outcome in _run_or_retry(run, [each])]
