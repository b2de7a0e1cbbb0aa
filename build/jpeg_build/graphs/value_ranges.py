"""The ranges of a network's tensors, from which the scales of int8 follow."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
from jpeg_contract.tensors import OUTPUT
from numpy.typing import NDArray

from jpeg_build.graphs.onnx_values import float_tensors, observed, output_part, ranges

Ranges = dict[str, tuple[np.float32, np.float32]]
"""Smallest and largest value of each tensor that int8 can express."""

# The range of a tensor with fewer values per image is taken over all images.
FEW_VALUES = 4096

# Images that histograms are made of: a percentile hardly changes with more, and each costs a tenth of a second.
HISTOGRAM_IMAGES = 32
BINS = 2048


class ValueRanges:
    """The values of all float tensors of a model, measured on images.

    Tensors of few values, whose range varies from image to image, and those behind the last layer, where the largest
    logit of all must not be clipped, have their full range in every choice.

    Args:
        model: A prepared contract model.
        images: (N, H, W, 3) uint8; run one at a time.

    Raises:
        NetworkError: A value is not finite.
    """

    def __init__(self, model: Any, images: NDArray[np.uint8]) -> None:
        self._model = model
        self._images = images[:: max(1, len(images) // HISTOGRAM_IMAGES)][:HISTOGRAM_IMAGES]
        self._tensors = sorted(float_tensors(model))
        each = ranges(model, self._tensors, images)
        self._full: Ranges = {name: (each[:, i, 0].min(), each[:, i, 1].max()) for i, name in enumerate(self._tensors)}
        mean = each.mean(axis=0, dtype=np.float64).astype(np.float32)
        behind = output_part(model.graph)
        outputs = {name for node in model.graph.node if node.name in behind for name in (*node.input, *node.output)}
        whole = outputs | {OUTPUT} | _small_tensors(model)
        self._large = [name for name in self._tensors if name not in whole]
        self._mean: Ranges = {name: (mean[i, 0], mean[i, 1]) for i, name in enumerate(self._tensors)}

    def mean(self) -> Ranges:
        """Return the mean of the ranges in single images: one unusual image does not cost all others resolution."""
        return {**self._full, **{name: self._mean[name] for name in self._large}}

    def full(self) -> Ranges:
        """Return the ranges over all images."""
        return dict(self._full)

    def percentile(self, percent: float) -> Ranges:
        """Return the ranges that hold so many percent of the values of all images, half of the rest at either end."""
        from onnxruntime.quantization.calibrate import HistogramCollector

        collector = HistogramCollector("percentile", False, BINS, None, percent, "same")
        with contextlib.redirect_stdout(io.StringIO()):  # It prints its steps.
            # The first values decide the width of the bins, whose number would grow without bound.
            collector.collect({name: np.array(self._full[name], np.float32) for name in self._large})
            for values in observed(self._model, [], [], self._large, self._images):
                collector.collect(dict(zip(self._large, values, strict=True)))
            found = collector.compute_collection_result() if self._large else {}
        cut = {name: (np.float32(found[name][0]), np.float32(found[name][1])) for name in self._large}
        # A tensor that is nearly always one value, such as zero, has no such range.
        return {**self._full, **{name: limits for name, limits in cut.items() if limits[0] < limits[1]}}


def _small_tensors(model: Any) -> set[str]:
    """Return the names of tensors with few values per image, such as those behind global pooling."""
    small = set()
    for item in model.graph.value_info:
        sizes = [dim.dim_value for dim in item.type.tensor_type.shape.dim[1:]]
        if all(sizes) and math.prod(sizes) < FEW_VALUES:
            small.add(item.name)
    return small
