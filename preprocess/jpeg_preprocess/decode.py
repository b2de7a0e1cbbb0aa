"""Decode a JPEG to RGB, or raise ImageError."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass

from jpeg_contract.geometry import Geometry, Size
from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import Decoder, Limits
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

# With 1, the mean difference of a pixel passes 2 counts on some photos (measured, docs/preprocessing.md).
SCALED_MARGIN = 2

JPEG_START = b"\xff\xd8\xff"
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# Any marker that cannot occur inside a scan (there: stuffed zeros, fill bytes, restarts).
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_OTHER_FORMATS = (
    (b"\x89PNG", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"RIFF", "a WebP"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"<", "a text (HTML, XML or SVG)"),
    (b"{", "a text (JSON)"),
)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        image: Mode RGB, upright.
        original_size: Its (width, height) at full size.
    """

    image: Image.Image
    original_size: Size


def decode(
    data: bytes, *, geometry: Geometry, decoder: Decoder, limits: Limits, exif_orientation: bool
) -> DecodedImage:
    """Decode one JPEG: baseline or progressive; gray, YCbCr, RGB, CMYK or YCCK.

    Args:
        data: The encoded image.
        geometry: How much resolution the resize needs, for the decoder `scaled`.
        decoder: "scaled" or "full"; "gpu" is taken for "full".
        limits: What is refused.
        exif_orientation: Turn the image as its EXIF orientation says. torchvision's reference transform does not.

    Raises:
        ImageError: The image cannot be decoded, or is beyond a limit.
    """
    image = _open(data, limits)
    orientation = _orientation(image) if exif_orientation else 1
    width, height = image.size
    if decoder == "scaled":
        needed_height, needed_width = geometry.resize_at_least
        needed = (needed_height, needed_width) if orientation in _SIDEWAYS else (needed_width, needed_height)
        image.draft(image.mode, (needed[0] * SCALED_MARGIN, needed[1] * SCALED_MARGIN))
    try:
        image.load()
        upright = image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:
        # Pillow raises many kinds here, and their messages are not for clients.
        if "truncated" in str(error).lower():
            raise ImageError("truncated", "truncated JPEG: the data ends before the image does") from error
        raise ImageError("corrupt", "corrupt JPEG: its data cannot be decoded") from error
    if orientation != 1:
        upright = upright.transpose(_TRANSPOSE[orientation])
    return DecodedImage(upright, (height, width) if orientation in _SIDEWAYS else (width, height))


def _open(data: bytes, limits: Limits) -> JpegImageFile:
    if not data:
        raise ImageError("empty", "empty: no bytes were sent")
    if len(data) > limits.max_image_bytes:
        raise ImageError("too_many_bytes", f"too large: {len(data)} bytes, the limit is {limits.max_image_bytes} bytes")
    if not data.startswith(JPEG_START):
        looks_like = next((name for start, name in _OTHER_FORMATS if data.startswith(start)), None)
        guess = f", it looks like {looks_like}" if looks_like else ""
        raise ImageError("not_jpeg", f"not a JPEG: it does not begin with the bytes FF D8 FF{guess}")
    try:
        # Not Image.open: that also warns of many pixels by a limit of its own, and opens other formats.
        image = JpegImageFile(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as error:
        if START_OF_SCAN not in data:
            # No scan begins anywhere: the header itself was cut off.
            raise ImageError("truncated", "truncated JPEG: the data ends inside the header") from error
        raise ImageError("corrupt", "corrupt or unsupported JPEG: its header cannot be read") from error
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"too many pixels: {width}x{height} is {width * height}, the limit is {limits.max_pixels}",
        )
    # The count is quick and may be too high: it includes thumbnails and appended data.
    if data.count(START_OF_SCAN) > limits.max_scans and _has_more_scans(data, limits.max_scans):
        raise ImageError("too_many_scans", f"too many scans: the limit is {limits.max_scans}")
    return image


def _has_more_scans(data: bytes, limit: int) -> bool:
    """Whether the image itself has more scans than `limit`: walk from marker to marker (ITU-T T.81, annex B)."""
    scans, position = 0, 2
    while scans <= limit:
        found = _MARKER.search(data, position)
        if found is None or found[0] == END_OF_IMAGE:
            return False
        scans += found[0] == START_OF_SCAN
        # A segment's length counts its own two bytes; the data after a scan's header is searched for the next marker.
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return True


def _orientation(image: JpegImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if there is none or the EXIF data is broken."""
    if "exif" not in image.info:
        return 1
    try:
        # Not image.getexif(): that also looks into XMP, but only where there is EXIF, too.
        exif = Image.Exif()
        exif.load(image.info["exif"])
        value = exif.get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) and value in _TRANSPOSE else 1
