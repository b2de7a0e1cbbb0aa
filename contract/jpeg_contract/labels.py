"""Label files: UTF-8 text, line i is the name of class i."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.errors import ReasonedError


class LabelFileError(ReasonedError, ValueError):
    """A label file cannot be used; the message names the file, and the line where there is one."""

    reason = "invalid_labels"


def read_labels(path: Path, classes: int | None = None) -> list[str]:
    """Read the labels of a classifier; line i names class i. A byte order mark is not part of the first label.

    Args:
        path: The file.
        classes: How many labels there must be; None takes any number.

    Raises:
        LabelFileError: The file cannot be read, has an empty line, or has another number of labels.
    """
    try:
        # Windows' editors begin UTF-8 files with a byte order mark.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
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
