"""The schedule of an open loop."""

from __future__ import annotations

import random
from collections.abc import Iterator

from jpeg_bench.load import Load


def send_times(load: Load, *, index: int = 0, count: int = 1) -> Iterator[float]:
    """Yield the scheduled times of the requests of one client process, without end.

    Args:
        load: The load of this process, one of `Load.split`.
        index: Number of this process.
        count: Number of processes. Constant intervals are offset, so that all processes together are evenly spaced.

    Yields:
        Seconds since the start of the load.
    """
    interval = 1 / load.request_rate
    if load.distribution == "constant":
        time = interval * index / count
        while True:
            yield time
            time += interval
    generator = random.Random(load.seed)  # noqa: S311, no cryptographic use
    time = 0.0
    while True:
        time += generator.expovariate(load.request_rate)
        yield time
