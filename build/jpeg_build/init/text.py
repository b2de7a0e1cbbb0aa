"""Recipes as TOML text, with a comment where a key needs one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

# Where comments begin, if the value leaves room.
_COLUMN = 32

_COMMENTS = {
    ("", "labels"): "line i names class i",
    ("geometry", "crop_percent"): "share of the resized image that the crop is",
    ("geometry", "crop_rounding"): "of the part at the left or top that the crop leaves out",
    ("geometry", "crop_size"): "centre crop: its side, or [height, width]",
    ("source", "output"): "logits or probabilities: before or behind softmax or sigmoid",
}


def recipe_text(title: str, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a recipe as TOML.

    Args:
        title: First line, a comment.
        tables: Values by table and key; "" has the keys above the first table.
    """
    lines = [f"# {_one_line(title)}"]
    for table, values in tables.items():
        if table:
            lines += ["", _with_comment(f"[{table}]", _head(values) if table == "normalisation" else None)]
        lines += [
            _with_comment(f"{key} = {to_toml(value)}", _comment(table, key, values)) for key, value in values.items()
        ]
    return "\n".join([*lines, ""])


def _head(normalisation: Mapping[str, Any]) -> str:
    """Return what is computed of a pixel: it depends on the keys that are there."""
    if not {"mean", "std"} & normalisation.keys():
        return "as in the training"
    pixel = "pixel in the range of scale" if "scale" in normalisation else "pixel / 255"
    return f"as in the training: ({pixel} - mean) / std"


def _comment(table: str, key: str, values: Mapping[str, Any]) -> str | None:
    match table, key:
        case "", "labels" if values[key] == "weights":
            return "those that the network carries"
        case "geometry", "resize_size" if not isinstance(values[key], int) and values.get("resize_side") == "longer":
            return "height and width that the image fits into"
        case "geometry", "resize_size" if not isinstance(values[key], int):
            return "height and width, without keeping the ratio"
        case "geometry", "resize_size":
            return f"{values.get('resize_side', 'shorter')} side in pixels"
        case "normalisation", "scale":
            return "range of the pixels" if "mean" not in values else "range of the pixels, before mean and std"
    return _COMMENTS.get((table, key))


def to_toml(value: object) -> str:
    """Return a value as TOML: text, number, truth value, or a list of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(to_toml, value))}]"
    raise TypeError(f"{value!r} has no place in a recipe")


def _with_comment(line: str, comment: str | None) -> str:
    return line if comment is None else f"{line:{_COLUMN}}  # {comment}"


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
