"""Photos that are made smaller before they are sent, for where the network is the limit and not the server."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jpeg_contract.cpus import usable_cpus
from jpeg_contract.exif import EXIF, UPRIGHT, is_sideways, orientation_segment, read_orientation
from jpeg_contract.geometry import SCALED_MARGIN, Geometry, Size
from jpeg_contract.image_errors import ImageError
from jpeg_contract.jpeg_segments import (
    APP0,
    APP1,
    APP14,
    COMMENT,
    REFUSED,
    START,
    Segment,
    Structure,
    header_segments,
    read_structure,
)
from jpeg_contract.parameters import SettingsError, parameters_of
from jpeg_contract.settings import PreprocessSettings

from jpeg_client.description import preprocess_name
from jpeg_client.errors import JpegClientError

if TYPE_CHECKING:
    import PIL.Image

SHRUNK_OPTIONS: dict[str, Any] = {"quality": 90, "subsampling": 0, "optimize": True}
"""How a shrunk photo is encoded: bench/shrink_cost.py measures the choice, and docs/client.md has the numbers."""

# Below, a photo travels in a few packets anyway.
_MIN_BYTES = 65_536
# Of the pixels and of the bytes: a photo that would keep more is sent as it is, since each encoding loses something.
_WORTH = 0.5
# For one photo: 50 megapixels, progressive in 4:2:0, take 143 MiB.
_MOST_DECODE_BYTES = 2**28

_KEPT_S = 10.0

# The decoder needs what JFIF and Adobe say about colours; profiles, previews and texts say nothing about the pixels.
_DROPPED = frozenset({COMMENT, *range(APP0, APP0 + 16)}) - {APP0, APP14}

# More threads decode nothing sooner, and each needs the memory of a photo.
_decoders = threading.BoundedSemaphore(usable_cpus())


@dataclass(frozen=True)
class _Header:
    """What is known of a JPEG before it is decoded.

    Attributes:
        structure: Frame and scans.
        orientation: EXIF's, 1 to 8.
        segments: Up to the header of the first scan.
    """

    structure: Structure
    orientation: int
    segments: list[Segment]


@dataclass(frozen=True)
class Shrinker:
    """Makes photos as small as one model of a server needs them.

    A photo keeps `SCALED_MARGIN` times the size to which the server resizes it, as in the server's own decoder
    `scaled`. What is no ordinary JPEG is left as it is: the server decodes it, or says what is wrong with it.

    Attributes:
        geometry: The server's resize.
        exif_orientation: Whether the server turns photos as their EXIF orientation says.
        max_pixels: A photo with more is left as it is: the server refuses it.
        max_scans: Likewise.
    """

    geometry: Geometry
    exif_orientation: bool
    max_pixels: int
    max_scans: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Shrinker:
        """Read the config of a server's model `preprocess`.

        Raises:
            JpegClientError: It does not state how images are resized.
        """
        try:
            # A newer server may have further parameters.
            settings = PreprocessSettings.from_parameters(parameters_of(config), strict_names=False)
        except SettingsError as error:
            raise JpegClientError(
                f"the server does not state how {config.get('name')!r} resizes images ({error}): update the client, or "
                "leave out shrink",
                reason="resize_unknown",
            ) from error
        limits = settings.limits
        return cls(settings.geometry, settings.exif_orientation, limits.max_pixels, limits.max_scans)

    def size(self, width: int, height: int, orientation: int = UPRIGHT) -> Size | None:
        """Return the (width, height) to which a photo shrinks, as it is stored; None if it stays as it is.

        The server resizes the shrunk photo to the same size as the photo itself.

        Args:
            width: As stored, in pixels.
            height: As stored, in pixels.
            orientation: EXIF's, 1 to 8.
        """
        is_turned = self.exif_orientation and is_sideways(orientation)
        upright = (height, width) if is_turned else (width, height)
        resized = self.geometry.resized_size(*upright)
        small_width, small_height = (
            min(full, SCALED_MARGIN * needed) for full, needed in zip(upright, resized, strict=True)
        )
        if small_width * small_height > _WORTH * width * height:
            return None
        return (small_height, small_width) if is_turned else (small_width, small_height)

    def shrink(self, data: bytes) -> bytes:
        """Return a smaller JPEG of a photo, with its EXIF orientation alone; or the data as it is."""
        if len(data) < _MIN_BYTES or (header := self._read(data)) is None:
            return data
        frame = header.structure.frame
        size = self.size(frame.width, frame.height, header.orientation)
        if size is None:
            return data
        try:
            with _decoders:
                small = _shrunk(data, header, size)
        except Exception:  # whatever Pillow raises for a broken image, and too little memory
            return data
        return small if small is not None and len(small) <= _WORTH * len(data) else data

    def shrink_pixels(self, image: PIL.Image.Image) -> PIL.Image.Image | None:
        """Return a smaller image of one that is upright; None if it stays as it is."""
        size = self.size(*image.size)
        return None if size is None else _resized(image, size, (0, 0, *image.size))

    def _read(self, data: bytes) -> _Header | None:
        """Return the header of an ordinary JPEG within the limits; None for anything else."""
        if not data.startswith(START):
            return None
        try:
            segments = header_segments(data)
            structure = read_structure(data, segments)
        except ImageError:
            return None
        if structure is None or any(segment.marker in REFUSED for segment in segments):
            return None
        frame = structure.frame
        if frame.unsupported or not structure.has_end or structure.scans > self.max_scans:
            return None
        if not 0 < frame.width * frame.height <= self.max_pixels:
            return None
        orientation = _orientation(data, segments)
        return None if orientation is None else _Header(structure, orientation, segments)


def _orientation(data: bytes, segments: list[Segment]) -> int | None:
    """Return the EXIF orientation, 1 to 8; None if readers may disagree about it."""
    found = [each for each in segments if each.marker == APP1 and data.startswith(EXIF, each.body)]
    if not found:
        return UPRIGHT
    if len(found) > 1:
        return None
    return read_orientation(data[found[0].body + len(EXIF) : found[0].end]) or None


def _shrunk(data: bytes, header: _Header, size: Size) -> bytes | None:
    """Return a smaller JPEG; None if decoding takes too much memory. Raises whatever Pillow does."""
    from PIL.JpegImagePlugin import JpegImageFile

    *before, scan = header.segments
    kept = (data[each.start : each.end] for each in before if each.marker not in _DROPPED)
    # Not Image.open: that also warns of many pixels by a limit of its own, and opens other formats.
    image: PIL.Image.Image = JpegImageFile(io.BytesIO(b"".join([data[:2], *kept, data[scan.start :]])))
    frame = header.structure.frame
    if image.size != (frame.width, frame.height):  # of several frames, Pillow takes the last one
        return None
    # libjpeg scales like a filter of one box, which shows where it alone makes the photo small (docs/client.md).
    drafted = image.draft(None, (SCALED_MARGIN * size[0], SCALED_MARGIN * size[1]))
    coefficients = 2 * frame.samples if header.structure.has_several else 0
    if coefficients + 8 * image.width * image.height > _MOST_DECODE_BYTES:
        return None
    # libjpeg rounds a scaled size up, so that its last column may stand for less than a whole one.
    box = (0, 0, *image.size) if drafted is None else drafted[1]
    image.load()
    # As in the server, gray stays gray and profiles are ignored.
    colours = image if image.mode in ("L", "RGB") else image.convert("RGB")
    exif = {} if header.orientation == UPRIGHT else {"exif": orientation_segment(header.orientation)}
    stream = io.BytesIO()
    _resized(colours, size, box).save(stream, "JPEG", **SHRUNK_OPTIONS, **exif)
    return stream.getvalue()


def _resized(image: PIL.Image.Image, size: Size, box: tuple[float, float, float, float]) -> PIL.Image.Image:
    from PIL.Image import Resampling

    # A gap of 2 is a fast reduction by an integer first, to no less than twice the size.
    return image.resize(size, Resampling.LANCZOS, box, reducing_gap=2.0)


class Shrinkers:
    """The shrinkers of the models of a server, read again after some seconds: a model may get another network."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Shrinker, float]] = {}

    def plan(self, model: str) -> Generator[str, Mapping[str, Any], Shrinker]:
        """Return the shrinker of an ensemble; yields the names of models, and gets their configs.

        Raises:
            JpegClientError: It is no ensemble of this project, or does not state how it resizes images.
        """
        shrinker, until = self._kept.get(model, (None, 0.0))
        now = time.monotonic()
        if shrinker is not None and now < until:
            return shrinker
        if shrinker is not None:
            self._kept[model] = shrinker, now + _KEPT_S  # other threads do not read it meanwhile
        try:
            ensemble = yield model
            found = Shrinker.from_config((yield preprocess_name(ensemble)))
        except JpegClientError:
            if shrinker is None:
                raise
            return shrinker  # the request that follows meets the failure, and reports it
        self._kept[model] = found, now + _KEPT_S
        return found
