"""Names of files that a recipe, a config or a report states: they never lead out of the folder they are relative to."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from jpeg_contract.errors import ReasonedError
from jpeg_contract.parameters import SettingsError

_FILE_WORDS = {"dir", "file", "filepath", "folder", "path", "root"}


class PathOutside(ReasonedError, ValueError):
    """A name leads out of its folder; the message is a sentence without its subject."""

    reason = "path_outside"


def inside(folder: Path, name: str) -> Path:
    """Return the path of a name relative to a folder. The file need not exist.

    Args:
        folder: It may itself lie behind symbolic links.
        name: As a recipe, a config or a report states it.

    Raises:
        PathOutside: The name is absolute, has a part `..`, or passes a symbolic link that leads out of the folder.
    """
    if not is_inside(folder, name):
        raise PathOutside(f"is {name!r}, which leads out of {folder}: put the file into that folder, and name it there")
    return folder / name


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name stays in a folder: see `inside`."""
    named = PurePosixPath(name)
    if "\0" in name or named.is_absolute() or ".." in named.parts:
        return False
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of symbolic links
        return False


def tree_inside(folder: Path, name: str) -> Path:
    """Return the path of a folder as `inside` does; also none of its files may be a link out of `folder`."""
    path = inside(folder, name)
    for each in path.rglob("*"):
        inside(folder, each.relative_to(folder).as_posix())
    return path


def refuse_file_parameter(name: str) -> None:
    """Refuse a parameter that makes ONNX Runtime read or write a file of any name, as some of its `session.*` do.

    Raises:
        SettingsError: One of the words of its name stands for a file.
    """
    if name.startswith("session.") and _FILE_WORDS & set(re.split(r"[._]", name.lower())):
        raise SettingsError(
            f"parameter {name} names a file anywhere on this machine: remove it", reason=PathOutside.reason
        )
