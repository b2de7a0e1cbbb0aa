"""The layouts of labelled data: class folders, a CSV file, and Hugging Face's `imagefolder`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jpeg_contract.inside import PathOutside, inside

from jpeg_build.errors import BuildError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".bmp")
)
"""Of pictures. Those that the recipe's formats leave out are listed as unreadable, as the server refuses them."""

METADATA = ("metadata.csv", "metadata.jsonl")

# Best first: photos that a network was trained on prove nothing.
SPLITS = ("test", "validation", "valid", "val", "dev", "train")
TRAINING = "train"

_FILE_COLUMNS = ("file", "file_name", "filename", "path", "image")
_LABEL_COLUMNS = ("label", "labels", "class")
_MOST_NAMED = 5


@dataclass(frozen=True)
class Entry:
    """A photo with what the data states as its label: a name, or a list of them."""

    file: Path
    label: Any


@dataclass(frozen=True)
class Listing:
    """What a layout holds.

    Attributes:
        source: File or folder that has the labels.
        root: Folder that the names of photos are relative to.
        layout: Its name, for the report.
        entries: The photos.
        notes: Lines for the report.
    """

    source: Path
    root: Path
    layout: str
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)


def list_photos(data: Path) -> Listing:
    """List the photos of a CSV file or a folder, with the labels that the data states.

    Raises:
        BuildError: There are none, or a table cannot be read.
    """
    if data.is_file():
        return _table(data, "table")
    if not data.is_dir():
        raise BuildError(f"{data}: no such file or folder", reason="no_photos")
    split = next((data / name for name in SPLITS if _is_split(data / name)), None)
    # A class may be called "test".
    if split is not None and _only_splits(data):
        listing = _folder(split)
        others = sorted(path.name for path in data.iterdir() if path.name in SPLITS and path != split)
        listing.notes.append(f"of the splits, {split.name} is evaluated{f', not {_and(others)}' if others else ''}")
        if split.name == TRAINING:
            listing.notes.append(
                "THESE ARE THE PHOTOS OF TRAINING: accuracy on them does not show accuracy on others; add a folder "
                "test or validation"
            )
        return listing
    return _folder(data)


def _folder(folder: Path) -> Listing:
    metadata = _metadata(folder)
    if metadata is not None:
        return _table(metadata, "imagefolder with metadata")
    classes = _class_folders(folder)
    if not classes:
        raise BuildError(
            f"{folder}: has neither class folders with pictures nor {' or '.join(METADATA)}: make a folder for each "
            "class, named by its label, or name a CSV file with the columns file and label",
            reason="no_photos",
        )
    entries, others = [], []
    for each in classes:
        for file in sorted(path for path in each.rglob("*") if path.is_file()):
            if _is_picture(file):
                entries.append(Entry(file, each.name))
            else:
                others.append(file)
    listing = Listing(folder, folder, "class folders", entries)
    loose = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_picture(path)]
    if loose:
        listing.notes.append(
            f"{len(loose)} pictures outside of the class folders have no label: {_some(loose, folder)}"
        )
    if others:
        listing.notes.append(f"{len(others)} files are no pictures by their names: {_some(others, folder)}")
    return listing


def _class_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and _shown(path) and _has_photos(path)]


def _is_split(folder: Path) -> bool:
    """Whether a folder has a table or class folders of its own."""
    return folder.is_dir() and (_metadata(folder) is not None or bool(_class_folders(folder)))


def _only_splits(data: Path) -> bool:
    return all(path.name in SPLITS for path in data.iterdir() if path.is_dir() and _shown(path) and _has_photos(path))


def _has_photos(folder: Path) -> bool:
    return folder.is_dir() and any(_is_picture(path) and path.is_file() for path in folder.rglob("*"))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and _shown(path)


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _table(path: Path, layout: str) -> Listing:
    """List the rows of a CSV or JSON Lines file; paths are relative to its folder and stay in it."""
    entries: list[Entry] = []
    missing: list[Path] = []
    for number, row in _rows(path):
        name, label = _column(row, _FILE_COLUMNS, path, number), _column(row, _LABEL_COLUMNS, path, number)
        try:
            file = inside(path.parent, str(name))
        except PathOutside as error:
            raise BuildError(f"{path}:{number}: the file {error}", reason=error.reason) from error
        if not file.is_file():
            missing.append(file)
        entries.append(Entry(file, label))
    if missing:
        raise BuildError(
            f"{path}: {len(missing)} of {len(entries)} files do not exist: {_some(missing, path.parent)}. Paths are "
            f"relative to {path.parent}",
            reason="photos_missing",
        )
    if not entries:
        raise BuildError(f"{path}: has no rows", reason="no_photos")
    return Listing(path, path.parent, layout, entries)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number and the values of each row. Raises BuildError for a file that cannot be read."""
    try:
        # Spreadsheets begin UTF-8 files with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                yield from _json_rows(path, file)
            else:
                reader = csv.DictReader(file, dialect=_dialect(path))
                for row in reader:
                    yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise BuildError(f"{path}: is no table in UTF-8: {error}", reason="invalid_table") from error


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BuildError(f"{path}:{number}: is no JSON: {error}", reason="invalid_table") from error
        if not isinstance(row, dict):
            raise BuildError(f"{path}:{number}: is no JSON object", reason="invalid_table")
        yield number, row


def _dialect(path: Path) -> type[csv.Dialect]:
    """Return the dialect of a table; in one with semicolons between columns, several labels need a JSON list."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()

    class Dialect(csv.excel):
        delimiter = max(",;\t", key=head.count) if head.strip() else ","

    return Dialect


def _column(row: Mapping[str, Any], names: tuple[str, ...], path: Path, number: int) -> Any:
    by_name = {str(key).strip().lower(): value for key, value in row.items()}
    found = next((by_name[name] for name in names if by_name.get(name) is not None), None)
    if found is None:
        has = ", ".join(str(key) for key in row if key is not None)
        raise BuildError(
            f"{path}:{number}: has no column {names[0]} (it has {has or 'none'}): name it {names[0]} or "
            f"{', '.join(names[1:])}",
            reason="invalid_table",
        )
    return found


def _some(files: list[Path], root: Path) -> str:
    named = [path.relative_to(root).as_posix() for path in files[:_MOST_NAMED]]
    return ", ".join([*named, *(["..."] if len(files) > _MOST_NAMED else [])])


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
