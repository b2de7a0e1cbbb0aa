"""Mutations of texts in TOML, protobuf's text format and JSON: by words, values and lines."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from coverage_fuzz.check import Mutate, MutateBytes

# Strings, numbers and names, runs of blanks, and single other characters.
_WORD = re.compile(rb'"(?:[^"\\\n]|\\.)*"|[\w.+-]+|[ \t]+|.', re.DOTALL)
_VALUES: tuple[bytes, ...] = (
    b"0",
    b"1",
    b"-1",
    b"2",
    b"1.5",
    b"1e400",
    b"-0.0",
    b"nan",
    b"inf",
    b"true",
    b"false",
    b"null",
    b'""',
    b'"x"',
    b"[]",
    b"[1, 2]",
    b"[0.5, 0.5, 0.5]",
    b"{}",
    b"{a = 1}",
    b'{"a": 1}',
    b"9223372036854775807",
    b"18446744073709551616",
    b"9" * 400,
    b'"\\u0000"',
    b'"' + b"x" * 300 + b'"',
    b'"\xf0\x9f\x8d\x8e"',
    b'"\xff"',
    b"1979-05-27T07:32:00Z",
    b"[" * 40 + b"]" * 40,
)


def mutator(words: Sequence[bytes]) -> Mutate:
    """Return mutations that also insert these words of a format."""

    def mutate(data: bytes, rng: random.Random, mutate_bytes: MutateBytes) -> bytes:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            data = _lines(data, rng) if rng.random() < 0.3 else _words(data, rng, words)
        return data

    return mutate


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Drop, repeat, move or join lines."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at : at + rng.choice((1, 1, 2, 5))]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = lines[at].rstrip(b"\n")
    else:
        lines[at:at] = lines[other : other + rng.choice((2, 5, 9))]
    return b"".join(lines)


def _words(data: bytes, rng: random.Random, known: Sequence[bytes]) -> bytes:
    """Drop, repeat, replace or insert words."""
    words = _WORD.findall(data)
    if not words:
        return rng.choice(known or _VALUES)
    at = rng.randrange(len(words))
    kind = rng.randrange(6)
    if kind == 0:
        del words[at : at + rng.choice((1, 1, 2, 5))]
    elif kind == 1:
        words[at:at] = [words[at]] * rng.choice((1, 1, 2, 50))
    elif kind <= 3:
        words[at] = rng.choice(_VALUES) if rng.random() < 0.6 else rng.choice(known or _VALUES)
    elif kind == 4:
        words.insert(at, rng.choice(known or _VALUES))
    else:
        words[at] = words[rng.randrange(len(words))]
    return b"".join(words)
