"""Small encoders for JPEGs that Pillow does not write: any sampling factors, components, precision; lossless.

They write short codes for all symbols of one table instead of good ones, so that they need no tables of the standard.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.integer[Any]]

SOI, EOI = b"\xff\xd8", b"\xff\xd9"

_DC_SYMBOLS = tuple(range(16))
_DC_LENGTH = 5
# End of block, sixteen zeros, and each run with each number of bits: fewer than the 255 codes of 8 bits.
_AC_SYMBOLS = (0x00, 0xF0, *(run << 4 | bits for run in range(16) for bits in range(1, 15)))
_AC_LENGTH = 8
_AC_CODES = {symbol: f"{code:08b}" for code, symbol in enumerate(_AC_SYMBOLS)}

_N = np.arange(8)
_DCT = np.sqrt(np.where(_N == 0, 1, 2) / 8)[:, None] * np.cos((2 * _N[None, :] + 1) * _N[:, None] * np.pi / 16)
# The order in which the standard lists the coefficients of a block: along the diagonals, back and forth.
_ZIGZAG = sorted(range(64), key=lambda at: (at // 8 + at % 8, at // 8 if (at // 8 + at % 8) % 2 else at % 8))


@dataclass(frozen=True)
class Component:
    """One component of an image.

    Attributes:
        plane: (height, width) of the component, which its factors make smaller than the image.
        horizontal: Sampling factor, 1 to 4.
        vertical: Sampling factor, 1 to 4.
        identifier: 0 to 255.
    """

    plane: Plane
    horizontal: int = 1
    vertical: int = 1
    identifier: int = 1


def segment(marker: int, content: bytes) -> bytes:
    """Return a marker, the length and the content."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def frame(marker: int, precision: int, height: int, width: int, components: Sequence[Component]) -> bytes:
    """Return the header of a frame; all components use the quantisation table 0."""
    parts = (bytes((each.identifier, each.horizontal << 4 | each.vertical, 0)) for each in components)
    return segment(marker, struct.pack(">BHHB", precision, height, width, len(components)) + b"".join(parts))


def scan(components: Iterable[Component], first: int = 0, last: int = 63) -> bytes:
    """Return the header of a scan, without its data."""
    identifiers = [each.identifier for each in components]
    return segment(
        0xDA, bytes((len(identifiers), *(byte for each in identifiers for byte in (each, 0)), first, last, 0))
    )


def encode_dct(
    components: Sequence[Component],
    *,
    width: int,
    height: int,
    marker: int = 0xC0,
    precision: int = 8,
    step: int = 4,
    interleaved: bool = True,
    stated_height: int | None = None,
    before_end: bytes = b"",
) -> bytes:
    """Encode a sequential JPEG with Huffman codes.

    Args:
        components: Their planes have the ceiling of the image's size times factor by greatest factor.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        marker: The second byte of the frame's marker: C0 is baseline, C1 extended.
        precision: Bits of a sample.
        step: Of the quantisation of each coefficient.
        interleaved: One scan for all components; otherwise one for each.
        stated_height: The height in the frame's header, if not `height`.
        before_end: Segments behind the last scan.
    """
    most_x, most_y = max(each.horizontal for each in components), max(each.vertical for each in components)
    across, down = -(-width // (8 * most_x)), -(-height // (8 * most_y))
    blocks = [_blocks(each, across, down, precision, step) for each in components]
    parts = [SOI, segment(0xDB, b"\0" + bytes([step] * 64))]
    parts.append(frame(marker, precision, height if stated_height is None else stated_height, width, components))
    parts += [
        _table(0x00, _DC_SYMBOLS, _DC_LENGTH),
        _table(0x10, _AC_SYMBOLS, _AC_LENGTH),
    ]
    if interleaved:
        parts += [scan(components), _pack(_interleaved(components, blocks, across, down))]
    else:
        for each, its in zip(components, blocks, strict=True):
            rows, columns = (-(-size // 8) for size in each.plane.shape)
            order = ((0, its[y, x]) for y in range(rows) for x in range(columns))
            parts += [scan([each]), _pack(_codes(order, 1))]
    return b"".join([*parts, before_end, EOI])


def encode_lossless(components: Sequence[Component], *, precision: int = 8) -> bytes:
    """Encode a lossless JPEG (SOF3) that predicts each sample from its left neighbour; all planes of one size."""
    height, width = components[0].plane.shape
    differences = []
    for each in components:
        samples = each.plane.astype(int)
        predicted = np.roll(samples, 1, axis=1)
        predicted[1:, 0] = samples[:-1, 0]
        predicted[0, 0] = 1 << (precision - 1)
        differences.append(samples - predicted)
    codes = (
        _difference(int(value)) for y in range(height) for x in range(width) for value in (d[y, x] for d in differences)
    )
    header = frame(0xC3, precision, height, width, components)
    table = _table(0x00, _DC_SYMBOLS, _DC_LENGTH)
    return b"".join([SOI, header, table, scan(components, 1, 0), _pack(codes), EOI])


def subsampled(plane: Plane, across: int, down: int) -> Plane:
    """Return every `across`-th column and every `down`-th row."""
    return plane[::down, ::across]


def _table(number: int, symbols: Sequence[int], length: int) -> bytes:
    """Return a table in which each symbol has a code of this length; a DC table has number 0x, an AC table 1x."""
    lengths = bytearray(16)
    lengths[length - 1] = len(symbols)
    return segment(0xC4, bytes((number,)) + bytes(lengths) + bytes(symbols))


def _blocks(component: Component, across: int, down: int, precision: int, step: int) -> Plane:
    """Return the quantised coefficients: (rows, columns, 64) in the order of the standard."""
    rows, columns = down * component.vertical, across * component.horizontal
    height, width = component.plane.shape
    padded = np.pad(component.plane.astype(float), ((0, rows * 8 - height), (0, columns * 8 - width)), "edge")
    squares = (padded - (1 << (precision - 1))).reshape(rows, 8, columns, 8).swapaxes(1, 2)
    coefficients: Plane = np.rint(_DCT @ squares @ _DCT.T / step).astype(int)
    return coefficients.reshape(rows, columns, 64)[..., _ZIGZAG]


def _interleaved(components: Sequence[Component], blocks: Sequence[Plane], across: int, down: int) -> Iterator[str]:
    order = (
        (index, blocks[index][y * each.vertical + v, x * each.horizontal + h])
        for y in range(down)
        for x in range(across)
        for index, each in enumerate(components)
        for v in range(each.vertical)
        for h in range(each.horizontal)
    )
    return _codes(order, len(components))


def _codes(order: Iterable[tuple[int, Plane]], count: int) -> Iterator[str]:
    """Yield the bits of blocks, each of which is given with the number of its component."""
    previous = [0] * count
    for component, block in order:
        values = block.tolist()
        yield _difference(values[0] - previous[component])
        previous[component] = values[0]
        run = 0
        last = max((at for at in range(1, 64) if values[at]), default=0)
        for value in values[1 : last + 1]:
            if not value:
                run += 1
                continue
            while run > 15:
                yield _AC_CODES[0xF0]
                run -= 16
            yield _AC_CODES[run << 4 | abs(value).bit_length()] + _magnitude(value)
            run = 0
        if last < 63:
            yield _AC_CODES[0x00]


def _difference(value: int) -> str:
    return f"{abs(value).bit_length():05b}" + _magnitude(value)


def _magnitude(value: int) -> str:
    """Return the bits of a value, in as many bits as its absolute value has; negative ones as the complement."""
    bits = abs(value).bit_length()
    return f"{value if value > 0 else value + (1 << bits) - 1:0{bits}b}" if bits else ""


def _pack(codes: Iterable[str]) -> bytes:
    text = "".join(codes)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
