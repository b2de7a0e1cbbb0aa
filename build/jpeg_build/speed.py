"""How fast are artefacts on this machine?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from jpeg_build.emitters import Emitter, Pixels, Run

BATCH = 8
BATCHES = (1, 8, 32, 64)
ROUNDS = 5
SECONDS_A_ROUND = 0.5


def images_per_second(artefacts: Mapping[str, Path], emitter: Emitter, photos: Pixels) -> dict[str, float]:
    """Images a second of each artefact in batches of 8, the median of five rounds.

    In every round each artefact has its turn, so that a machine that is busy for a while is so for all of them.
    """
    batch = np.resize(photos, (BATCH, *photos.shape[1:]))
    found: dict[str, list[float]] = {name: [] for name in artefacts}
    with ExitStack() as stack:
        runs = {name: stack.enter_context(emitter.opened(path)) for name, path in artefacts.items()}
        for run in runs.values():
            run(batch)
        for _ in range(ROUNDS):
            for name, run in runs.items():
                found[name].append(_once(run, batch))
    return {name: median(values) for name, values in found.items()}


def by_batch_size(run: Run, photos: Pixels) -> dict[int, float]:
    """Images a second in batches of 1, 8, 32 and 64, from host memory to host memory; medians of five rounds."""
    found: dict[int, list[float]] = {size: [] for size in BATCHES}
    batches = {size: np.resize(photos, (size, *photos.shape[1:])) for size in BATCHES}
    for batch in batches.values():
        run(batch)
    for _ in range(ROUNDS):
        for size, batch in batches.items():
            found[size].append(_once(run, batch))
    return {size: round(median(values), 1) for size, values in found.items()}


def _once(run: Run, batch: Pixels) -> float:
    count, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < SECONDS_A_ROUND:
        run(batch)
        count += len(batch)
    return count / elapsed
