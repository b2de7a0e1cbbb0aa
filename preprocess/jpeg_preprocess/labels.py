"""Label files: UTF-8 text, line i is the name of class i."""

from __future__ import annotations

from pathlib import Path


class LabelFileError(ValueError):
    """A label file cannot be used; the message names the file, and the line where there is one."""


def read_labels(path: Path, classes: int | None = None) -> list[str]:
    """Read the labels of a classifier; line i names class i.

    classes: how many there must be; None takes any number.

    Raises LabelFileError if the file cannot be read, has an empty line, or has another number of labels.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise LabelFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelFileError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    labels = [line.strip() for line in lines]
    for number, label in enumerate(labels, start=1):
        if not label:
            raise LabelFileError(f"{path}:{number}: the line is empty; line {number} must name class {number - 1}")
    if classes is not None and len(labels) != classes:
        raise LabelFileError(f"{path}: has {len(labels)} labels, but there are {classes} classes")
    if not labels:
        raise LabelFileError(f"{path}: has no labels")
    return labels
