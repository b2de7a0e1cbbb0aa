"""The requests of a batch computed together, and an outcome for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

log = logging.getLogger(__name__)

Input = TypeVar("Input")
Output = TypeVar("Output")


def run_together(
    run: Callable[[Sequence[Input]], Sequence[Output]], inputs: Sequence[Input]
) -> list[Output | Exception]:
    """Run what several requests bring together.

    run: to what each of them gets, in the same order. Returns, in that order, what each gets, or the exception that
    cost it its answer: if the run over all fails, which is logged, each request is run alone. What one request causes,
    no other one pays for.
    """
    if not inputs:
        return []
    try:
        return list(run(inputs))
    except Exception as error:
        if len(inputs) == 1:
            return [error]
        log.exception("a batch of %d requests failed, and each is run alone", len(inputs))
        return [outcome for alone in inputs for outcome in run_together(run, [alone])]
