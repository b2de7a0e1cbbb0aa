"""Mutations of JPEGs that keep most of a file as it is: a decoder refuses nearly all of what random bytes give."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from coverage_fuzz.check import MutateBytes

_START, _SCAN, _END = 0xD8, 0xDA, 0xD9
_FRAME = range(0xC0, 0xD0)
_TABLES = (0xC4, 0xDB)
_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})
_MARKERS = (*range(0xC0, 0x100), 0x01, 0x02)
_BYTES = (0, 1, 2, 3, 4, 7, 8, 12, 16, 63, 64, 127, 128, 254, 255)
_SIZES = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 255, 256, 1023, 65500, 65535)
_FACTORS = (0x11, 0x21, 0x12, 0x22, 0x41, 0x14, 0x44, 0x31, 0x13, 0x33, 0x00, 0x01, 0x10, 0x51, 0xFF)
# Spectral selection and approximation of progressive scans, good and bad.
_PROGRESSIONS = (b"\0\x3f\0", b"\0\0\1", b"\0\0\x10", b"\1\5\2", b"\6\x3f\2", b"\1\x3f\x21", b"\1\x3f\x10", b"\x3f\0\0")
_EXIF = b"Exif\0\0"
_APPLICATIONS = (
    (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
    (0xE0, b"JFIF\0"),
    (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"),
    (0xE2, b"ICC_PROFILE\0\1\1" + bytes(24)),
    (0xE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
    (0xED, b"Photoshop 3.0\0008BIM\3\xed\0\0\0\0\0\x10" + bytes(16)),
    (0xEE, b"Adobe\0\x64\0\0\0\0\0"),
    (0xEE, b"Adobe\0\x64\0\0\0\0\1"),
    (0xEE, b"Adobe\0\x64\0\0\0\0\2"),
    (0xEE, b"Adobe"),
    (0xFE, b"a comment \xff\xda\xff\xd9"),
)

Change = Callable[[list[bytes], random.Random, MutateBytes], None]


def pieces(data: bytes) -> list[bytes]:
    """Split a file into its markers, its segments and what lies between them; joined, they are the file."""
    found: list[bytes] = []
    position = between = 0
    while (at := data.find(b"\xff", position)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF, *range(0xD0, 0xD8)):
            position = at + 1
            continue
        if at > between:
            found.append(data[between:at])
        length = 0 if marker in _STANDALONE else int.from_bytes(data[at + 2 : at + 4], "big")
        position = between = min(len(data), at + 2 + length)
        found.append(data[at:between])
    if between < len(data):
        found.append(data[between:])
    return found


def mutate(data: bytes, rng: random.Random, mutate_bytes: MutateBytes) -> bytes:
    """Make a JPEG of a JPEG, by one to four changes."""
    parts = pieces(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        rng.choices(_CHANGES, _WEIGHTS)[0](parts, rng, mutate_bytes)
    return b"".join(parts)


def cross(first: bytes, second: bytes, rng: random.Random) -> bytes:
    """Join the beginning of a file with the end of another one, or give it one of the other one's segments."""
    mine, theirs = pieces(first), pieces(second)
    if not mine or not theirs:
        return first + second
    if rng.random() < 0.5:
        return b"".join([*mine[: rng.randint(1, len(mine))], *theirs[rng.randrange(len(theirs)) :]])
    mine[rng.randrange(len(mine))] = rng.choice(theirs)
    return b"".join(mine)


def _marker(part: bytes) -> int | None:
    return part[1] if len(part) >= 2 and part[0] == 0xFF else None


def _choose(parts: Sequence[bytes], rng: random.Random, *markers: int) -> int | None:
    """Return the place of a segment with one of these markers; None if there is none."""
    return rng.choice([at for at, part in enumerate(parts) if _marker(part) in markers] or [None])


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def _patch(parts: list[bytes], at: int, offset: int, new: bytes) -> None:
    part = parts[at]
    if offset < len(part):
        parts[at] = (part[:offset] + new + part[offset + len(new) :])[: max(len(part), 1)]


def _drop(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    if len(parts) > 1:
        del parts[rng.randrange(1, len(parts))]


def _repeat(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    if parts:
        part = rng.choice(parts)
        for _ in range(rng.choice((1, 1, 1, 2, 9))):
            parts.insert(rng.randint(1, len(parts)), part)


def _swap(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    if len(parts) > 2:
        one, other = rng.randrange(1, len(parts)), rng.randrange(1, len(parts))
        parts[one], parts[other] = parts[other], parts[one]


def _cut(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    if parts:
        at = rng.randrange(len(parts))
        parts[at] = parts[at][: rng.randint(0, len(parts[at]))]
        if rng.random() < 0.5:
            del parts[at + 1 :]


def _change_length(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    """Let a segment state another length than it has."""
    if parts:
        at = rng.randrange(len(parts))
        stated = int.from_bytes(parts[at][2:4], "big")
        new = rng.choice((0, 1, 2, 3, stated - 1, stated + 1, stated + rng.randint(-40, 40), 0xFFFF))
        if (_marker(parts[at]) or 0) not in _STANDALONE:
            _patch(parts, at, 2, (new % 65536).to_bytes(2, "big"))


def _change_marker(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    at = rng.randrange(len(parts)) if parts else None
    if at is not None and _marker(parts[at]) is not None:
        _patch(parts, at, 1, bytes((rng.choice(_MARKERS),)))


def _edit_frame(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    """Change the process, precision, size, or a component of a frame."""
    at = _choose(parts, rng, *(set(_FRAME) - {0xC4}))
    if at is None:
        return
    components = parts[at][9] if len(parts[at]) > 9 else 0
    component = 10 + 3 * rng.randrange(max(1, components))
    kind = rng.randrange(8)
    if kind == 0:
        _patch(parts, at, 1, bytes((rng.choice((0xC0, 0xC1, 0xC2, 0xC2, rng.choice(_FRAME))),)))
    elif kind == 1:
        _patch(parts, at, 4, bytes((rng.choice((2, 8, 12, 16)),)))
    elif kind <= 3:
        _patch(parts, at, rng.choice((5, 7)), rng.choice(_SIZES).to_bytes(2, "big"))
    elif kind == 4:
        _patch(parts, at, 9, bytes((rng.choice((0, 1, 2, 3, 4, 5, 10, 255)),)))
    elif kind == 5:
        _patch(parts, at, component, rng.choice((b"\1", b"\2", b"\3", b"R", b"G", b"B", b"\0")))
    elif kind == 6:
        _patch(parts, at, component + 1, bytes((rng.choice(_FACTORS),)))
    else:
        _patch(parts, at, component + 2, bytes((rng.choice(_BYTES),)))


def _edit_scan(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    """Change the components, the tables or the progression of a scan."""
    at = _choose(parts, rng, _SCAN)
    if at is None:
        return
    part = parts[at]
    kind = rng.randrange(4)
    if kind == 0:
        _patch(parts, at, len(part) - 3, rng.choice(_PROGRESSIONS))
    elif kind == 1:
        _patch(parts, at, rng.randint(4, max(4, len(part) - 1)), bytes((rng.choice(_BYTES),)))
    elif kind == 2:
        chosen = rng.sample((1, 2, 3, 4, 0, 0x52), rng.randint(1, 4))
        content = b"".join(bytes((identifier, rng.choice((0x00, 0x11, 0x10, 0x22)))) for identifier in chosen)
        parts[at] = _segment(_SCAN, bytes((len(chosen),)) + content + rng.choice(_PROGRESSIONS))
    elif at + 1 < len(parts):
        parts[at : at + 2] *= rng.choice((2, 2, 3, 8))


def _edit_table(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    at = _choose(parts, rng, *_TABLES)
    if at is not None and len(parts[at]) > 5:
        _patch(parts, at, rng.randrange(4, len(parts[at])), bytes((rng.choice((*_BYTES, rng.randrange(256))),)))


def _edit_inside(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    """Change the content of a segment, with the length that it then has, or what lies between two segments."""
    if not parts:
        return
    at = rng.randrange(len(parts))
    marker = _marker(parts[at])
    if marker is None or marker in _STANDALONE:
        parts[at] = mutate_bytes(parts[at], len(parts[at]) + 16)
    else:
        parts[at] = _segment(marker, mutate_bytes(parts[at][4:], len(parts[at]) + 16)[:65533])


def _edit_data(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    """Change, remove or insert some bytes of a scan's data."""
    places = [at for at, part in enumerate(parts) if at and _marker(parts[at - 1]) == _SCAN and _marker(part) is None]
    if not places:
        return
    at = rng.choice(places)
    part = bytearray(parts[at])
    if not part:
        return
    place = rng.randrange(len(part))
    kind = rng.randrange(4)
    if kind == 0:
        part[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del part[place : place + rng.choice((1, 2, 16, 200))]
    elif kind == 2:
        part[place:place] = rng.choice(
            (b"\xff\xd0", b"\xff\xd3", b"\xff\xff", b"\xff\0", b"\0" * 8, b"\xff\xd9", b"\xff")
        )
    else:
        part[place:place] = part[: rng.choice((8, 64, 500))]
    parts[at] = bytes(part)


def _insert(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    """Insert a segment, a marker, fill bytes, or bytes that are no segment."""
    new = rng.choice(
        (
            _segment(*rng.choice(_APPLICATIONS)),
            _segment(0xE1, _EXIF + _exif(rng)),
            _segment(0xDD, rng.choice((0, 1, 2, 7, 65535)).to_bytes(2, "big")),
            _segment(0xDC, rng.choice(_SIZES).to_bytes(2, "big")),
            bytes((0xFF, rng.choice((_START, _END, 0x01, 0xD0, 0xD7)))),
            b"\xff" * rng.choice((1, 2, 9)),
            rng.randbytes(rng.choice((1, 3, 20))),
            _segment(rng.choice(_MARKERS), rng.randbytes(rng.choice((0, 1, 5, 30)))),
        )
    )
    parts.insert(rng.randint(min(1, len(parts)), len(parts)), new)


def _exif(rng: random.Random) -> bytes:
    """Return EXIF data with an orientation, sometimes wrong."""
    is_little = rng.random() < 0.5

    def number(value: int, length: int) -> bytes:
        return (value % (1 << 8 * length)).to_bytes(length, "little" if is_little else "big")

    value = number(rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 700)), 2) + b"\0\0"
    kind, count = rng.choice(((3, 1), (3, 1), (3, 1), (4, 1), (3, 2), (5, 1), (2, 9)))
    entry = number(0x0112, 2) + number(kind, 2) + number(count, 4) + value
    first = rng.choice((8, 8, 8, 0, 9, 2**31, 2**32 - 1))
    magic = b"II*\0" if is_little else b"MM\0*"
    return magic + number(first, 4) + number(rng.choice((1, 1, 1, 0, 2, 65535)), 2) + entry + b"\0\0\0\0"


def _append(parts: list[bytes], rng: random.Random, mutate_bytes: MutateBytes) -> None:
    """Remove the end marker, or write something behind it."""
    if rng.random() < 0.5 and parts and _marker(parts[-1]) == _END:
        parts.pop()
    parts.append(rng.choice((b"\0" * 40, rng.randbytes(30), b"".join(parts[:9]), b"\xff", b"\xff\xd9", b"SEFT")))


_CHOICES: tuple[tuple[Change, int], ...] = (
    (_drop, 2),
    (_repeat, 2),
    (_swap, 2),
    (_cut, 2),
    (_change_length, 3),
    (_change_marker, 2),
    (_edit_frame, 5),
    (_edit_scan, 5),
    (_edit_table, 3),
    (_edit_inside, 4),
    (_edit_data, 4),
    (_insert, 5),
    (_append, 2),
)
_CHANGES = tuple(change for change, _ in _CHOICES)
_WEIGHTS = tuple(weight for _, weight in _CHOICES)
