"""What the header of a JPEG says, read from marker to marker (ITU-T T.81, annex B), in some microseconds."""

from __future__ import annotations

from dataclasses import dataclass

from jpeg_contract.exif import EXIF, read_orientation

_START = b"\xff\xd8"
_SOF0, _SOS, _APP1, _APP14, _FILL = 0xC0, 0xDA, 0xE1, 0xEE, 0xFF
_OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {0xC4, 0xC8, 0xCC}
# TEM, RST0 to RST7, SOI, EOI: no length follows them. None of them belongs into a header.
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
# Component identifiers by which libjpeg-turbo takes three components for RGB, although nothing says so (jdapimin.c).
_RGB_IDENTIFIERS = b"RGB"
# Adobe's marker says by this that three components are YCbCr, as everybody takes them to be.
_ADOBE_YCC = 1

# Segments and fill bytes: a header with more is not usual, and takes Python long.
_MOST_STEPS = 10_000


@dataclass(frozen=True)
class PlainJpeg:
    """A JPEG with nothing unusual about it: baseline, 8 bits, gray or YCbCr, one scan, not cut short.

    width, height: as stored, in pixels. components: 1 (gray) or 3. orientation: EXIF's, 1 to 8; 1 if there is none.
    """

    width: int
    height: int
    components: int
    orientation: int


def read_plain(data: bytes) -> PlainJpeg | None:
    """The header of a plain JPEG; None for anything that is not one, whatever the reason.

    It is no judge: what it returns None for may be a JPEG like many, such as a progressive one, or none at all.
    """
    if data[:2] != _START:
        return None
    position = 2
    orientation: int | None = None
    frame: tuple[int, int, int] | None = None
    try:
        for _ in range(_MOST_STEPS):
            if data[position] != 0xFF:
                return None
            marker = data[position + 1]
            if marker == _FILL:
                position += 1
                continue
            body, end = position + 4, position + 2 + (data[position + 2] << 8 | data[position + 3])
            if marker == _SOS:
                whole = frame is not None and _one_whole_scan(data, body, end, frame[2])
                return PlainJpeg(*frame, orientation or 1) if frame is not None and whole else None
            if marker == _SOF0:
                frame = _frame(data, body, end) if frame is None else None
            elif marker == _APP1 and data[body : body + 6] == EXIF:
                # Several of them are one to Pillow.
                orientation = read_orientation(data[body + 6 : end]) if orientation is None else 0
            if end < body or _is_unusual(data, marker, body) or orientation == 0 or (marker == _SOF0 and not frame):
                return None
            position = end
    except IndexError:  # cut short
        pass
    return None


def _is_unusual(data: bytes, marker: int, body: int) -> bool:
    """Whether a segment makes the image one of another process than baseline, of other colours than YCbCr, or odd."""
    if marker == _APP14:
        return data[body : body + 5] == b"Adobe" and data[body + 11] != _ADOBE_YCC
    return marker in _OTHER_FRAMES or marker in _WITHOUT_LENGTH


def _frame(data: bytes, body: int, end: int) -> tuple[int, int, int] | None:
    """(width, height, components) of a baseline frame; None for one that is unusual."""
    height, width = data[body + 1] << 8 | data[body + 2], data[body + 3] << 8 | data[body + 4]
    components = data[body + 5]
    if data[body] != 8 or components not in (1, 3) or not width or not height or end - body != 6 + 3 * components:
        return None
    if components == 3 and bytes(data[body + 6 + 3 * index] for index in range(3)) == _RGB_IDENTIFIERS:
        return None
    return width, height, components


def _one_whole_scan(data: bytes, body: int, end: int, components: int) -> bool:
    """Whether the scan has all components, and after it comes the end of the image."""
    # From the back, where it is found at once: inside a scan, FF is followed by 00 or by the number of a restart.
    is_whole = data[body] == components and end - body == 4 + 2 * components
    return is_whole and data.rfind(b"\xff\xd9", end) >= 0
