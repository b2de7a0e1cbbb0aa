"""Open a JPEG and decode it to RGB, or raise ImageError."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from jpeg_contract.exif import is_sideways
from jpeg_contract.geometry import SCALED_MARGIN, Geometry, Size
from jpeg_contract.image_errors import ImageError
from jpeg_contract.jpeg_segments import (
    JPEG_LS_FRAME,
    REFUSED,
    START,
    START_OF_SCAN,
    Frame,
    Structure,
    header_segments,
    read_headers,
    read_structure,
    segments,
)
from jpeg_contract.settings import DEFAULT_FORMATS, Decoder, ImageFormat, Limits
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from jpeg_preprocess.decode_cost import DecodeCost, estimate, refusal
from jpeg_preprocess.decoded import (
    TRANSPOSE,
    DecodedImage,
    from_end,
    too_many_bytes,
    too_many_pixels,
    turned,
)
from jpeg_preprocess.other_formats import not_an_image
from jpeg_preprocess.repair import ended, without_applications, without_endless_exif


def scale(geometry: Geometry, decoder: Decoder, width: int, height: int) -> int:
    """Return n, where an image that has this size once it is upright is decoded at 1/n of it."""
    if decoder != "scaled":
        return 1
    if geometry.resize_side == "longer":
        needed_width, needed_height = geometry.resized_size(width, height)
        factor = min(width // (needed_width * SCALED_MARGIN), height // (needed_height * SCALED_MARGIN))
    else:
        factor = min(width, height) // (max(geometry.resize_at_least) * SCALED_MARGIN)
    return next((n for n in (8, 4, 2) if factor >= n), 1)


@dataclass(frozen=True)
class OpenedJpeg:
    """A JPEG whose header is read and within the limits; its pixels are not decoded yet.

    Attributes:
        cost: Of `decode`. What it returns takes a part of that memory, until it is released.
    """

    cost: DecodeCost
    _image: JpegImageFile
    _data: bytes
    _orientation: int
    _draft: tuple[int, int] | None

    def decode(self) -> DecodedImage:
        """Decode the pixels, once. Raises ImageError."""
        width, height = self._image.size
        try:
            upright = _load(self._image, self._draft)
        except MemoryError:
            raise
        except Exception as error:
            complete = _load_without_end(self._data, self._draft)
            if complete is None:
                raise _undecodable(self._data, error) from error
            upright = complete
        upright = turned(upright, self._orientation)
        size = (height, width) if is_sideways(self._orientation) else (width, height)
        return DecodedImage(upright, size, from_end(self._orientation))


def open_jpeg(
    data: bytes,
    *,
    geometry: Geometry,
    decoder: Decoder,
    limits: Limits,
    exif_orientation: bool,
    formats: Sequence[ImageFormat] = DEFAULT_FORMATS,
) -> OpenedJpeg:
    """Open one JPEG: baseline or progressive; gray, YCbCr, RGB, CMYK or YCCK.

    Args:
        data: The encoded image.
        geometry: How much resolution the resize needs, for the decoder `scaled`.
        decoder: "scaled" or "full"; "gpu" is taken for "full".
        limits: What is refused.
        exif_orientation: Turn the image as its EXIF orientation says. torchvision's reference transform does not.
        formats: That are decoded, for the message on data that has none of them.

    Raises:
        ImageError: The image cannot be decoded, or is beyond a limit.
    """
    image, data, structure = _open(data, limits, formats)
    orientation = _orientation(image) if exif_orientation else 1
    sideways = is_sideways(orientation)
    cost = estimate(
        structure,
        len(data),
        lambda width, height: scale(geometry, decoder, *((height, width) if sideways else (width, height))),
        is_turned=orientation != 1,
    )
    if (refused := refusal(cost, limits)) is not None:
        raise refused
    draft: tuple[int, int] | None = None
    if decoder == "scaled":
        draft = _draft(geometry, image.size, sideways=sideways)
    return OpenedJpeg(cost, image, data, orientation, draft)


def _draft(geometry: Geometry, stored: Size, *, sideways: bool) -> tuple[int, int]:
    """Return the (width, height) that libjpeg must not go below for an image of this stored size."""
    if geometry.resize_side == "longer":
        width, height = reversed(stored) if sideways else stored
        needed_width, needed_height = geometry.resized_size(width, height)
    else:
        needed_height, needed_width = geometry.resize_at_least
    needed = (needed_height, needed_width) if sideways else (needed_width, needed_height)
    return needed[0] * SCALED_MARGIN, needed[1] * SCALED_MARGIN


def _open(data: bytes, limits: Limits, formats: Sequence[ImageFormat]) -> tuple[JpegImageFile, bytes, Structure]:
    """Read the header; return also the bytes that it was read from, which may lack a part that says nothing."""
    if not data:
        raise ImageError("empty", "empty: no bytes were sent")
    if len(data) > limits.max_image_bytes:
        raise too_many_bytes(len(data), limits)
    if not data.startswith(START):
        raise not_an_image(data, formats)
    header = header_segments(data)
    if any(segment.marker in REFUSED for segment in header):
        raise _undecodable(data)
    sent = data
    data = without_endless_exif(data, header)
    try:
        # Not Image.open: that also warns of many pixels by a limit of its own, and opens other formats.
        image = JpegImageFile(io.BytesIO(data))
    except MemoryError:
        raise
    except Exception as error:
        image, data = _open_again(data, error)
    width, height = image.size
    if width * height > limits.max_pixels:
        raise too_many_pixels(width, height, limits)
    structure = read_structure(data, header if data is sent else None)
    if structure is None:
        raise _undecodable(data)
    # Before libjpeg sees it: for lossless images it ignores the scale, and Pillow before 13 writes beyond its rows.
    if feature := _unsupported(data, structure.frame):
        raise _refuse_unsupported(feature)
    if image.size != (structure.frame.width, structure.frame.height):
        # Pillow takes the last of several frames, libjpeg refuses them: the limits would be those of another one.
        raise _undecodable(data)
    if structure.has_several and structure.scans > limits.max_scans:
        raise ImageError("too_many_scans", f"too many scans: the limit is {limits.max_scans}")
    return image, data, structure


def _open_again(data: bytes, refusal: Exception) -> tuple[JpegImageFile, bytes]:
    """Open a JPEG that Pillow refuses, without the parts that say nothing about its pixels."""
    bare = without_applications(data)
    try:
        return JpegImageFile(io.BytesIO(bare)), bare
    except MemoryError:
        raise
    except Exception as error:
        raise _undecodable(data, error) from refusal


def _load(image: JpegImageFile, draft: tuple[int, int] | None) -> Image.Image:
    """Decode to RGB. draft: (width, height) that are needed; None decodes every pixel."""
    if draft is not None:
        image.draft(image.mode, draft)
    image.load()
    # convert() copies an image that is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _load_without_end(data: bytes, draft: tuple[int, int] | None) -> Image.Image | None:
    """Decode a JPEG that lacks only its end marker; None if it has one, or if more is missing."""
    both = ended(data)
    if both is None:
        return None
    try:
        image, other = (_load(JpegImageFile(io.BytesIO(each)), draft) for each in both)
    except MemoryError:
        raise
    except Exception:  # it is broken in other ways, too
        return None
    return image if image.tobytes() == other.tobytes() else None


def _undecodable(data: bytes, error: Exception | None = None) -> ImageError:
    """Return the reason why an image cannot be decoded. Pillow's messages are not for clients, and of many kinds."""
    frame, _ = read_headers(data)
    if feature := _unsupported(data, frame):
        return _refuse_unsupported(feature)
    scans = (segment for segment in segments(data) if segment.marker == START_OF_SCAN)
    if not any(max(scan.body, scan.end) <= len(data) for scan in scans):
        return ImageError("truncated", "truncated JPEG: the data ends inside the header")
    if "truncated" in str(error).lower():
        return ImageError("truncated", "truncated JPEG: the data ends before the image does")
    return ImageError("corrupt", "corrupt JPEG: its data cannot be decoded")


def _refuse_unsupported(feature: str) -> ImageError:
    return ImageError("unsupported", f"unsupported JPEG: {feature}; baseline and progressive ones are supported")


def _unsupported(data: bytes, frame: Frame | None) -> str | None:
    if frame is None:
        is_ls = any(segment.marker == JPEG_LS_FRAME for segment in segments(data))
        return "it is a JPEG-LS" if is_ls else None
    return frame.unsupported


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
    return value if isinstance(value, int) and value in TRANSPOSE else 1
