"""Open an image of another format than JPEG within the limits, and decode it to RGB through Pillow."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jpeg_contract.geometry import Rgb
from jpeg_contract.image_errors import ImageError
from jpeg_contract.jpeg_segments import START
from jpeg_contract.parameters import SettingsError
from jpeg_contract.remedies import missing_package
from jpeg_contract.settings import HEIC_PACKAGES, ImageFormat, PreprocessSettings
from PIL import AvifImagePlugin, Image, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from jpeg_preprocess.decode_cost import NOTHING, DecodeCost, refusal
from jpeg_preprocess.decoded import DecodedImage, too_many_bytes, too_many_pixels, turned
from jpeg_preprocess.formats.gif import read_gif
from jpeg_preprocess.formats.iso_media import read_iso_media
from jpeg_preprocess.formats.picture import Picture, corrupt, truncated, unsupported
from jpeg_preprocess.formats.png import read_png
from jpeg_preprocess.formats.quiet_tiff import silence_libtiff
from jpeg_preprocess.formats.signatures import image_format
from jpeg_preprocess.formats.tiff import exif_orientation, read_tiff
from jpeg_preprocess.formats.webp import read_webp

# One thread for each image, as of all other formats: a worker decodes several at a time.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# What Pillow may have been built without.
_FEATURES: Mapping[ImageFormat, str] = {"png": "zlib", "webp": "webp", "tiff": "libtiff", "avif": "avif"}

_READERS: Mapping[ImageFormat, Callable[[bytes], Picture]] = {
    "png": read_png,
    "gif": read_gif,
    "webp": read_webp,
    "tiff": read_tiff,
    "avif": lambda data: read_iso_media(data, "avif"),
    "heic": lambda data: read_iso_media(data, "heic"),
}


@dataclass(frozen=True)
class _Price:
    """What decoding costs at most, measured: docs/preprocessing.md has the measurements.

    Attributes:
        s_per_byte: Seconds of a core for each byte of the file.
        s_per_pixel: Seconds of a core for each pixel.
        bytes_per_pixel: Of memory, with the conversion to RGB.
        bytes_per_coded_pixel: Of memory for each pixel that the codec computes, where these are others.
    """

    s_per_byte: float
    s_per_pixel: float
    bytes_per_pixel: int
    bytes_per_coded_pixel: int = 0


_PRICES: Mapping[ImageFormat, _Price] = {
    "png": _Price(12e-9, 14e-9, 8),
    "gif": _Price(12e-9, 8e-9, 8),
    "webp": _Price(40e-9, 16e-9, 24),
    "tiff": _Price(8e-9, 12e-9, 16),
    "avif": _Price(90e-9, 16e-9, 10, 8),
    "heic": _Price(90e-9, 24e-9, 6, 5),
}
_S_PER_STRIP = 5e-6
_BYTES_TO_TURN = 4
# RGB of the background, and the alpha channel.
_BYTES_TO_COMPOSE, _S_TO_COMPOSE = 8, 10e-9
_MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class OpenedPicture:
    """The first picture of a file, whose headers are read and within the limits; its pixels are not decoded yet.

    Attributes:
        cost: Of `decode`. What it returns takes a part of that memory, until it is released.
    """

    cost: DecodeCost
    _name: ImageFormat
    _picture: Picture
    _settings: PreprocessSettings

    def decode(self) -> DecodedImage:
        """Decode the pixels, once. Raises ImageError."""
        picture, name = self._picture, self._name
        try:
            image = _open(name, b"".join(picture.parts))
            if name not in ("avif", "heic") and image.size != (picture.width, picture.height):
                # The limits would be those of another one.
                raise corrupt(name)
            orientation = _orientation(name, image, picture, self._settings.exif_orientation)
            rgb = turned(_to_rgb(name, image, self._settings.background), orientation)
        except (MemoryError, ImageError):
            raise
        except Exception as error:
            # Pillow's messages are not for clients, and of many kinds.
            raise (truncated(name) if "truncated" in str(error).lower() else corrupt(name)) from error
        return DecodedImage(rgb, rgb.size)


class OtherDecoders:
    """Opens images of the formats beside JPEG that a recipe lists.

    Args:
        settings: The formats and limits, and what is done with orientation and transparency.

    Raises:
        SettingsError: A decoder is not installed.
    """

    def __init__(self, settings: PreprocessSettings) -> None:
        self._settings = settings
        self._names = frozenset(settings.formats) - {"jpeg"}
        for name in sorted(self._names):
            _check_decoder(name)
        if "tiff" in self._names:
            silence_libtiff()

    def format_of(self, data: bytes) -> ImageFormat | None:
        """Return the format of an image; None for a JPEG, and for what has none of the listed formats."""
        if data.startswith(START):
            return None
        name = image_format(data)
        return name if name in self._names else None

    def open(self, data: bytes, name: ImageFormat) -> OpenedPicture:
        """Read the headers of an image.

        Args:
            data: The encoded image.
            name: What `format_of` returns.

        Raises:
            ImageError: The image cannot be decoded, or is beyond a limit.
        """
        settings = self._settings
        limits = settings.limits
        if len(data) > limits.max_image_bytes:
            raise too_many_bytes(len(data), limits)
        picture = _READERS[name](data)
        if picture.pixels > limits.max_pixels:
            raise too_many_pixels(picture.width, picture.height, limits)
        cost = _estimate(name, picture, len(data), composes=settings.background is not None)
        if (refused := refusal(cost, limits)) is not None:
            raise refused
        return OpenedPicture(cost, name, picture, settings)

    def cost(self, data: bytes, name: ImageFormat) -> DecodeCost:
        """Estimate what it costs to decode an image; one that is refused for its headers costs nothing."""
        try:
            return self.open(data, name).cost
        except ImageError:
            return NOTHING


def _check_decoder(name: ImageFormat) -> None:
    if name == "heic":
        try:
            heif_package()
        except ImportError as error:
            raise SettingsError(
                f"formats lists heic: {missing_package(HEIC_PACKAGES[0], 'heic')}", reason="package_missing"
            ) from error
    elif (feature := _FEATURES.get(name)) is not None and not features.check(feature):
        raise SettingsError(
            f"formats lists {name}, but this Pillow was built without its decoder: install Pillow from its wheels",
            reason="package_missing",
        )


def _estimate(name: ImageFormat, picture: Picture, size: int, *, composes: bool) -> DecodeCost:
    price = _PRICES[name]
    coded = max(picture.pixels, picture.coded)
    seconds = size * price.s_per_byte + coded * price.s_per_pixel + picture.strips * _S_PER_STRIP
    seconds += picture.pixels * _S_TO_COMPOSE * composes
    each = price.bytes_per_pixel + _BYTES_TO_TURN * (picture.orientation != 1) + _BYTES_TO_COMPOSE * composes
    # The decoder gets a copy of the file.
    return DecodeCost(seconds, picture.pixels * each + coded * price.bytes_per_coded_pixel + size)


def _open(name: ImageFormat, data: bytes) -> Image.Image:
    """Open the file by the one decoder of its format; `Image.open` would try others, and warn of many pixels."""
    stream = io.BytesIO(data)
    try:
        match name:
            case "png":
                return PngImageFile(stream)
            case "gif":
                return GifImageFile(stream)
            case "webp":
                return WebPImageFile(stream)
            case "tiff":
                return TiffImageFile(stream)
            case "avif":
                return AvifImageFile(stream)
            case _:
                return _heif(stream)
    except SyntaxError as error:
        # What Pillow raises for a header that it understands, and has no pixels for.
        raise unsupported(name, "its combination of colours, bits and compression is not decoded") from error


def _heif(stream: io.BytesIO) -> Image.Image:
    module = heif_package()
    module.options.THUMBNAILS = module.options.DEPTH_IMAGES = module.options.AUX_IMAGES = False
    module.options.DECODE_THREADS = 1
    opened: Image.Image = module.HeifImageFile(stream)
    return opened


def heif_package() -> Any:
    """Import the package that decodes HEIC. Raises ImportError."""
    first, second = HEIC_PACKAGES
    try:
        return importlib.import_module(first)
    except ImportError:
        return importlib.import_module(second)


def _orientation(name: ImageFormat, image: Image.Image, picture: Picture, exif_counts: bool) -> int:
    if name == "heic":
        return 1  # libheif has turned it
    if name == "avif":
        # Pillow writes the turn of the container, which is a part of the picture, into the EXIF data.
        return exif_orientation(image.info.get("exif", b""))
    return picture.orientation if exif_counts else 1


def _to_rgb(name: ImageFormat, image: Image.Image, background: Rgb | None) -> Image.Image:
    """Decode, and convert to RGB as Pillow does; but 16 bits of gray to 8, where Pillow would clip."""
    image.load()
    if image.mode in _MODES_16_BIT:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if background is not None and image.has_transparency_data:
        return _on(background, image.convert("RGBA"))
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise unsupported(name, f"its samples are of the kind {image.mode}, for which nothing states white")
    return image if image.mode == "RGB" else image.convert("RGB")


def _on(background: Rgb, image: Image.Image) -> Image.Image:
    below = Image.new("RGB", image.size, background)
    below.paste(image, mask=image.getchannel("A"))
    return below
