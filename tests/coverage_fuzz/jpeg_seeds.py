"""What the targets that take images begin with: generated files only."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator

from corpus.generated import cases
from support import encode, noise


@functools.cache
def neighbours() -> tuple[bytes, bytes]:
    """Return two small images that every decoder decodes."""
    return (
        encode(noise(24, 16, seed=1), quality=50),
        encode(noise(40, 41, seed=2).convert("L"), quality=30),
    )


def images(max_bytes: int) -> Iterator[bytes]:
    """Yield odd, broken and good JPEGs of at most so many bytes."""
    yield from neighbours()
    yield encode(noise(8, 8), quality=30)
    yield encode(noise(17, 9), quality=30, progressive=True, subsampling=0)
    yield encode(noise(9, 30).convert("CMYK"), quality=30)
    yield encode(noise(33, 18), quality=10, restart_marker_blocks=1)
    yield from (case.data for case in cases() if len(case.data) <= max_bytes)


def other_formats() -> Iterator[bytes]:
    """Yield the beginnings of what is sent instead of a JPEG."""
    data = neighbours()[0]
    yield base64.b64encode(data)
    yield b"data:image/jpeg;base64," + base64.b64encode(data)
    yield data.hex().encode()
    yield len(data).to_bytes(4, "little") + data
    yield b"\0\0\0\x18ftypheic"
    yield b"RIFF\0\0\0\0WEBP"
