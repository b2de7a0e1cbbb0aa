"""When the requests of an open loop are due."""

from __future__ import annotations

import random
from collections.abc import Iterator

from jpeg_bench.asks import Load


def arrivals(load: Load, *, index: int = 0, count: int = 1) -> Iterator[float]:
    """Seconds after the start, without end, for process `index` of `count`, whose share `load` is.

    Poisson: exponential gaps. Otherwise evenly spaced, so that all processes together are evenly spaced, too.
    """
    gap = 1 / load.arrivals_per_s
    if not load.poisson:
        at = gap * index / count
        while True:
            yield at
            at += gap
    chance = random.Random(load.seed)  # noqa: S311  # no secret
    at = 0.0
    while True:
        at += chance.expovariate(load.arrivals_per_s)
        yield at
