"""JPEGs that other programs show and Pillow or libjpeg does not: which bytes to decode instead."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jpeg_preprocess.jpeg_segments import (
    APP0,
    APP1,
    APP14,
    END,
    END_OF_IMAGE,
    PROGRESSIVE,
    START_OF_SCAN,
    TEMPORARY,
    Frame,
    Scan,
    read_headers,
    read_scan,
    segments,
)

_APPLICATION = range(APP0, APP0 + 16)
# DHT, DQT, DNL, DRI, COM and the applications': these and further scans may follow a scan.
_BETWEEN_SCANS = frozenset({0xC4, 0xDB, 0xDC, 0xDD, 0xFE, START_OF_SCAN, *_APPLICATION})
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


def _is_needed(marker: int, content: bytes) -> bool:
    return (
        (marker == APP0 and content.startswith(b"JFIF\0") and len(content) >= 14)
        or (marker == APP1 and content.startswith(b"Exif\0\0") and len(content) > 14)
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
