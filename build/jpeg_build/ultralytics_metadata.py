"""What Ultralytics writes into the files that it exports. Needs none of its packages."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from jpeg_build.preparation import labels_of


def ultralytics_onnx_names(metadata: Mapping[str, str]) -> list[str] | None:
    """Return the labels in the metadata of an ONNX export of a classifier; None if there are none.

    Args:
        metadata: The texts of the file's `metadata_props`: `names` is a Python dict as text.
    """
    if metadata.get("task") != "classify":
        return None
    names = _literal(metadata.get("names", ""))
    return labels_of(names) if isinstance(names, dict) else None


def ultralytics_onnx_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Return (height, width) of the images in the metadata of an ONNX export; None if it is not there."""
    size = _literal(metadata.get("imgsz", ""))
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    return None


def _literal(text: str) -> object:
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value
