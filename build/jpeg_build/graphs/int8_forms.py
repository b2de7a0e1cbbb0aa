"""The int8 forms of a network, in the order in which a build tries them.

1. Mean ranges: the range of a tensor is the mean of its ranges in single images (OpenVINO's NNCF does the same), and
   the first layers, whose errors propagate through all others, stay in float32 if that brings the logits closer.
2. Full ranges: the ranges over all images.
3. Percentile 99.99, and 99.9: rare values are clipped, and all others get finer steps.
4. The ranges of those so far that bring the logits closest, with further layers in float32, the most sensitive ones:
   one, two, four and so on, up to half of all. A layer is as sensitive as the logits change if it alone is in int8.

Entropy and least squared error were tried, too, and are not better than a percentile (docs/quantise.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jpeg_contract.command_line import Progress
from numpy.typing import NDArray

from jpeg_build.graphs.quantise import Dialect, Quantised, Quantiser
from jpeg_build.graphs.value_ranges import Ranges

# How many of the first layers stay in float32: tried in this order until the mean difference of the logits is below
# TARGET_DIFFERENCE of the largest one. TensorRT's target is wider: the first layers, which have the most pixels, cost
# most on a GPU (bench/NOTES.md).
KEPT_LAYERS = (0, 1, 3, 5)
TARGET_DIFFERENCE = {"onnxruntime": 0.008, "openvino": 0.008, "tensorrt": 0.012}

PERCENTILES = (99.99, 99.9)

# What measuring the sensitivity costs at most: so many groups of layers, each on so many images.
MOST_GROUPS = 64
SENSITIVITY_IMAGES = 8


def int8_forms(model: Any, images: NDArray[np.uint8], dialect: Dialect, progress: Progress) -> Iterator[Quantised]:
    """Make the int8 forms of a contract model, each when it is asked for.

    Args:
        model: In fp32.
        images: (N, H, W, 3) uint8, to calibrate on.
        dialect: See Quantiser.
        progress: Takes the steps of the work.

    Raises:
        NetworkError: The model cannot be quantised.
    """
    progress(f"calibrating int8 on {len(images)} images")
    quantiser = Quantiser(model, images, dialect)
    mean = quantiser.values.mean()
    first = _with_first_layers_kept(quantiser, mean, TARGET_DIFFERENCE[dialect])
    yield first
    closest, best = first, mean
    for strategy, measured in _other_ranges(quantiser):
        form = quantiser.make(strategy, measured, first.kept)
        yield form
        if form.difference < closest.difference:
            closest, best = form, measured
    groups = _groups([name for name in quantiser.layers if name not in first.kept])
    progress(f"measuring the error that each of {len(quantiser.layers) - len(first.kept)} layers adds in int8")
    errors = [quantiser.error_of(group, best, SENSITIVITY_IMAGES) for group in groups]
    worst = [groups[index] for index in np.argsort(errors, kind="stable")[::-1]]
    count = 1
    while count <= len(groups) // 2:
        kept = {*first.kept, *(name for group in worst[:count] for name in group)}
        in_order = [name for name in quantiser.layers if name in kept]
        yield quantiser.make(f"{closest.strategy}, sensitive layers", best, in_order, around=True)
        count *= 2


def _with_first_layers_kept(quantiser: Quantiser, mean: Ranges, target: float) -> Quantised:
    best: Quantised | None = None
    for count in KEPT_LAYERS:
        kept = quantiser.layers[:count]
        if len(kept) == len(quantiser.layers):
            break
        form = quantiser.make("mean ranges", mean, kept)
        if best is None or form.difference < best.difference:
            best = form
        if form.difference < target:
            break
    assert best is not None
    return best


def _other_ranges(quantiser: Quantiser) -> Iterator[tuple[str, Ranges]]:
    yield "full ranges", quantiser.values.full()
    for percent in PERCENTILES:
        yield f"percentile {percent:g}", quantiser.values.percentile(percent)


def _groups(layers: list[str]) -> list[list[str]]:
    """Divide the layers into groups of neighbours, as few as are measured at most."""
    size = -(-len(layers) // MOST_GROUPS)
    return [layers[at : at + size] for at in range(0, len(layers), size)]
