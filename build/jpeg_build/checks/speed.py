"""How fast are artefacts on this machine, as the server runs them?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np

from jpeg_build.emitters import Pixels

BATCH = 8
BATCHES = (1, 8, 32, 64)
ROUNDS = 5
SECONDS_A_ROUND = 0.5

Measure = Callable[[Pixels, float], float]
"""Runs a batch for some seconds and returns images per second (`IsolatedClassifier.images_per_second`)."""


def compare_speed(classifiers: Mapping[str, Measure], photos: Pixels) -> dict[str, float]:
    """Return images per second of each classifier in batches of 8, the median of five rounds.

    In every round each classifier has its turn, so that a machine that is busy for a while is so for all of them.
    """
    batch = np.resize(photos, (BATCH, *photos.shape[1:]))
    found: dict[str, list[float]] = {name: [] for name in classifiers}
    for _ in range(ROUNDS):
        for name, images_per_second in classifiers.items():
            found[name].append(images_per_second(batch, SECONDS_A_ROUND))
    return {name: median(values) for name, values in found.items()}


def speed_by_batch(images_per_second: Measure, photos: Pixels) -> dict[int, float]:
    """Return images per second in batches of 1, 8, 32 and 64, from host memory to host memory; medians of five."""
    batches: dict[int, Any] = {size: np.resize(photos, (size, *photos.shape[1:])) for size in BATCHES}
    found: dict[int, list[float]] = {size: [] for size in BATCHES}
    for _ in range(ROUNDS):
        for size, batch in batches.items():
            found[size].append(images_per_second(batch, SECONDS_A_ROUND))
    return {size: round(median(values), 1) for size, values in found.items()}
