"""Which photos are classified."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from jpeg_bench.errors import BenchError

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_FOLDER = PROJECT / "photos"
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

# What a camera or a web site makes of a photo; no others are needed for work that can be compared.
_QUALITY, _SUBSAMPLING = 90, "4:2:0"


@dataclass(frozen=True)
class Photos:
    """JPEGs, in the order of their names. sizes: (width, height) of each."""

    names: tuple[str, ...]
    data: tuple[bytes, ...]
    sizes: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """What a result says of them."""
        return {
            "count": len(self.data),
            "mean_bytes": round(sum(map(len, self.data)) / len(self.data)),
            "sizes": [f"{width}x{height}" for width, height in self.sizes],
            "names": list(self.names),
        }


def read_photos(folder: Path = DEFAULT_FOLDER, size: tuple[int, int] | None = None) -> Photos:
    """The JPEGs that lie in a folder (not below it).

    size: (width, height) that all of them are cut to in the middle, resized and encoded anew (quality 90, 4:2:0), so
    that decoding them is the same work everywhere. Raises BenchError if there are none.
    """
    if not folder.is_dir():
        raise BenchError(f"{folder} is no folder: name one that holds JPEGs with --photos DIR")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise BenchError(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}")
    read = [file.read_bytes() if size is None else _encoded(file, size) for file in files]
    return Photos(tuple(file.name for file in files), tuple(read), tuple(_size(data) for data in read))


def batches(photos: Sequence[bytes], images: int) -> list[list[bytes]]:
    """Requests of so many images, one for each photo: each begins with another one and goes on in rotation."""
    return [[photos[(first + index) % len(photos)] for index in range(images)] for first in range(len(photos))]


def _size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        return width, height


def _encoded(file: Path, size: tuple[int, int]) -> bytes:
    from PIL import ImageOps

    with Image.open(file) as image:
        fitted = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    fitted.save(stream, "JPEG", quality=_QUALITY, subsampling=_SUBSAMPLING)
    return stream.getvalue()
