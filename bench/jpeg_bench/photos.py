"""The photos that are classified."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpeg_contract.resources import PHOTOS

from jpeg_bench.errors import BenchError

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# Typical of cameras and web sites. Fixed, so that results are comparable.
_QUALITY, _SUBSAMPLING = 90, "4:2:0"


@dataclass(frozen=True)
class Photos:
    """JPEGs, sorted by file name.

    Attributes:
        names: File names.
        data: Encoded images.
        sizes: (width, height) of each in pixels.
    """

    names: tuple[str, ...]
    data: tuple[bytes, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def mean_bytes(self) -> int:
        """Mean length of an encoded image."""
        return round(sum(map(len, self.data)) / len(self.data))

    def to_json(self) -> dict[str, Any]:
        """Return count, mean length, sizes and names."""
        return {
            "count": len(self.data),
            "mean_bytes": self.mean_bytes,
            "sizes": [f"{width}x{height}" for width, height in self.sizes],
            "names": list(self.names),
        }


def read_photos(folder: Path = PHOTOS, size: tuple[int, int] | None = None) -> Photos:
    """Read the JPEGs of a folder, without its subfolders.

    Args:
        folder: The folder.
        size: (width, height) in pixels to resize all photos to, centre-cropped and encoded again with quality 90 and
            4:2:0 subsampling. None leaves them unchanged.

    Raises:
        BenchError: The folder does not exist or holds no JPEG.
    """
    if not folder.is_dir():
        raise BenchError(f"no such folder: {folder}; name a folder with JPEGs: --photos DIR", reason="photos_missing")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise BenchError(f"{folder} has no files with the suffix {', '.join(SUFFIXES)}", reason="photos_missing")
    data = [file.read_bytes() if size is None else _resize(file, size) for file in files]
    return Photos(tuple(file.name for file in files), tuple(data), tuple(_size(image) for image in data))


def rotate_batches(photos: Sequence[bytes], batch_size: int) -> list[list[bytes]]:
    """Return one batch per photo: it begins with that photo and continues in rotation.

    Args:
        photos: Encoded images.
        batch_size: Images per batch.
    """
    return [[photos[(first + index) % len(photos)] for index in range(batch_size)] for first in range(len(photos))]


def _size(data: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        return width, height


def _resize(file: Path, size: tuple[int, int]) -> bytes:
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        fitted = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    fitted.save(stream, "JPEG", quality=_QUALITY, subsampling=_SUBSAMPLING)
    return stream.getvalue()
