"""What decoding an image results in, whatever its format, and the refusals that all formats share."""

from __future__ import annotations

from dataclasses import dataclass

from jpeg_contract.exif import LIES
from jpeg_contract.geometry import Size
from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import Limits
from PIL import Image

TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an EXIF orientation is undone."""


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        image: Mode RGB, upright.
        original_size: Its (width, height) at full size.
        from_end: Whether its first column, and its first row, was stored as a last one.
    """

    image: Image.Image
    original_size: Size
    from_end: tuple[bool, bool] = (False, False)


def from_end(orientation: int) -> tuple[bool, bool]:
    """Return DecodedImage's `from_end` of an image with this EXIF orientation."""
    swapped, from_right, from_bottom = LIES[orientation]
    return (from_bottom, from_right) if swapped else (from_right, from_bottom)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image upright. orientation: of EXIF, 1 to 8."""
    return image if orientation == 1 else image.transpose(TRANSPOSE[orientation])


def too_many_bytes(size: int, limits: Limits) -> ImageError:
    """Return the error of a file that is too long."""
    return ImageError("too_many_bytes", f"too large: {size} bytes, the limit is {limits.max_image_bytes} bytes")


def too_many_pixels(width: int, height: int, limits: Limits) -> ImageError:
    """Return the error of an image that is too large."""
    return ImageError(
        "too_many_pixels",
        f"too many pixels: {width}x{height} is {width * height}, the limit is {limits.max_pixels}",
    )
