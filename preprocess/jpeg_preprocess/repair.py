"""JPEGs that other programs show and Pillow or libjpeg does not: which bytes to decode instead."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from jpeg_contract.jpeg_segments import (
    APP0,
    APP1,
    APP14,
    COMMENT,
    END,
    END_OF_IMAGE,
    PROGRESSIVE,
    START_OF_SCAN,
    TEMPORARY,
    Frame,
    Scan,
    Segment,
    read_headers,
    read_scan,
    segments,
)

_APPLICATION = range(APP0, APP0 + 16)
_EXIF = b"Exif\0\0"
# Entries of a photo's first directory have some kilobytes.
_MOST_EXIF_BYTES = 2**22
# By their number in TIFF 6.0: BYTE, ASCII, SHORT, LONG, SBYTE, UNDEFINED, SSHORT, SLONG, FLOAT, IFD; all others have 8.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 13: 4}
# DHT, DQT, DNL, DRI, COM and the applications': these and further scans may follow a scan.
_BETWEEN_SCANS = frozenset({0xC4, 0xDB, 0xDC, 0xDD, COMMENT, START_OF_SCAN, *_APPLICATION})
# Fixed, without markers and stuffed bytes, and longer than what a decoder reads ahead.
_ARBITRARY = bytes(byte for byte in random.Random(1).randbytes(300) if byte != 0xFF)  # noqa: S311 - not a secret


def without_applications(data: bytes) -> bytes:
    """Return a JPEG without the applications' segments that say nothing about its pixels, and what is no segment.

    Pillow refuses an image for an empty JFIF, ICC or Adobe segment, for example; libjpeg passes over those. Adobe's and
    JFIF's segment decide the colours, EXIF's the orientation: these stay where they are complete.
    """
    kept = [data[:2]]
    for segment in segments(data):
        if segment.marker == START_OF_SCAN:
            return b"".join([*kept, data[segment.start :]])
        content = data[segment.body : segment.end]
        if segment.marker == TEMPORARY:  # libjpeg passes over it, Pillow does not know it
            continue
        if segment.marker not in _APPLICATION or _is_needed(segment.marker, content):
            kept.append(data[segment.start : segment.end])
    return data


def without_endless_exif(data: bytes, header: Sequence[Segment]) -> bytes:
    """Return a JPEG without its EXIF data, if reading that would take a multiple of the memory of the file.

    Each entry of a directory states where its value lies, and many may state the same place. Pillow before 13 copies
    all of these values: of a file of 19 MB, hundreds of gigabytes.

    Args:
        data: The JPEG.
        header: Of `header_segments`.
    """
    found = [segment for segment in header if segment.marker == APP1 and _is_exif(data, segment)]
    if not found or _exif_value_bytes(b"".join(data[each.body + 6 : each.end] for each in found)) <= _MOST_EXIF_BYTES:
        return data
    # Without what is between the segments, too: with what follows, it could become a marker.
    dropped = frozenset(found)
    kept = (data[each.start : max(each.body, each.end)] for each in header if each not in dropped)
    return b"".join([data[:2], *kept, data[header[-1].end :]])


def _is_exif(data: bytes, segment: Segment) -> bool:
    return data.startswith(_EXIF, segment.body) and segment.end - segment.body >= len(_EXIF)


def _exif_value_bytes(exif: bytes) -> int:
    """Return the bytes of all values that lie outside of the entries of the first directory, at most."""
    # Pillow, too, passes over further introductions.
    exif = exif.removeprefix(_EXIF)
    order: Literal["little", "big"] = "little" if exif[:1] == b"I" else "big"
    first = int.from_bytes(exif[4:8], order) + 2
    entries = int.from_bytes(exif[first - 2 : first], order)
    if entries * len(exif) <= _MOST_EXIF_BYTES:
        return 0
    size = 0
    for at in range(first, min(first + 12 * entries, len(exif)), 12):
        kind, count = int.from_bytes(exif[at + 2 : at + 4], order), int.from_bytes(exif[at + 4 : at + 8], order)
        value = count * _VALUE_BYTES.get(kind, 8)
        size += 0 if value <= 4 else min(value, len(exif))
    return size


def _is_needed(marker: int, content: bytes) -> bool:
    return (
        (marker == APP0 and content.startswith(b"JFIF\0") and len(content) >= 14)
        or (marker == APP1 and content.startswith(_EXIF) and len(content) > 14)
        or (marker == APP14 and content.startswith(b"Adobe") and len(content) >= 12)
    )


def ended(data: bytes) -> tuple[bytes, bytes] | None:
    """Return what to decode of a JPEG that lacks its end marker.

    Some writers leave it out, and some put their own data behind the last scan. A decoder then waits for more, or takes
    that data for a part of the image.

    Returns:
        The JPEG, cut after its last scan and ended there; and the same with arbitrary data before the end. If both
        decode to the same pixels, all of them are there: what follows has no part in them. None for a JPEG that has an
        end marker, or lacks whole scans.
    """
    frame, _ = read_headers(data)
    cut: int | None = None
    scans: list[Scan] = []
    in_scan = False
    for segment in segments(data):
        if in_scan:
            cut, in_scan = segment.start, False
        if segment.marker == END_OF_IMAGE:
            return None
        if cut is not None and segment.marker not in _BETWEEN_SCANS:
            break
        if segment.marker == START_OF_SCAN:
            scan = read_scan(data, segment)
            if scan is None:
                break
            scans.append(scan)
            in_scan = True
    if in_scan:
        cut = len(data)
    if frame is None or cut is None or not _has_every_coefficient(frame, scans):
        return None
    # A last FF would be the first half of a marker.
    image = data[:cut].rstrip(b"\xff")
    return image + END, image + _ARBITRARY + END


def _has_every_coefficient(frame: Frame, scans: Sequence[Scan]) -> bool:
    """Whether the scans bring all 64 coefficients of each component, to their last bit."""
    if frame.marker not in PROGRESSIVE:
        return set(frame.identifiers) <= {component for scan in scans for component in scan.components}
    whole = {
        (component, coefficient)
        for scan in scans
        if scan.low == 0
        for component in scan.components
        for coefficient in range(scan.first, scan.last + 1)
    }
    return all((component, coefficient) in whole for component in frame.identifiers for coefficient in range(64))
