"""The first picture of a WebP (RFC 9649), without the further ones of an animation."""

from __future__ import annotations

import struct

from jpeg_preprocess.formats.picture import MOST_PARTS, Picture, corrupt, too_many_parts, truncated
from jpeg_preprocess.formats.tiff import exif_orientation

_HEAD_BYTES = 12
_PICTURES = (b"VP8 ", b"VP8L", b"ANMF")
# Of VP8X: there are an ICC profile, EXIF, XMP.
_PROFILES = 0x20 | 0x08 | 0x04


def read_webp(data: bytes) -> Picture:
    """Read the chunks of a WebP. Raises ImageError."""
    size = 8 + int.from_bytes(data[4:8], "little")
    if size > len(data):
        raise truncated("webp")
    view = memoryview(data)
    kept: list[bytes | memoryview] = []
    canvas: tuple[int, int] | None = None
    has_picture = False
    orientation = 1
    position = _HEAD_BYTES
    for _ in range(MOST_PARTS):
        if position + 8 > size:
            break
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        body, end = position + 8, position + 8 + length
        if end > size:
            raise truncated("webp")
        if kind == b"VP8X" and canvas is None and length >= 10:
            canvas = _canvas(data, body)
            flags = data[body] & ~_PROFILES
            kept.append(b"".join((data[position:body], bytes((flags,)), data[body + 1 : end], b"\0" * (length & 1))))
        elif kind in (b"ALPH", b"ANIM") and not has_picture:
            kept.append(view[position : end + (length & 1)])
        elif kind in _PICTURES and not has_picture:
            has_picture = True
            kept.append(view[position : end + (length & 1)])
            canvas = canvas or _coded_size(kind, data[body : body + 10])
        elif kind == b"EXIF":
            orientation = exif_orientation(data[body:end])
        position = end + (length & 1)
    else:
        raise too_many_parts()
    if not has_picture or canvas is None:
        raise corrupt("webp")
    head = struct.pack("<4sI4s", b"RIFF", 4 + sum(map(len, kept)), b"WEBP")
    return Picture(*canvas, (head, *kept), orientation)


def _canvas(data: bytes, body: int) -> tuple[int, int]:
    return (
        int.from_bytes(data[body + 4 : body + 7], "little") + 1,
        int.from_bytes(data[body + 7 : body + 10], "little") + 1,
    )


def _coded_size(kind: bytes, frame: bytes) -> tuple[int, int] | None:
    """Return (width, height) that the header of a VP8 or VP8L bit stream states; None if it is no such header."""
    if kind == b"VP8 " and frame[3:6] == b"\x9d\x01\x2a" and len(frame) == 10:
        width, height = (int.from_bytes(frame[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        return (width, height) if width and height else None
    if kind == b"VP8L" and frame[:1] == b"\x2f" and len(frame) >= 5:
        bits = int.from_bytes(frame[1:5], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    return None
