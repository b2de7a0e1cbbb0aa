"""One run for all requests of a batch, and an outcome for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Array = NDArray[Any]
Run = Callable[[Array], Array]


def run_batched(run: Run, inputs: Sequence[Array]) -> list[Array | Exception]:
    """Concatenate `inputs` along the first axis, run once, and split the output as the inputs were.

    inputs: one array for each request, shapes alike but for the first axis, each of at least one row.
    run: takes (N, ...) and returns (N, ...).

    Returns, in the order of the requests, its part of the output or the exception that cost it its answer. If
    the run over all fails, each request is run alone: what one request causes, no other one pays for.
    """
    if not inputs:
        return []
    try:
        # A single request is the common case under light load, and needs no copy.
        output = run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        rows = [len(rows) for rows in inputs]
        if len(output) != sum(rows):
            raise RuntimeError(f"the network answered {len(output)} rows for {sum(rows)} images")
    except Exception as error:
        log.exception("a batch of %d requests failed", len(inputs))
        if len(inputs) == 1:
            return [error]
        return [outcome for alone in inputs for outcome in run_batched(run, [alone])]
    return list(np.split(output, np.cumsum(rows)[:-1]))
