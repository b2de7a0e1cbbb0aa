"""The first picture of a file, as its headers describe it, and the errors of those that have none."""

from __future__ import annotations

from dataclasses import dataclass

from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import ImageFormat

TITLES: dict[ImageFormat, str] = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WebP",
    "gif": "GIF",
    "tiff": "TIFF",
    "avif": "AVIF",
    "heic": "HEIC",
}
"""The formats, as people write them."""

MOST_PARTS = 65_536
"""Chunks, blocks, boxes, strips or tiles of one file. A PNG of 20 MB in chunks of 8 kB, which is usual, has 2500."""


@dataclass(frozen=True)
class Picture:
    """The first picture of a file.

    Attributes:
        width: In pixels, as stored: before it is turned upright.
        height: In pixels.
        parts: Joined, they are what the decoder gets.
        orientation: Of EXIF, 1 to 8. The decoders of AVIF and HEIC know theirs.
        coded: Pixels of 8 bits that a decoder computes for it, where that is not width times height: the tiles, the
            alpha channel and the hidden frames of AVIF and HEIC count, and deeper pixels of HEIC twice.
        strips: That are coded separately.
    """

    width: int
    height: int
    parts: tuple[bytes | memoryview, ...]
    orientation: int = 1
    coded: int = 0
    strips: int = 1

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def truncated(name: ImageFormat) -> ImageError:
    """Return the error of a file that ends too early."""
    return ImageError("truncated", f"truncated {TITLES[name]}: the data ends before the image does")


def corrupt(name: ImageFormat) -> ImageError:
    """Return the error of a file that contradicts itself."""
    return ImageError("corrupt", f"corrupt {TITLES[name]}: its data cannot be decoded")


def unsupported(name: ImageFormat, feature: str) -> ImageError:
    """Return the error of a file that a decoder may know and this project does not. feature: such as "it is ..."."""
    return ImageError("unsupported", f"unsupported {TITLES[name]}: {feature}")


def too_many_parts() -> ImageError:
    """Return the error of a file that takes long to walk through."""
    return ImageError("too_much_work", f"too much work: it has more than {MOST_PARTS} parts")
