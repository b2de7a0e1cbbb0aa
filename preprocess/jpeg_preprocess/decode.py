"""One JPEG to an RGB image, or to the reason why not."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import Literal

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from jpeg_preprocess.errors import ImageError
from jpeg_preprocess.geometry import Geometry, Size

Decoder = Literal["scaled", "full", "gpu"]
"""`full` decodes every pixel. `scaled` lets libjpeg-turbo leave out what the resize would throw away: it decodes
at 1/2, 1/4 or 1/8, but never below twice the size that the resize asks for, so the resize still does the
filtering. docs/preprocessing.md has the measured differences. `gpu` is for `device_preprocessor`; what it leaves to the
CPU is decoded here as by `full`."""

# With 1, the mean difference of a pixel passes 2 counts on some photos (measured, docs/preprocessing.md).
SCALED_MARGIN = 2

JPEG_START = b"\xff\xd8\xff"
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
# Any marker but those that stand inside a scan: stuffed zeros, fill bytes, restarts.
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
class Limits:
    """What is refused before any memory is spent on it.

    max_image_bytes: length of one encoded image, in bytes.
    max_pixels: width times height, as the JPEG's header states them.
    max_scans: passes over the image. Progressive encoders make about ten; each costs time for every pixel, so that
        without a limit a small file of a thousand scans keeps a core busy for half a minute.
    """

    max_image_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_scans: int = 64

    def __post_init__(self) -> None:
        if min(self.max_image_bytes, self.max_pixels, self.max_scans) < 1:
            raise ValueError("max_image_bytes, max_pixels and max_scans must be at least 1")


@dataclass(frozen=True)
class DecodedImage:
    """`image` is mode RGB and upright; `original_size` is (width, height) of it at full size."""

    image: Image.Image
    original_size: Size


def decode(
    data: bytes, *, geometry: Geometry, decoder: Decoder, limits: Limits, exif_orientation: bool
) -> DecodedImage:
    """Decode one JPEG: baseline or progressive; gray, YCbCr, RGB, CMYK or YCCK.

    data: the encoded image.
    geometry: tells `scaled` how much resolution is needed.
    exif_orientation: turn the image as its EXIF orientation says. torchvision's reference transform does not.

    Raises ImageError with the reason.
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
    # The count is quick and may count too many: also those in thumbnails and in what other programs append.
    if data.count(START_OF_SCAN) > limits.max_scans and _has_more_scans(data, limits.max_scans):
        raise ImageError("too_many_scans", f"too many scans: the limit is {limits.max_scans}")
    return image


def _has_more_scans(data: bytes, limit: int) -> bool:
    """Whether the image itself has more scans than `limit`, going from marker to marker (ITU-T T.81, annex B)."""
    scans, position = 0, 2
    while scans <= limit:
        found = _MARKER.search(data, position)
        if found is None or found[0] == END_OF_IMAGE:
            return False
        scans += found[0] == START_OF_SCAN
        # A segment's two bytes of length count themselves; what follows a scan's head is searched for a marker.
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return True


def _orientation(image: JpegImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or where the EXIF data is broken."""
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
