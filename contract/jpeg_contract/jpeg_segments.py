"""The segments of a JPEG, from marker to marker (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jpeg_contract.image_errors import ImageError

START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN, TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01
APP0, APP1, APP14, COMMENT = 0xE0, 0xE1, 0xEE, 0xFE
START, END = b"\xff\xd8\xff", bytes((0xFF, END_OF_IMAGE))
"""The first bytes of a JPEG, with those of any second marker, and its last ones."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15. Between them are DHT (C4), JPG (C8) and DAC (CC)."""
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
JPEG_LS_FRAME = 0xF7
REFUSED = frozenset({0xC8, *range(0xF0, 0xFE)})
"""JPG and JPG0 to JPG13: libjpeg refuses them in a header, and Pillow takes what is inside of them for segments."""
ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
DECODED_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive."""

MOST_SEGMENTS = 10_000
"""Of one file. EXIF, ICC and XMP data of the largest photos take some hundreds, 64 scans with their tables as many."""
MOST_BYTES_BETWEEN = 2**18
"""Outside of the segments of a header. Some writers fill up to a multiple of some kilobytes."""

_NEAR_THE_END = 4096
_STANDALONE = frozenset({TEMPORARY, START_OF_IMAGE, END_OF_IMAGE})
# Any marker that cannot occur inside a scan (there: stuffed zeros, fill bytes, restarts).
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


class Segment(NamedTuple):
    """A marker and what belongs to it.

    Attributes:
        marker: Its second byte.
        start: Where the marker begins.
        body: Where the content begins.
        end: Where the content ends: of a scan, that of its header, before the compressed data. It may lie beyond the
            end of the bytes.
    """

    marker: int
    start: int
    body: int
    end: int


class Frame(NamedTuple):
    """The header of a frame.

    Attributes:
        marker: SOF0 to SOF15, by its second byte.
        precision: Bits of a sample.
        width: In pixels.
        height: In pixels; 0 if a later marker states it.
        factors: Horizontal and vertical sampling factor of each component.
        identifiers: Of the components, one byte each.
    """

    marker: int
    precision: int
    width: int
    height: int
    factors: tuple[tuple[int, int], ...]
    identifiers: bytes

    @property
    def samples(self) -> int:
        """Number of samples of all components: width times height for gray, three times as many for 4:4:4."""
        if not self.factors:
            return 0
        most = max(x for x, _ in self.factors) * max(y for _, y in self.factors)
        return self.width * self.height * sum(x * y for x, y in self.factors) // max(1, most)

    @property
    def unsupported(self) -> str | None:
        """Why an image with this header is not decoded; None if it is."""
        if self.precision != 8:
            return f"its samples have {self.precision} bits"
        if self.marker in ARITHMETIC:
            # libjpeg may have been built without, and takes any bytes for arithmetic code.
            return "it is coded arithmetically"
        if self.marker not in DECODED_FRAMES:
            return "it is lossless or hierarchical"
        if self.width and not self.height:
            return "its header leaves its height open"
        return None if len(self.factors) in (0, 1, 3, 4) else f"it has {len(self.factors)} components"


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments of a JPEG from behind its first marker on, the last one being END_OF_IMAGE.

    What is no marker between two segments is passed over, as libjpeg does. The data may end before the image does.

    Raises:
        ImageError: There are more than `MOST_SEGMENTS`: 20 MB of empty ones keep Python busy for half a minute.
    """
    position = 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None:
            return
        start, body = found.span()
        marker = data[start + 1]
        if marker in _STANDALONE:
            yield Segment(marker, start, body, body)
            if marker == END_OF_IMAGE:
                return
            position = body
            continue
        # A segment's length counts its own two bytes.
        position = body + int.from_bytes(data[body : body + 2], "big")
        yield Segment(marker, start, body + 2, position)
    raise ImageError("too_much_work", f"too much work: it has more than {MOST_SEGMENTS} segments")


def header_segments(data: bytes) -> list[Segment]:
    """Return the segments up to the first scan's header, or all if there is no scan.

    Raises:
        ImageError: A reader that goes from byte to byte, as Pillow's in Python, would take long: there are too many
            segments, or too many bytes outside of them. Or the image ends before its first scan.
    """
    found: list[Segment] = []
    position, between = 2, 0
    for segment in segments(data):
        between += max(0, segment.start - position)
        position = segment.end
        found.append(segment)
        if segment.marker == START_OF_SCAN:
            break
        if segment.marker == END_OF_IMAGE:
            # libjpeg and Pillow go on behind an end marker if no image came before, and nothing there would be counted.
            raise ImageError("corrupt", "corrupt JPEG: it ends before its image begins")
    else:
        between += max(0, len(data) - position)
    if between > MOST_BYTES_BETWEEN:
        raise ImageError("too_much_work", f"too much work: {between} bytes of its header are outside of its segments")
    return found


class Scan(NamedTuple):
    """The header of a scan.

    Attributes:
        components: Identifiers, one byte each.
        first: First coefficient, 0 to 63.
        last: Last coefficient, 0 to 63.
        low: Bits at the lower end that a progressive scan leaves to a later one.
    """

    components: bytes
    first: int
    last: int
    low: int


class Structure(NamedTuple):
    """What decides the cost of a JPEG.

    Attributes:
        frame: Header of the first frame.
        has_several: Whether a decoder may read more than one scan.
        scans: Their number in the image itself, without those of thumbnails and of data behind it; 1 without
            `has_several`, unless the data was walked through for its end.
        has_end: Whether there is an end marker.
    """

    frame: Frame
    has_several: bool
    scans: int
    has_end: bool


def read_headers(data: bytes) -> tuple[Frame | None, Scan | None]:
    """Return the header of the first frame and that of the first scan; None for what is missing or cut short."""
    frame, scan, _ = _read_headers(data, segments(data))
    return frame, scan


def _read_headers(data: bytes, found: Iterable[Segment]) -> tuple[Frame | None, Scan | None, int]:
    """Return what `read_headers` does, and where the data of the first scan begins."""
    frame = None
    for segment in found:
        if segment.marker in FRAMES:
            frame = frame or _frame(segment.marker, data[segment.body : segment.end])
        if segment.marker == START_OF_SCAN:
            return frame, read_scan(data, segment), segment.end
    return frame, None, len(data)


def _frame(marker: int, content: bytes) -> Frame | None:
    if len(content) < 6 or len(content) < 6 + 3 * content[5]:
        return None
    components = content[6 : 6 + 3 * content[5]]
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    factors = tuple((both >> 4, both & 15) for both in components[1::3])
    return Frame(marker, content[0], width, height, factors, components[::3])


def read_scan(data: bytes, segment: Segment) -> Scan | None:
    """Return the header of a scan; None if its length is wrong or it is cut short."""
    content = data[segment.body : segment.end]
    if not content or len(content) != 4 + 2 * content[0] or segment.end - segment.body != len(content):
        return None
    first, last, approximation = content[-3:]
    return Scan(content[1:-3:2], first, last, approximation & 15)


def read_structure(data: bytes, header: Sequence[Segment] | None = None) -> Structure | None:
    """Read the headers, and walk through the scans where there may be several or an end marker is not in sight.

    Args:
        data: The JPEG.
        header: Its `header_segments`, where they are known.

    Returns:
        None if there is no frame before the first scan, no scan, or one is cut short.

    Raises:
        ImageError: There are too many segments.
    """
    frame, scan, begin = _read_headers(data, segments(data) if header is None else header)
    if frame is None or scan is None:
        return None
    # libjpeg ends a sequential image once it has all components.
    has_several = frame.marker in PROGRESSIVE or len(scan.components) < len(frame.factors)
    # Near the end, where it nearly always is: looking through all of the data takes a tenth of the time of decoding it.
    if not has_several and data.find(END, max(begin, len(data) - _NEAR_THE_END)) >= 0:
        return Structure(frame, has_several, scans=1, has_end=True)
    scans = marker = 0
    for segment in segments(data):
        marker = segment.marker
        scans += marker == START_OF_SCAN
    return Structure(frame, has_several, scans, has_end=marker == END_OF_IMAGE)
