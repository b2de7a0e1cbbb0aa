"""What drafts of recipes for Keras files and SavedModels have in common. Needs neither Keras nor TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jpeg_build.networks.drafts import Hint
from jpeg_build.recipe.keys import Layout


def classes_of(values: int | None, notes: list[str]) -> int | None:
    """Return the number of classes of a network with that many output values; None if it is not known."""
    if values != 1:
        return values
    notes.append(
        Hint(
            "the network has one output value, here taken for the score of the second of two classes: the label file "
            "begins with that of low values. For one label with a score of its own, set classes = 1 and, above the "
            'first table, output = "sigmoid"',
            "classes|scores",
        )
    )
    return 2


def geometry_of(sizes: Sequence[int] | None, layout: Layout, notes: list[str]) -> dict[str, Any] | None:
    """Return what an input of these sizes, 0 for open axes, tells of the table [geometry]."""
    size = [] if sizes is None or len(sizes) != 4 else list(sizes[2:4] if layout == "NCHW" else sizes[1:3])
    if not size or not all(size):
        notes.append(
            Hint("the network does not state the size of its images: crop_size is that of the training", "crop_size")
        )
        return None
    notes += [
        Hint(
            "a Keras network does not state how the training resized its photos; image_dataset_from_directory does it "
            f"by default with resize_size = {size}, whatever the ratio of the sides",
            "resize_size|crop_percent",
        ),
        Hint(
            "image_dataset_from_directory resizes with antialias = false: give --no-antialias for it, and --antialias "
            "for a training with load_img or Pillow",
            "antialias",
        ),
    ]
    return {"crop_size": size[0] if size[0] == size[1] else size}


def channels_of(sizes: Sequence[int] | None, layout: Layout) -> int:
    """Return the number of channels of an input of these sizes; 0 if it is not known."""
    return 0 if sizes is None or len(sizes) != 4 else sizes[1 if layout == "NCHW" else 3]
