"""A target with faults on purpose, to see that the fuzzer sees them: the inputs RAISE, CRASH and SLEEP."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from coverage_fuzz import text_mutator
from coverage_fuzz.check import Check, Target


def check(data: bytes) -> None:
    """Raise, abort or hang where the data says so: the first also if it only begins with it."""
    if data.startswith(b"RAISE"):
        raise KeyError("planted")
    if data == b"CRASH":
        os.abort()
    if data == b"SLEEP":
        time.sleep(3600)


def _make_check(folder: Path) -> Check:
    return check


def _seeds() -> Iterator[bytes]:
    yield b"nothing"


_WORDS = (b"RAISE", b"CRASH")
TARGET = Target(_make_check, _seeds, text_mutator.mutator(_WORDS), 64, _WORDS)
