"""Labels as users have them: a text file, a JSON file, names on the command line, or those of the project."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jpeg_contract.labels import LabelFileError, read_labels

from jpeg_build.errors import CallError
from jpeg_build.recipe.sources import is_file
from jpeg_build.recipe.table import RECIPES


def find_labels(text: str) -> list[str]:
    """Return the labels that a user names.

    Args:
        text: Path of a file with one label per line, or of a .json file with a list or a mapping of index and label;
            the name of a label file of the project, such as imagenet; or labels with commas between them, one label
            with a comma behind it.

    Raises:
        CallError: It is none of these, or a label is empty.
    """
    path = Path(text)
    ours = RECIPES / f"{text}.txt"
    if not is_file(path):
        if "/" not in text and is_file(ours):
            return read_labels(ours)
        labels = [part.strip() for part in text.rstrip().removesuffix(",").split(",")]
        if "," not in text or not all(labels):
            remedy = "" if "," in text else f"; for one label, write {text + ','!r}"
            raise CallError(f"{text}: no such file of labels{remedy}", reason="invalid_labels")
        return labels
    try:
        if path.suffix.lower() != ".json":
            return read_labels(path)
        labels_in_json = read_label_text(path.read_text(encoding="utf-8-sig"))
    except (LabelFileError, OSError, UnicodeDecodeError) as error:
        raise CallError(str(error), reason="invalid_labels") from error
    if labels_in_json is None:
        raise CallError(
            f"{path}: has neither a list of labels nor a mapping of index (from 0 on) and label",
            reason="invalid_labels",
        )
    return labels_in_json


def labels_beside(folder: Path, stem: str, classes: int | None) -> list[str] | None:
    """Return the labels of a file with a usual name beside the network, if it has one for each class."""
    for name in (f"{stem}.txt", "labels.txt", "classes.txt", "class_names.txt"):
        if classes is not None and is_file(folder / name):
            try:
                return read_labels(folder / name, classes)
            except LabelFileError:
                continue
    return None


def read_label_text(text: str) -> list[str] | None:
    """Read labels from a text: a JSON or Python list or mapping of index and label, or one per line; None for less."""
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = [line.strip() for line in text.splitlines()]
    if isinstance(value, Mapping):
        value = _in_order(value)
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        return None
    labels = [" ".join(str(each).split()) for each in value]
    return labels if all(labels) else None


def _in_order(value: Mapping[Any, Any]) -> list[Any] | None:
    """Return the labels of {index: label} or {label: index}; None if the indices are not 0, 1, 2 ..."""
    for pairs in (value.items(), ((index, label) for label, index in value.items())):
        try:
            by_index = {int(index): label for index, label in pairs}
        except (TypeError, ValueError):
            continue
        if sorted(by_index) == list(range(len(value))):
            return [by_index[index] for index in range(len(value))]
    return None
