"""The shared memory of the Python backend's workers."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from jpeg_contract.folders import SHARED_MEMORY


def new_prefix() -> str:
    """Return a name prefix for the segments of one server, which no other server has."""
    return f"jpeg_serve_{os.getpid()}_{secrets.token_hex(4)}_"


def segments(prefix: str) -> list[Path]:
    """Return the segments that exist with this prefix."""
    return list(SHARED_MEMORY.glob(f"{prefix}*")) if SHARED_MEMORY.is_dir() else []


def make_private(prefix: str) -> None:
    """Let nobody else read the segments: photos lie in them, and Triton creates them readable, whatever the umask."""
    for segment in segments(prefix):
        with contextlib.suppress(FileNotFoundError):
            segment.chmod(0o600)


def remove(prefix: str) -> None:
    """Remove the segments of workers that were killed. Only for workers that have ended."""
    for segment in segments(prefix):
        with contextlib.suppress(FileNotFoundError):
            segment.unlink()
