"""What decoding an image results in, whatever its format, and the refusals that all formats share."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    image: Image.Image
    original_size: Size


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
