"""Cut, insert and change parts of JPEG bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from corpus.encoders import segment

SOF, DHT, SOS, DQT = 0xC0, 0xC4, 0xDA, 0xDB


@dataclass(frozen=True)
class Part:
    """A segment: its marker's second byte, where it starts, and where its content ends."""

    marker: int
    start: int
    end: int


def header_parts(data: bytes) -> Iterator[Part]:
    """Yield the segments of a well-formed JPEG between its first marker and the first scan's data."""
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield Part(marker, position, end)
        if marker == SOS:
            return
        position = end


def all_parts(data: bytes) -> Iterator[Part]:
    """Yield the segments of a well-formed JPEG up to its last scan's header, whatever stands between them."""
    position = 2
    while position < len(data) - 2:
        if data[position] != 0xFF or data[position + 1] in (0x00, 0xFF, *range(0xD0, 0xD8)):
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield Part(data[position + 1], position, end)
        position = end


def find(data: bytes, *markers: int) -> Part:
    """Return the first segment with one of these markers."""
    return next(part for part in all_parts(data) if part.marker in markers)


def without(data: bytes, *markers: int) -> bytes:
    """Remove all segments of these markers from the header."""
    kept = data
    for part in reversed(list(header_parts(data))):
        if part.marker in markers:
            kept = kept[: part.start] + kept[part.end :]
    return kept


def insert(data: bytes, *pieces: bytes, at: int = 2) -> bytes:
    """Insert bytes, by default behind the first marker."""
    return data[:at] + b"".join(pieces) + data[at:]


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """Insert a segment behind the first marker."""
    return insert(data, segment(marker, content))


def between_parts(data: bytes, junk: bytes) -> bytes:
    """Insert bytes before each segment of the header, except the first."""
    result = data
    for part in reversed(list(header_parts(data))[1:]):
        result = insert(result, junk, at=part.start)
    return result


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """Overwrite bytes."""
    return data[:at] + new + data[at + len(new) :]


def with_frame(data: bytes, change: Callable[[bytearray], object]) -> bytes:
    """Change the frame's header, with the marker at 0, precision at 4, height at 5, width at 7, components at 9."""
    part = next(part for part in all_parts(data) if SOF <= part.marker <= 0xCF and part.marker not in (DHT, 0xC8, 0xCC))
    header = bytearray(data[part.start : part.end])
    change(header)
    return data[: part.start] + bytes(header) + data[part.end :]
