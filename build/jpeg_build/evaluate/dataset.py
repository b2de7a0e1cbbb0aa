"""Labelled photos of a recipe: each photo with the classes that it shows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpeg_contract.settings import Head

from jpeg_build.errors import BuildError
from jpeg_build.evaluate.label_names import read_names, split_labels
from jpeg_build.evaluate.layouts import Listing, list_photos

_MOST_NAMED = 5


@dataclass(frozen=True)
class Photo:
    """A labelled photo.

    Attributes:
        name: Path relative to the data, for people.
        file: The file.
        classes: What it shows: one class for a softmax; none or several for a sigmoid.
    """

    name: str
    file: Path
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """Labelled photos.

    Attributes:
        source: File or folder.
        layout: Its name.
        reading: How the names of the data are read.
        photos: In the order of their names.
        notes: Lines for the report.
    """

    source: Path
    layout: str
    reading: str
    photos: Sequence[Photo]
    notes: Sequence[str]

    def limited(self, count: int | None) -> Dataset:
        """Return a sample of `count` photos: always the same ones, drawn by a hash of their names."""
        if count is None or count >= len(self.photos):
            return self
        drawn = sorted(self.photos, key=lambda photo: hashlib.sha256(photo.name.encode()).digest())[:count]
        note = f"a sample of {count} of {len(self.photos)} photos, drawn by a hash of their names"
        names = {photo.name for photo in drawn}
        kept = [photo for photo in self.photos if photo.name in names]
        return Dataset(self.source, self.layout, self.reading, kept, [*self.notes, note])


def read_dataset(data: Path, labels: Sequence[str], head: Head) -> Dataset:
    """Read labelled data.

    Args:
        data: A folder, or a table of files and labels.
        labels: Of the network.
        head: "sigmoid" takes any number of labels for a photo.

    Raises:
        BuildError: There are no photos; or names are no labels (labels_unknown).
    """
    listing = list_photos(data)
    several = head == "sigmoid"
    stated = [split_labels(entry.label) if several else [str(entry.label).strip()] for entry in listing.entries]
    named = read_names({name for names in stated for name in names}, labels, listing.root, str(listing.source))
    photos = [
        Photo(
            entry.file.relative_to(listing.root).as_posix(),
            entry.file,
            tuple(sorted({named.classes[name] for name in names})),
        )
        for entry, names in zip(listing.entries, stated, strict=True)
    ]
    _refuse_repeated(listing, photos)
    photos.sort(key=lambda photo: photo.name)
    return Dataset(listing.source, listing.layout, named.how, photos, listing.notes)


def _refuse_repeated(listing: Listing, photos: Sequence[Photo]) -> None:
    counts = Counter(photo.name for photo in photos)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise BuildError(
            f"{listing.source}: {len(repeated)} files are in several rows: {', '.join(repeated[:_MOST_NAMED])}. Write "
            'one row for each photo; several labels as a;b or as a JSON list, for a recipe with output = "sigmoid"',
            reason="invalid_table",
        )
