"""What a target of the fuzzer is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Check = Callable[[bytes], None]
"""Takes one input. Any exception is a finding."""
MutateBytes = Callable[[bytes, int], bytes]
"""Takes an input and the most bytes; changes bytes without knowing what they mean."""
Mutate = Callable[[bytes, random.Random, MutateBytes], bytes]
"""Takes an input, and what to draw from; knows the format."""


class Violation(AssertionError):
    """A rule of a target is broken: the message says which."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed, and by which rules.

    Attributes:
        make_check: Takes an empty folder for files, and returns the check.
        seeds: Valid inputs, and odd ones, always the same.
        mutate: Makes an input of an input.
        max_bytes: Of an input.
        dictionary: Words of the format, for libFuzzer's own mutations.
        is_seen: Whether the branches of what reads the inputs are counted. Those of C code are not: a run then begins
            with the seeds, too, which the kept corpus would not need otherwise.
    """

    make_check: Callable[[Path], Check]
    seeds: Callable[[], Iterator[bytes]]
    mutate: Mutate
    max_bytes: int
    dictionary: tuple[bytes, ...] = ()
    is_seen: bool = True


def require(holds: object, rule: str) -> None:
    """Raise Violation unless a rule holds."""
    if not holds:
        raise Violation(rule)
