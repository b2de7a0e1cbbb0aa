"""The shared memory of the Python backend's workers."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory


def new_prefix() -> str:
    """A name prefix of its own for one server's segments, so that they can be told from all others."""
    return f"jpeg_serve_{os.getpid()}_{secrets.token_hex(4)}_"


def segments(prefix: str) -> list[Path]:
    """The segments that exist with this prefix."""
    return list(FOLDER.glob(f"{prefix}*")) if FOLDER.is_dir() else []


def remove(prefix: str) -> None:
    """Remove what workers that were killed left behind. Only once they are gone."""
    for segment in segments(prefix):
        with contextlib.suppress(FileNotFoundError):
            segment.unlink()
