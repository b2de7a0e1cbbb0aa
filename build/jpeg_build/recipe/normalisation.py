"""How a network wants its pixels: range, mean, standard deviation, and channels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jpeg_build.recipe.keys import Color, NormalisationTable
from jpeg_build.recipe.table import Table

# Weights of red, green and blue in a gray value: ITU-R BT.601, as in Pillow's convert("L") and the frameworks.
GRAY_WEIGHTS = (0.299, 0.587, 0.114)

_RANGE = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)\s*\.\.\s*([-+]?\d+(?:\.\d+)?)\s*")
# Beyond these, pixels would all become one number, or none.
_STD_LIMITS = (1e-4, 1e4)
_DIVIDE = 'If they are for pixels in [0, 255], add scale = "0..255"'


@dataclass(frozen=True)
class Normalisation:
    """(pixel / 255 - mean) / std for each channel of the network.

    Attributes:
        mean: One number for each channel, 1 or 3, in the order of `color`.
        std: Above 0, likewise.
        color: Order of the channels that the network takes. GRAY: the weighted sum of red, green and blue; the network
            takes it once or, with three numbers in `mean`, three times.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: Color = "RGB"

    @property
    def channels(self) -> int:
        """Number of channels that the network takes: 1 or 3."""
        return len(self.mean)


def read_normalisation(table: Table) -> Normalisation:
    """Read mean, std, scale and color of a table.

    `scale = "A..B"` says that the pixels lie in [A, B] before mean and std; without it, in [0, 1].

    Raises:
        RecipeError: A value is missing, or cannot be used.
    """
    fields = table.read(NormalisationTable)
    low, high = 0.0, 1.0
    if fields.scale is not None:
        found = _RANGE.fullmatch(fields.scale)
        low, high = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
        if low >= high:
            raise table.value_error("scale", 'a range such as "-1..1", "0..1" or "0..255"')
    else:
        for key in ("mean", "std"):
            if key not in table.values:
                raise table.error(
                    "",
                    f'{table.full_key(key)} is missing: add mean and std, or only scale = "-1..1" or "0..1" for a '
                    "network that takes pixels in that range as they are",
                    reason="missing_key",
                )
    mean = _per_channel(table, "mean", fields.mean, 0.0)
    std = _per_channel(table, "std", fields.std, 1.0)
    channels = max(len(mean), len(std))
    if channels == 1 and fields.color != "GRAY":
        channels = 3
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    width = high - low
    return Normalisation(
        _checked(table, "mean", [(value - low) / width for value in mean], (0, 1), f"in [{low:g}, {high:g}]"),
        _checked(table, "std", [value / width for value in std], _STD_LIMITS, "above 0"),
        fields.color,
    )


def _per_channel(table: Table, key: str, value: float | tuple[float, ...] | None, default: float) -> tuple[float, ...]:
    if value is None:
        return (default,)
    values = value if isinstance(value, tuple) else (value,)
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise table.value_error(key, "a number, or three numbers in the order of the network's channels")
    return values


def _checked(
    table: Table, key: str, values: list[float], limits: tuple[float, float], range_text: str
) -> tuple[float, ...]:
    if key in table.values and not all(limits[0] <= value <= limits[1] for value in values):
        hint = "" if "scale" in table.values else f". {_DIVIDE}"
        raise table.value_error(key, f"one or three numbers {range_text}{hint}")
    return tuple(values)
