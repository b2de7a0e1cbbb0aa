"""Types of command-line arguments: from a text to its value, or to an error that says what is wrong with it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def list_of(text: str, convert: Callable[[str], T]) -> list[T]:
    """Parts between commas."""
    return [convert(part) for part in text.split(",")]


def count(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: give 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """A number, 0 or more."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: give 0 or more")
    return seconds


def positive(text: str) -> float:
    """A number above 0."""
    if (number := seconds(text)) == 0:
        raise argparse.ArgumentTypeError("0 is too little: give more")
    return number


def numbers(text: str) -> list[int]:
    """Whole numbers, 1 or more, between commas."""
    return list_of(text, count)


def rates(text: str) -> list[float]:
    """Numbers above 0, between commas."""
    return list_of(text, positive)


def words(text: str) -> list[str]:
    """Words between commas."""
    return list_of(text, str.strip)


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT."""
    width, _, height = text.partition("x")
    return count(width), count(height)


def one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """What takes words between commas that must be among these."""

    def parse(text: str) -> list[str]:
        if unknown := [word for word in words(text) if word not in names]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(names)}")
        return words(text)

    return parse
