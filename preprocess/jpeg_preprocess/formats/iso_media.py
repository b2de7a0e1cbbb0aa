"""The picture that an AVIF or HEIC names as its first: boxes and items (ISO/IEC 14496-12, 23008-12)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from jpeg_contract.settings import ImageFormat

from jpeg_preprocess.formats.coded_sizes import av1_pixels, hevc_frames, hevc_pixels
from jpeg_preprocess.formats.picture import MOST_PARTS, Picture, corrupt, too_many_parts, truncated, unsupported

# An iPhone's picture of 48 megapixels has 192 tiles.
_MOST_ITEMS = 4096
_CODED: dict[ImageFormat, bytes] = {"avif": b"av01", "heic": b"hvc1"}
_GRID, _TILE_OF, _BESIDE = b"grid", b"dimg", b"auxl"
# What the items of a sequence are called while nobody looks for one.
_SKIPPED = b"free"
_SEQUENCE_BRANDS = {b"avis": b"avif", b"msf1": b"mif1", b"hevc": b"heic", b"hevx": b"heix"}
_FULL_BOX_BYTES = 4


@dataclass
class _Items:
    """The items of a `meta` box.

    Attributes:
        primary: Number of the first picture.
        kinds: Type of each item.
        places: Offset and length of the parts of each item, in the file or, with a true flag, in `idat`.
        properties: All, as type and content.
        of_item: Which properties each item has, by their places.
        references: Type, from, to.
        inside: Content of `idat`.
    """

    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, tuple[bool, list[tuple[int, int]]]] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    of_item: dict[int, list[int]] = field(default_factory=dict)
    references: list[tuple[bytes, int, list[int]]] = field(default_factory=list)
    inside: bytes = b""

    def property(self, item: int, kind: bytes) -> bytes | None:
        """Return the content of an item's property, None if it has none of this kind."""
        places = (place for place in self.of_item.get(item, ()) if 0 <= place < len(self.properties))
        return next((content for place in places for name, content in [self.properties[place]] if name == kind), None)

    def shown(self) -> set[int]:
        """Return the primary item, its tiles, and what lies beside them, such as their alpha channel."""
        found, new = {self.primary}, {self.primary}
        while new:
            tiles = {each for kind, source, to in self.references if kind == _TILE_OF and source in new for each in to}
            beside = {source for kind, source, to in self.references if kind == _BESIDE and not new.isdisjoint(to)}
            new = (tiles | beside) - found
            found |= new
        return found


def read_iso_media(data: bytes, name: ImageFormat) -> Picture:
    """Read the boxes of an AVIF or a HEIC. Raises ImageError."""
    meta: bytes | None = None
    sequences: list[int] = []
    for kind, begin, body, end in _boxes(data, name):
        if kind == b"meta" and meta is None:
            meta = data[body + _FULL_BOX_BYTES : end]
        elif kind == b"moov":
            sequences.append(begin)
    if meta is None:
        raise unsupported(name, "it is a film without a still picture")
    try:
        items = _read_items(meta, name)
    except (struct.error, IndexError):
        raise corrupt(name) from None
    width, height = _size(items, items.primary, name)
    coded = sum(_coded_pixels(data, items, item, name) for item in items.shown())
    return Picture(width, height, _without_sequences(data, sequences), coded=coded)


def _boxes(data: bytes, name: ImageFormat) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield the type, the begin, the begin of the content, and the end of each box."""
    position = 0
    for _ in range(MOST_PARTS):
        if position + 8 > len(data):
            return
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        body = position + 8
        if size == 1:
            size, body = int.from_bytes(data[body : body + 8], "big"), body + 8
        end = len(data) if size == 0 else position + size
        if end < body:
            raise corrupt(name)
        if end > len(data):
            raise truncated(name)
        yield kind, position, body, end
        position = end
    raise too_many_parts()


def _read_items(meta: bytes, name: ImageFormat) -> _Items:
    items = _Items()
    for kind, _, body, end in _boxes(meta, name):
        content = meta[body:end]
        if kind == b"pitm":
            items.primary = struct.unpack_from(">I" if content[0] else ">H", content, 4)[0]
        elif kind == b"iinf":
            _read_kinds(items, content, name)
        elif kind == b"iloc":
            _read_places(items, content)
        elif kind == b"iref":
            _read_references(items, content, name)
        elif kind == b"iprp":
            _read_properties(items, content, name)
        elif kind == b"idat":
            items.inside = content
    return items


def _read_kinds(items: _Items, content: bytes, name: ImageFormat) -> None:
    begin = _FULL_BOX_BYTES + (4 if content[0] else 2)
    for _, _, body, _ in _boxes(content[begin:], name):
        at = begin + body
        version = content[at]
        number, skip = struct.unpack_from(">I" if version > 2 else ">H", content, at + 4)[0], 8 if version > 2 else 6
        items.kinds[number] = content[at + 2 + skip : at + 6 + skip] if version >= 2 else b""
    if len(items.kinds) > _MOST_ITEMS:
        raise too_many_parts()


def _read_places(items: _Items, content: bytes) -> None:
    version, sizes = content[0], struct.unpack_from(">H", content, 4)[0]
    offset_bytes, length_bytes, base_bytes = sizes >> 12 & 15, sizes >> 8 & 15, sizes >> 4 & 15
    index_bytes = sizes & 15 if version in (1, 2) else 0
    position = 6
    parts = 0

    def number(count: int) -> int:
        nonlocal position
        if position + count > len(content):
            raise IndexError
        position += count
        return int.from_bytes(content[position - count : position], "big")

    wide = 4 if version == 2 else 2
    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)  # data_reference_index
        base = number(base_bytes)
        places = []
        for _ in range(number(2)):
            number(index_bytes)
            offset, length = number(offset_bytes), number(length_bytes)
            places.append((base + offset, length))
            parts += 1
        if parts > MOST_PARTS:
            raise too_many_parts()
        items.places[item] = (method == 1, places)
        if method > 1:
            raise IndexError


def _read_references(items: _Items, content: bytes, name: ImageFormat) -> None:
    wide = ">I" if content[0] else ">H"
    size = struct.calcsize(wide)
    total = 0
    for kind, _, body, _ in _boxes(content[_FULL_BOX_BYTES:], name):
        at = _FULL_BOX_BYTES + body
        source = struct.unpack_from(wide, content, at)[0]
        count = struct.unpack_from(">H", content, at + size)[0]
        total += count
        if total > MOST_PARTS or len(items.references) > _MOST_ITEMS:
            raise too_many_parts()
        begin = at + size + 2
        items.references.append(
            (kind, source, [struct.unpack_from(wide, content, begin + size * each)[0] for each in range(count)])
        )


def _read_properties(items: _Items, content: bytes, name: ImageFormat) -> None:
    for kind, _, body, end in _boxes(content, name):
        if kind == b"ipco":
            inside = content[body:end]
            items.properties += [(each, inside[begin:stop]) for each, _, begin, stop in _boxes(inside, name)]
        elif kind == b"ipma":
            _read_associations(items, content[body:end])


def _read_associations(items: _Items, content: bytes) -> None:
    version, is_wide = content[0], content[3] & 1
    entries = struct.unpack_from(">I", content, 4)[0]
    if entries > _MOST_ITEMS:
        raise too_many_parts()
    position = 8
    for _ in range(entries):
        item = struct.unpack_from(">H" if version < 1 else ">I", content, position)[0]
        position += 2 if version < 1 else 4
        count = content[position]
        position += 1
        places = items.of_item.setdefault(item, [])
        for _ in range(count):
            if is_wide:
                places.append((struct.unpack_from(">H", content, position)[0] & 0x7FFF) - 1)
            else:
                places.append((content[position] & 0x7F) - 1)
            position += 1 + is_wide


def _size(items: _Items, item: int, name: ImageFormat) -> tuple[int, int]:
    content = items.property(item, b"ispe")
    if content is None or len(content) < 12:
        raise corrupt(name)
    width, height = struct.unpack_from(">II", content, 4)
    if not width or not height:
        raise corrupt(name)
    return width, height


def _coded_pixels(data: bytes, items: _Items, item: int, name: ImageFormat) -> int:
    """Return the pixels that the decoder computes for an item."""
    kind = items.kinds.get(item, b"")
    if kind == _GRID:
        return 0  # its tiles count
    if kind != _CODED[name]:
        raise unsupported(name, "its picture is neither one nor tiles of the codec that its name stands for")
    width, height = _size(items, item, name)
    stream = _content(data, items, item, name)
    if name == "avif":
        coded, frames = av1_pixels(stream)
    else:
        configuration = items.property(item, b"hvcC")
        if configuration is None:
            raise corrupt(name)
        coded, length_bytes = hevc_pixels(configuration)
        frames = hevc_frames(stream, length_bytes)
    if not coded:
        raise corrupt(name)
    return max(coded, width * height) * max(frames, 1)


def _content(data: bytes, items: _Items, item: int, name: ImageFormat) -> bytes:
    is_inside, places = items.places.get(item, (False, []))
    source = items.inside if is_inside else data
    parts = []
    total = 0
    for offset, length in places:
        end = offset + length if length else len(source)
        if end > len(source):
            raise truncated(name)
        total += end - offset
        if total > len(data):
            raise corrupt(name)
        parts.append(source[offset:end])
    return b"".join(parts)


def _without_sequences(data: bytes, sequences: list[int]) -> tuple[bytes | memoryview, ...]:
    """Return the file without its films and the brands that promise them; all offsets stay."""
    length = min(int.from_bytes(data[:4], "big"), len(data))
    brands = [data[at : at + 4] for at in range(8, length, 4)]
    if not sequences and _SEQUENCE_BRANDS.keys().isdisjoint(brands):
        return (data,)
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:8], *(_SEQUENCE_BRANDS.get(brand, brand) for brand in brands)]
    position = length
    for begin in sequences:
        parts += [view[position : begin + 4], _SKIPPED]
        position = begin + 8
    return (*parts, view[position:])
