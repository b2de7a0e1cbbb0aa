"""Target `header`: any bytes, through all that reads a JPEG before it is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from jpeg_contract.image_errors import ImageError
from jpeg_contract.jpeg_segments import (
    APP1,
    REFUSED,
    START,
    header_segments,
    read_headers,
    read_structure,
    segments,
)
from jpeg_contract.settings import Limits
from jpeg_preprocess.admission import DecodeLater, RequestTooLong, admit
from jpeg_preprocess.decode import OpenedJpeg, open_jpeg, scale
from jpeg_preprocess.decode_cost import NOTHING, DecodeCost, decode_cost, estimate
from jpeg_preprocess.jpeg_header import read_plain
from jpeg_preprocess.other_formats import looks_like
from jpeg_preprocess.repair import ended, without_applications, without_endless_exif
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from coverage_fuzz import jpeg_mutator, jpeg_seeds
from coverage_fuzz.check import Check, Target, require
from coverage_fuzz.decoding import GEOMETRY, check_refusal

MAX_BYTES = 70_000
LIMITS = Limits()
EXIF = b"Exif\0\0"


def check(data: bytes) -> None:
    """Read one header in all ways. What several of them read must agree."""
    if not data.startswith(START):
        guess = looks_like(data)
        require(guess is None or (guess and guess.isprintable()), "the guess at another format is no text")
    _check_segments(data)
    _check_exif(data)
    opened = _open(data)
    _check_estimate(data, opened)
    _check_plain(data)
    _check_repair(data)


def _check_segments(data: bytes) -> None:
    try:
        found = list(segments(data))
    except ImageError as error:
        check_refusal(error)
        return
    position = 2
    for segment in found:
        require(position <= segment.start < segment.body, "segments overlap")
        require(data[segment.start] == 0xFF and data[segment.start + 1] == segment.marker, "a segment has no marker")
        position = segment.end
    frame, scan = read_headers(data)
    structure = read_structure(data)
    require((structure is not None) == (frame is not None and scan is not None), "headers and structure differ")
    if structure is not None:
        require(structure.frame == frame and structure.scans >= 1, "the structure is not that of the headers")


def _check_exif(data: bytes) -> None:
    """Compare the EXIF data that is looked at before Pillow reads it with that which Pillow reads."""
    if not data.startswith(START):
        return
    try:
        header = header_segments(data)
    except ImageError as error:
        check_refusal(error)
        return
    if any(segment.marker in REFUSED for segment in header):
        return
    bare = without_endless_exif(data, header)
    require(bare is data or len(bare) < len(data), "EXIF data is added")
    require(bare is data or read_headers(bare) == read_headers(data), "without EXIF data, the headers differ")
    image = _of_pillow(data)
    if image is not None:
        contents = [data[segment.body : segment.end] for segment in header if segment.marker == APP1]
        exif = [content for content in contents if content.startswith(EXIF)]
        ours = b"".join([*exif[:1], *(content[len(EXIF) :] for content in exif[1:])])
        require(image.info.get("exif", b"") == ours, "Pillow reads other EXIF data")


def _open(data: bytes) -> OpenedJpeg | None:
    opened: dict[str, OpenedJpeg] = {}
    refused: dict[str, str] = {}
    for decoder in ("full", "scaled"):
        try:
            opened[decoder] = open_jpeg(
                data,
                geometry=GEOMETRY,
                decoder="full" if decoder == "full" else "scaled",
                limits=LIMITS,
                exif_orientation=True,
            )
        except ImageError as error:
            check_refusal(error)
            refused[decoder] = error.reason
    if "full" in opened:
        require("scaled" in opened, f"scaled refuses what full opens: {refused}")
    return opened.get("full")


def _check_estimate(data: bytes, opened: OpenedJpeg | None) -> None:
    cost = decode_cost(data, lambda width, height: scale(GEOMETRY, "full", width, height))
    require(cost.seconds >= 0 and cost.memory_bytes >= 0, "a cost below 0")
    verdict = _admitted(cost)
    require(verdict is None or isinstance(verdict, (RequestTooLong, DecodeLater)), "admit gives no verdict")
    if opened is None:
        return
    structure = read_structure(data)
    if structure is None:
        return
    require(cost != NOTHING, "an image that is decoded costs nothing")
    require(cost == estimate(structure, len(data), lambda width, height: 1), "two estimates differ")
    image = _of_pillow(data)
    if image is not None:
        require(image.size == (structure.frame.width, structure.frame.height), "the size is not Pillow's")


def _admitted(cost: DecodeCost) -> RequestTooLong | DecodeLater | None:
    return admit([[cost, cost]], LIMITS, 2, lambda: False)[0]


def _check_plain(data: bytes) -> None:
    """Compare `read_plain`, which sends images to a GPU's decoder, with what the other readers say."""
    plain = read_plain(data)
    if plain is None:
        return
    structure = read_structure(data)
    assert structure is not None, "plain, but without a frame or a scan"
    frame = structure.frame
    require((plain.width, plain.height) == (frame.width, frame.height), "the plain header has another size")
    require(plain.components == len(frame.factors) and plain.components in (1, 3), "other components")
    require((frame.marker, frame.precision) == (0xC0, 8), "plain, but not baseline with 8 bits")
    require(not structure.has_several, "plain, but of several scans")
    # Not structure.has_end: to find a marker inside of a later segment takes longer than `read_plain` may.
    require(frame.width and frame.height, "plain, but empty")
    image = _of_pillow(data)
    if image is not None and (exif := image.info.get("exif")):
        read = Image.Exif()
        read.load(exif)
        require(plain.orientation == read.get(ExifTags.Base.Orientation, 1), "the orientation is not Pillow's")


def _of_pillow(data: bytes) -> JpegImageFile | None:
    try:
        return JpegImageFile(io.BytesIO(data))
    except Exception:
        return None


def _check_repair(data: bytes) -> None:
    try:
        bare, both = without_applications(data), ended(data)
    except ImageError as error:
        check_refusal(error)
        return
    require(len(bare) <= len(data), "the repair adds bytes")
    if both is not None:
        image, other = both
        require(image.endswith(b"\xff\xd9") and other.endswith(b"\xff\xd9"), "the repair writes no end")
        require(other.startswith(image[:-2]) and data.startswith(image[:-2]), "the repair changes the image")
    if data.startswith(START) and read_structure(bare) != read_structure(data):
        # What follows a segment of impossible length is read in two ways.
        require(any(segment.end < segment.body for segment in segments(data)), "the repair changes the structure")


def _make_check(folder: Path) -> Check:
    return check


def _seeds() -> Iterator[bytes]:
    yield from jpeg_seeds.images(MAX_BYTES)
    yield from jpeg_seeds.other_formats()


TARGET = Target(_make_check, _seeds, jpeg_mutator.mutate, MAX_BYTES)
