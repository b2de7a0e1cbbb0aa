"""The photos that are classified."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpeg_contract.resources import PHOTOS

from jpeg_bench.errors import BenchError

if TYPE_CHECKING:
    from PIL import Image

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
    def groups(self) -> tuple[str, ...]:
        """The size of each as text."""
        return tuple(f"{width}x{height}" for width, height in self.sizes)

    @property
    def mean_bytes(self) -> int:
        """Mean length of an encoded image."""
        return round(sum(map(len, self.data)) / len(self.data))

    def to_json(self) -> dict[str, Any]:
        """Return count, mean length, sizes and names."""
        return {
            "count": len(self.data),
            "mean_bytes": self.mean_bytes,
            "sizes": list(self.groups),
            "names": list(self.names),
        }


@dataclass(frozen=True)
class Encoding:
    """How resized photos are encoded.

    Attributes:
        grain: Noise that is added, of up to so many counts in all channels. Enlarged photos lack the grain of a camera,
            and with it most of the bytes that a decoder has to read.
        progressive: Whether they are progressive.
    """

    grain: int = 0
    progressive: bool = False


def read_photos(folder: Path = PHOTOS, size: tuple[int, int] | None = None, encoding: Encoding | None = None) -> Photos:
    """Read the JPEGs of a folder, without its subfolders.

    Args:
        folder: The folder.
        size: (width, height) in pixels to resize all photos to, centre-cropped and encoded again with quality 90 and
            4:2:0 subsampling. None leaves them unchanged.
        encoding: Of resized photos; None is baseline without grain.

    Raises:
        BenchError: The folder does not exist or holds no JPEG.
    """
    if not folder.is_dir():
        raise BenchError(f"no such folder: {folder}; name a folder with JPEGs: --photos DIR", reason="photos_missing")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise BenchError(f"{folder} has no files with the suffix {', '.join(SUFFIXES)}", reason="photos_missing")
    data = [file.read_bytes() if size is None else _resize(file, size, encoding or Encoding()) for file in files]
    return Photos(tuple(file.name for file in files), tuple(data), tuple(_size(image) for image in data))


def mix_photos(parts: Sequence[Photos]) -> Photos:
    """Return the photos of several sizes in rotation: the first of each, the second of each.

    Args:
        parts: Of equal length.
    """
    photos = [photo for same in zip(*map(_each, parts), strict=True) for photo in same]
    names, data, sizes = zip(*photos, strict=True)
    return Photos(names, data, sizes)


def _each(photos: Photos) -> list[tuple[str, bytes, tuple[int, int]]]:
    return list(zip(photos.names, photos.data, photos.sizes, strict=True))


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


def _resize(file: Path, size: tuple[int, int], encoding: Encoding) -> bytes:
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        fitted = ImageOps.fit(image.convert("RGB"), size, Image.Resampling.LANCZOS)
    if encoding.grain:
        fitted = _grainy(fitted, encoding.grain)
    stream = io.BytesIO()
    fitted.save(stream, "JPEG", quality=_QUALITY, subsampling=_SUBSAMPLING, progressive=encoding.progressive)
    return stream.getvalue()


def _grainy(image: Image.Image, grain: int) -> Image.Image:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(-grain, grain + 1, (image.height, image.width, 1), np.int16)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
