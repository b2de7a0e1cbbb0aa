"""The first picture of a GIF (GIF89a), with what is in front of it."""

from __future__ import annotations

from jpeg_preprocess.formats.picture import MOST_PARTS, Picture, corrupt, too_many_parts, truncated

_SCREEN_BYTES, _IMAGE_BYTES = 13, 10
_EXTENSION, _IMAGE, _END, _GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9


def read_gif(data: bytes) -> Picture:
    """Read a GIF up to its first image. Raises ImageError."""
    try:
        return _read(data)
    except IndexError:
        raise truncated("gif") from None


def _read(data: bytes) -> Picture:
    flags = data[10]
    position = _SCREEN_BYTES + _palette_bytes(flags)
    head, control = data[:position], b""
    steps = 0
    while data[position] == _EXTENSION:
        begin, kind = position, data[position + 1]
        position += 2
        while (length := data[position]) != 0:
            position += 1 + length
            steps += 1
            if steps > MOST_PARTS:
                raise too_many_parts()
        position += 1
        steps += 1
        if kind == _GRAPHIC_CONTROL:
            control = data[begin:position]
    if data[position] != _IMAGE:
        # A file of no image, or of something that is none.
        raise truncated("gif") if position + 1 >= len(data) and data[position] != _END else corrupt("gif")
    image = data[position : position + _IMAGE_BYTES]
    if len(image) < _IMAGE_BYTES:
        raise truncated("gif")
    left, top, across, down = (int.from_bytes(image[at : at + 2], "little") for at in (1, 3, 5, 7))
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (6, 8))
    # Pillow enlarges the screen for an image that is larger, as browsers do.
    width, height = max(width, left + across), max(height, top + down)
    if not across or not down:
        raise corrupt("gif")
    return Picture(width, height, (head, control, memoryview(data)[position:]))


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
