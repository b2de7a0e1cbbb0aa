"""How a network's framework prepares its images, compared with what a recipe states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jpeg_contract.geometry import CropRounding, Geometry, Interpolation, ResizeSide, Rgb

from jpeg_build.errors import NetworkError
from jpeg_build.recipe.keys import Color
from jpeg_build.recipe.normalisation import Normalisation
from jpeg_build.recipe.recipe import Recipe

# Of mean and std, which recipes may round.
ROUNDING = 1e-4

# Digits of mean and std in a draft.
_DIGITS = 8


@dataclass(frozen=True)
class Preparation:
    """What a framework does to an image before its network runs, in the terms of a recipe.

    Attributes:
        resize_size: See Geometry.
        crop_size: (height, width).
        mean: For pixels in [0, 1], in the order of `color`.
        std: Likewise.
        interpolation: See Geometry.
        antialias: See Geometry.
        resize_side: See Geometry.
        fill: See Geometry.
        crop_rounding: See Geometry.
        color: Order of the channels.
    """

    resize_size: int | tuple[int, int]
    crop_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    resize_side: ResizeSide = "shorter"
    fill: Rgb | None = None
    crop_rounding: CropRounding = "even"
    color: Color = "RGB"

    @property
    def geometry(self) -> Geometry:
        """The part that makes pixels. Raises ValueError if it is one that no recipe can state."""
        return Geometry(
            resize_size=self.resize_size,
            crop_size=self.crop_size,
            interpolation=self.interpolation,
            antialias=self.antialias,
            resize_side=self.resize_side,
            fill=self.fill,
            crop_rounding=self.crop_rounding,
        )

    @property
    def normalisation(self) -> Normalisation:
        """The part that makes numbers of pixels."""
        return Normalisation(self.mean, self.std, self.color)

    def geometry_table(self) -> dict[str, Any]:
        """Return the table [geometry] of a recipe."""
        table: dict[str, Any] = {"resize_size": _number_or_list(self.resize_size), "crop_size": _side(self.crop_size)}
        if isinstance(table["crop_size"], tuple):
            table["crop_size"] = [*self.crop_size]
        if self.resize_side != "shorter":
            table["resize_side"] = self.resize_side
        if self.fill is not None:
            table["fill"] = [*self.fill]
        if self.crop_rounding != "even":
            table["crop_rounding"] = self.crop_rounding
        table["interpolation"] = self.interpolation
        if not self.antialias:
            table["antialias"] = False
        return table

    def normalisation_table(self) -> dict[str, Any]:
        """Return the table [normalisation] of a recipe."""
        color = {} if self.color == "RGB" else {"color": self.color}
        if set(self.mean) == {0.0} and set(self.std) == {1.0} and self.color != "GRAY":
            return {"scale": "0..1", **color}
        return {
            "mean": [round(value, _DIGITS) for value in self.mean],
            "std": [round(value, _DIGITS) for value in self.std],
            **color,
        }

    def differences(self, recipe: Recipe) -> list[tuple[str, str, Any, Any]]:
        """Compare with a recipe: return (table, key, the recipe's value, the framework's) of all that differ."""
        ours, normalisation = recipe.geometry, recipe.normalisation
        values = [
            ("geometry", "resize_size", ours.resize_size, self.resize_size),
            ("geometry", "resize_side", ours.resize_side, self.resize_side),
            ("geometry", "crop_size", _side(ours.crop_size), _side(self.crop_size)),
            ("geometry", "fill", ours.fill, self.fill),
            ("geometry", "crop_rounding", ours.crop_rounding, self.crop_rounding),
            ("geometry", "interpolation", ours.interpolation, self.interpolation),
            ("geometry", "antialias", ours.antialias, self.antialias),
            *self.normalisation_differences(normalisation),
        ]
        return [each for each in values if not _same(*each[2:])]

    def normalisation_differences(self, ours: Normalisation) -> list[tuple[str, str, Any, Any]]:
        """Compare the normalisation alone; a network that was adapted to gray images has no counterpart."""
        if ours.color == "GRAY" and self.color != "GRAY":
            return []
        values = [
            ("normalisation", "mean", ours.mean, self.mean),
            ("normalisation", "std", ours.std, self.std),
            ("normalisation", "color", ours.color, self.color),
        ]
        return [each for each in values if not _same(*each[2:])]


def refuse_differences(recipe: Recipe, differences: Sequence[tuple[str, str, Any, Any]], owner: str) -> None:
    """Raise NetworkError if a recipe differs from what belongs to its weights.

    Args:
        recipe: The recipe.
        differences: (table, key, the recipe's value, the weights' value).
        owner: What the other values belong to, for the message.
    """
    if not differences:
        return
    table, key = differences[0][:2]
    listed = "; ".join(
        f"{f'[{table}] ' if table else ''}{key} is {json.dumps(ours)}, the weights have {json.dumps(theirs)}"
        for table, key, ours, theirs in differences
    )
    raise NetworkError(
        f"{recipe.locate(table, key)}: the recipe differs from {owner}: {listed}. Correct the recipe; if you mean it, "
        "add differs_from_weights = true to [source]",
        reason="differs_from_weights",
    )


def check_labels(recipe: Recipe, own: Sequence[str] | None, owner: str) -> Sequence[str]:
    """Return the labels of a recipe, or those that its network carries.

    Args:
        recipe: The recipe.
        own: Of the network; None if it has none.
        owner: The network, for messages.

    Raises:
        NetworkError: There are none, or not one for each class.
    """
    if recipe.labels is not None:
        return recipe.labels
    if own is None:
        raise NetworkError(
            f'{recipe.locate("", "labels")}: is "weights", but {owner} does not name its classes: give a text file '
            f"with {recipe.classes} lines, one label each",
            reason="no_labels",
        )
    if len(own) != recipe.classes:
        raise NetworkError(
            f"{recipe.locate('', 'classes')}: is {recipe.classes}, but {owner} has {len(own)} labels: "
            f"set classes = {len(own)}; or name a label file of {recipe.classes} lines",
            reason="classes_differ",
        )
    return own


def labels_of(names: Mapping[Any, Any]) -> list[str] | None:
    """Return the labels of a mapping of class numbers to names, in order; None unless all from 0 on are there."""
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (TypeError, ValueError):
        return None
    return (
        [by_number[number] for number in range(len(by_number))] if set(by_number) == {*range(len(by_number))} else None
    )


def _side(size: Sequence[int]) -> int | tuple[int, ...]:
    """Return a crop size as a recipe would have it: one number for a square."""
    return size[0] if len(set(size)) == 1 else tuple(size)


def _number_or_list(size: int | tuple[int, int]) -> int | list[int]:
    return size if isinstance(size, int) else [*size]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, rtol=0, atol=ROUNDING))
    return bool(ours == theirs)
