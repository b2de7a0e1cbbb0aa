"""The first page of a TIFF (TIFF 6.0), and the orientation in EXIF data, which is a TIFF without an image."""

from __future__ import annotations

import struct
from typing import NamedTuple

from jpeg_contract.image_errors import ImageError

from jpeg_preprocess.formats.picture import MOST_PARTS, Picture, corrupt, too_many_parts, truncated, unsupported

_EXIF = b"Exif\0\0"
_MOST_ENTRIES = 1000
_ENTRY_BYTES = 12
# BYTE, ASCII, SHORT, LONG, UNDEFINED and, in YCbCrCoefficients, RATIONAL: bytes of one value.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
_NUMBERS = {1: "B", 3: "H", 4: "I"}

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_STRIPS, _SAMPLES, _STRIP_BYTES = 273, 277, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
# These and nothing else decide the pixels: also FillOrder, RowsPerStrip, PlanarConfiguration, the options of fax,
# Predictor, ColorMap, InkSet, ExtraSamples, and those of YCbCr.
_NEEDED = frozenset(
    {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _SAMPLES, _STRIP_BYTES}
    | {_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SAMPLE_FORMAT}
    | {266, 278, 284, 292, 293, 317, 320, 332, 338, 529, 530, 531, 532}
)
# None, fax (2, 3, 4), LZW, deflate (by both of its numbers), PackBits: what they expand to is bounded by the strips.
# What a JPEG inside of a TIFF costs, its header does not state.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 8, 32946, 32773})
_COMPRESSION_NAMES = {6: "JPEG", 7: "JPEG", 34925: "LZMA", 50000: "zstd", 50001: "WebP", 34887: "LERC"}
_CIE_LAB = 8
_MOST_SAMPLES = 6
# A tile may be larger than the image; all of it is decoded.
_MOST_TILE_BEYOND_IMAGE = 2**20


class _Entry(NamedTuple):
    """An entry of a directory.

    Attributes:
        kind: Of its values.
        values: Their number.
        data: Their bytes, perhaps cut short by the end of the file.
    """

    kind: int
    values: int
    data: bytes


class _Directory(NamedTuple):
    """The wanted entries of the first directory. order: "<" or ">"."""

    order: str
    entries: dict[int, _Entry]

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the integers of an entry, at most as many as a file may have strips."""
        entry = self.entries.get(tag)
        if entry is None:
            return default
        kind = _NUMBERS.get(entry.kind)
        if kind is None or len(entry.data) != entry.values * _VALUE_BYTES[entry.kind]:
            raise corrupt("tiff")
        return struct.unpack(f"{self.order}{entry.values}{kind}", entry.data)

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first integer of an entry."""
        return next(iter(self.numbers(tag, (default,))), default)


def read_tiff(data: bytes) -> Picture:
    """Read the first directory of a TIFF. Raises ImageError."""
    if data[2:4] in (b"+\0", b"\0+"):
        raise unsupported("tiff", "it is a BigTIFF")
    directory = _read(data, _NEEDED | {_ORIENTATION})
    if directory is None:
        raise truncated("tiff")
    width, height = directory.number(_WIDTH), directory.number(_HEIGHT)
    if not width or not height:
        raise corrupt("tiff")
    _check_samples(directory)
    strips = _check_strips(data, directory, width * height)
    orientation = directory.number(_ORIENTATION, 1)
    return Picture(width, height, _alone(data, directory), orientation if 1 <= orientation <= 8 else 1, strips=strips)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 to 8; 1 (upright) if there is none or the data is broken."""
    try:
        directory = _read(exif.removeprefix(_EXIF), frozenset({_ORIENTATION}))
        value = 1 if directory is None else directory.number(_ORIENTATION, 1)
    except ImageError:
        return 1
    return value if 1 <= value <= 8 else 1


def _order(data: bytes) -> str | None:
    return {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])


def _first(data: bytes) -> int:
    """Return where the first directory begins."""
    return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big")


def _read(data: bytes, wanted: frozenset[int]) -> _Directory | None:
    """Read the wanted entries of the first directory; None if there is no complete one."""
    order, first = _order(data), _first(data)
    if order is None or first + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, first)
    if count > _MOST_ENTRIES:
        raise too_many_parts()
    if first + 2 + count * _ENTRY_BYTES > len(data):
        return None
    entries: dict[int, _Entry] = {}
    for at in range(first + 2, first + 2 + count * _ENTRY_BYTES, _ENTRY_BYTES):
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, at)
        if tag not in wanted or tag in entries or kind not in _VALUE_BYTES:
            continue
        if values > MOST_PARTS:
            raise too_many_parts()
        size = values * _VALUE_BYTES[kind]
        begin = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
        entries[tag] = _Entry(kind, values, data[begin : begin + size])
    return _Directory(order, entries)


def _check_samples(directory: _Directory) -> None:
    compression = directory.number(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        name = _COMPRESSION_NAMES.get(compression, f"number {compression}")
        raise unsupported("tiff", f"its compression is {name}; none, deflate, LZW, PackBits and fax are supported")
    bits = directory.numbers(_BITS, (1,))
    if directory.number(_SAMPLES, 1) > _MOST_SAMPLES or len(bits) > _MOST_SAMPLES:
        raise unsupported("tiff", f"it has more than {_MOST_SAMPLES} samples for each pixel")
    if not set(bits) <= {1, 2, 4, 8, 16}:
        raise unsupported("tiff", f"its samples have {max(bits)} bits; 1, 2, 4, 8 and 16 are supported")
    if set(directory.numbers(_SAMPLE_FORMAT, (1,))) != {1}:
        raise unsupported("tiff", "its samples are signed or floating-point numbers, for which nothing states white")
    if directory.number(_PHOTOMETRIC) == _CIE_LAB:
        raise unsupported("tiff", "its colours are CIE L*a*b*")


def _check_strips(data: bytes, directory: _Directory, pixels: int) -> int:
    """Return how many strips or tiles the picture has, all of which lie in the data."""
    is_tiled = _TILES in directory.entries
    offsets = directory.numbers(_TILES if is_tiled else _STRIPS)
    sizes = directory.numbers(_TILE_BYTES if is_tiled else _STRIP_BYTES)
    if not offsets or (sizes and len(sizes) != len(offsets)):
        raise corrupt("tiff")
    if is_tiled:
        tile = directory.number(_TILE_WIDTH) * directory.number(_TILE_HEIGHT)
        if not tile:
            raise corrupt("tiff")
        if tile > pixels + _MOST_TILE_BEYOND_IMAGE:
            raise unsupported("tiff", "its tiles are larger than the image")
    if any(offset + size > len(data) for offset, size in zip(offsets, sizes or (0,) * len(offsets), strict=True)):
        raise truncated("tiff")
    return len(offsets)


def _alone(data: bytes, directory: _Directory) -> tuple[bytes | memoryview, ...]:
    """Return the file with a directory of the needed entries only, behind everything else, and no further page."""
    order = directory.order
    needed = sorted((tag, entry) for tag, entry in directory.entries.items() if tag in _NEEDED)
    begin = len(data) + len(data) % 2
    values_at = begin + 2 + len(needed) * _ENTRY_BYTES + 4
    table, values = [struct.pack(f"{order}H", len(needed))], b""
    for tag, entry in needed:
        value = entry.data
        if len(value) > 4:
            where = struct.pack(f"{order}I", values_at + len(values))
            values += value + b"\0" * (len(value) % 2)
        else:
            where = value.ljust(4, b"\0")
        table.append(struct.pack(f"{order}HHI", tag, entry.kind, entry.values) + where)
    head = data[:4] + struct.pack(f"{order}I", begin)
    return head, memoryview(data)[8:], b"\0" * (len(data) % 2), *table, struct.pack(f"{order}I", 0), values
