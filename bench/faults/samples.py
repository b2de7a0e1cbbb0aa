"""What is sent: images, good and wrong, with the one right answer of each."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from faults.errors import FaultsError
from faults.identity import CROP, NUMBERS, draw, encode

Mistake = Literal["truncated", "not_jpeg", "empty", "too_many_pixels"]

# What the server says of each mistake. One that it says of another image is a mixed-up answer, too.
_ERRORS: dict[Mistake, str] = {
    "truncated": "truncated JPEG",
    "not_jpeg": "not a JPEG",
    "empty": "empty: no bytes",
    "too_many_pixels": "too many pixels",
}
MISTAKES = tuple(_ERRORS)

# Width in pixels, noise and JPEG quality; the files have 2 kB to several MB.
_SHAPES = (
    (CROP, 12, 90),
    (96, 30, 90),
    (160, 12, 85),
    (224, 30, 95),
    (333, 12, 90),
    (480, 40, 90),
    (640, 12, 75),
    (1000, 20, 80),
)
_LARGE = (1800, 50, 96)  # some 3 MB
_LARGE_EVERY = 64
_HUGE_SIDE = 60_000  # in the header only


@dataclass(frozen=True)
class Sample:
    """One image and its answer.

    Attributes:
        name: For people.
        data: The encoded image.
        label: Its best label; empty if it is a wrong one.
        error: Begin of the server's error; empty if it is a good one.
        checksum: CRC-32 of `data`.
    """

    name: str
    data: bytes = field(repr=False)
    label: str
    error: str
    checksum: int

    @property
    def is_good(self) -> bool:
        """Whether it has a label."""
        return not self.error


def good_sample(number: int, *, large: bool = False) -> Sample:
    """Return the image of a number, in the size that this number always has.

    Args:
        number: 0 to 1023.
        large: In several MB instead.
    """
    size, noise, quality = _LARGE if large else _SHAPES[number % len(_SHAPES)]
    return _good(number, encode(draw(number, size, noise=noise), quality=quality))


def wrong_sample(number: int, mistake: Mistake) -> Sample:
    """Return the image of a number with a mistake."""
    data = encode(draw(number, 200, noise=20))
    if mistake == "truncated":
        data = data[: len(data) // 2]
    elif mistake == "not_jpeg":
        data = b"\x89PNG\r\n\x1a\n" + data[8:]
    elif mistake == "empty":
        data = b""
    else:
        data = _with_size(data, _HUGE_SIDE)
    return Sample(f"{mistake} {number}", data, "", _ERRORS[mistake], zlib.crc32(data))


def mixed_samples(count: int = 192, *, wrong_every: int = 8, large: bool = True) -> list[Sample]:
    """Return images of different numbers and sizes, wrong ones among them.

    Args:
        count: How many, at most 1,024.
        wrong_every: One in so many is a wrong one; 0 for none.
        large: Whether one in 64 has several MB.
    """
    # An odd step visits every number once, and mixes the sizes.
    numbers = [index * 389 % NUMBERS for index in range(count)]
    return [
        wrong_sample(number, MISTAKES[index // wrong_every % len(MISTAKES)])
        if wrong_every and index % wrong_every == wrong_every - 1
        else good_sample(number, large=large and index % _LARGE_EVERY == 0)
        for index, number in enumerate(numbers)
    ]


def slow_samples(count: int = 8, side: int = 2500) -> list[Sample]:
    """Return progressive images of few bytes that are slow to decode, so that a small client can overload a server."""
    return [
        _good(number, encode(draw(number, side, noise=0), quality=80, progressive=True))
        for number in np.random.default_rng(0).permutation(NUMBERS)[:count].tolist()
    ]


def photo_samples(folder: Path, labels: Sequence[str], images: Sequence[bytes]) -> list[Sample]:
    """Return samples of photos whose labels are known.

    Args:
        folder: For messages.
        labels: One for each image.
        images: Encoded; different from each other.
    """
    samples = [
        Sample(f"photo {index}", data, label, "", zlib.crc32(data))
        for index, (data, label) in enumerate(zip(images, labels, strict=True))
    ]
    if len({sample.label for sample in samples}) < 2:
        raise FaultsError(
            f"the photos in {folder} all have the same label: mixed-up answers would not be seen",
            reason="one_label_only",
        )
    return samples


def with_mistakes(samples: Sequence[Sample], every: int = 8) -> list[Sample]:
    """Return the samples, with a wrong image after each `every` - 1 of them."""
    mixed: list[Sample] = []
    for index, sample in enumerate(samples):
        mixed.append(sample)
        if index % (every - 1) == every - 2:
            mistakes = len(mixed) // every
            mixed.append(wrong_sample(mistakes % NUMBERS, MISTAKES[mistakes % len(MISTAKES)]))
    return mixed


def variants(photo: bytes, count: int) -> list[bytes]:
    """Return JPEGs of a photo that differ in their bytes but hardly in their pixels: comments are appended."""
    # COM segment after SOI (ITU-T T.81, B.2.4.5).
    return [photo[:2] + b"\xff\xfe\x00\x06" + index.to_bytes(4, "big") + photo[2:] for index in range(count)]


def _good(number: int, data: bytes) -> Sample:
    return Sample(f"number {number}", data, str(number), "", zlib.crc32(data))


def _with_size(data: bytes, side: int) -> bytes:
    """Write another width and height into the frame header."""
    start = data.index(b"\xff\xc0")
    return data[: start + 5] + side.to_bytes(2, "big") * 2 + data[start + 9 :]
