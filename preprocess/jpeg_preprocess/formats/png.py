"""The first picture of a PNG (W3C PNG, third edition): the default image of an animated one."""

from __future__ import annotations

from jpeg_preprocess.formats.picture import MOST_PARTS, Picture, corrupt, too_many_parts, truncated
from jpeg_preprocess.formats.signatures import PNG_SIGNATURE
from jpeg_preprocess.formats.tiff import exif_orientation

# What decides the pixels. Texts and profiles are compressed: a file of 20 MB can hold 20 GB of them.
_NEEDED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER_BYTES = 13
# Length and type in front of a chunk's content, and a checksum behind it.
_BEFORE, _AROUND = 8, 12


def read_png(data: bytes) -> Picture:
    """Read the chunks of a PNG. Raises ImageError."""
    view = memoryview(data)
    parts: list[bytes | memoryview] = [PNG_SIGNATURE]
    position, orientation = len(PNG_SIGNATURE), 1
    for _ in range(MOST_PARTS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + _BEFORE]
        end = position + _AROUND + length
        if end > len(data):
            raise truncated("png")
        if (kind == b"IHDR") != (len(parts) == 1):
            raise corrupt("png")
        if kind == b"IEND":
            header = data[16:29]
            width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
            if not width or not height:
                raise corrupt("png")
            return Picture(width, height, (*parts, _END), orientation)
        if kind in _NEEDED:
            parts.append(view[position:end])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + _BEFORE : end - 4])
        if kind == b"IHDR" and length != _HEADER_BYTES:
            raise corrupt("png")
        position = end
    raise too_many_parts()
