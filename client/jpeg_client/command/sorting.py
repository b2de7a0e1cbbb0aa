"""Sort images into one folder per label."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Literal

from jpeg_client.command.rows import Row
from jpeg_client.images import MAX_IMAGE_BYTES
from jpeg_client.storage import is_url, read_file

Placement = Literal["link", "copy"]

UNSURE = "_unsure"
"""Folder of the images of which no label reaches the threshold."""

# What a folder's name cannot hold, or what hides it.
_UNSAFE = re.compile(r"[/\0\n\r]|^\.+")
_MAX_NAME_BYTES = 200


class Sorter:
    """Puts each image into the folder of its best label. What is there already is left.

    Args:
        folder: Its folders are made here.
        placement: "link" makes symbolic links, "copy" copies.
    """

    def __init__(self, folder: Path, placement: Placement) -> None:
        self._folder, self._placement = folder, placement

    def place(self, row: Row) -> None:
        """Place the image of a row; one without labels because of an error is left out.

        Raises:
            OSError: The folder cannot be written.
        """
        if row.error is not None:
            return
        folder = self._folder / (folder_name(row.labels[0]) if row.labels else UNSURE)
        folder.mkdir(parents=True, exist_ok=True)
        place = self._link if self._placement == "link" and not is_url(row.image) else self._copy
        name = row.image.rstrip("/").rpartition("/")[2]
        # Images of several folders may have one name.
        for candidate in (name, f"{hashlib.sha256(os.fsencode(row.image)).hexdigest()[:8]}-{name}"):
            if place(row.image, folder / candidate):
                return

    def _link(self, image: str, place: Path) -> bool:
        """Link an image; return whether the place holds it now."""
        source = Path(image).absolute()
        try:
            place.symlink_to(source)
        except FileExistsError:
            return place.is_symlink() and place.readlink() == source
        return True

    def _copy(self, image: str, place: Path) -> bool:
        """Copy an image; return whether the place holds it now."""
        data = read_file(image, MAX_IMAGE_BYTES)
        if place.exists():
            return place.read_bytes() == data
        aside = place.with_name(f".{place.name[:_MAX_NAME_BYTES]}.writing")
        aside.write_bytes(data)
        aside.replace(place)
        return True


def folder_name(label: str) -> str:
    """Return a label as the name of a folder."""
    name = _UNSAFE.sub("_", label).strip() or "_"
    while len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = name[:-1]
    return name
