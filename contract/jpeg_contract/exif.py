"""The orientation that EXIF data states (TIFF 6.0, EXIF 2.32), read from entry to entry of its first directory."""

from __future__ import annotations

import struct
from typing import Literal

EXIF = b"Exif\0\0"
"""How a segment APP1 begins that holds EXIF data."""

UPRIGHT = 1
"""The orientation of an image that is stored as it is shown."""

# How an upright image lies in the stored one, for each EXIF orientation: whether its rows run along the stored columns,
# and whether it begins at the stored image's last column and last row.
LIES = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

_ORIENTATION, _SHORT = 0x0112, 3
_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}


def read_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 to 8; 1 if there is none; 0 if the data is not as the standard has it.

    Args:
        exif: Behind `EXIF`.
    """
    order: Literal["little", "big"] | None = _ORDERS.get(exif[:4])
    if order is None:
        return 0

    def number(at: int, length: int) -> int:
        if at + length > len(exif):
            raise IndexError
        return int.from_bytes(exif[at : at + length], order)

    try:
        first = number(4, 4)
        for entry in range(first + 2, first + 2 + 12 * number(first, 2), 12):
            if number(entry, 2) == _ORIENTATION:
                value = number(entry + 8, 2)
                return value if number(entry + 2, 2) == _SHORT and number(entry + 4, 4) == 1 and 1 <= value <= 8 else 0
    except IndexError:  # cut short
        return 0
    return UPRIGHT


def orientation_segment(orientation: int) -> bytes:
    """Return EXIF data that states an orientation and nothing else, with `EXIF` in front."""
    # One entry of one SHORT in the first directory, and no second directory.
    return EXIF + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, _SHORT, 1, orientation, 0, 0)


def is_sideways(orientation: int) -> bool:
    """Whether the rows of an image with this EXIF orientation are columns as it is stored."""
    return LIES[orientation][0]
