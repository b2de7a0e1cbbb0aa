"""The parameters of a request: how many labels, and the least score."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jpeg_contract.errors import ReasonedError

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
# Longer texts are no number that a person or a program writes.
_MOST_DIGITS = 40


class InvalidParameter(ReasonedError, ValueError):
    """A parameter of a request cannot be served; the message states what can be."""

    reason = "invalid_parameters"

    def with_code(self) -> str:
        """Return the message and the reason code, as clients get them."""
        return f"{self} [{self.reason}]"


class InvalidK(InvalidParameter):
    """`k` is no integer from 1 to the number of classes."""

    reason = "invalid_k"


class InvalidThreshold(InvalidParameter):
    """`threshold` is no number from 0 to 1."""

    reason = "invalid_threshold"


class Wanted(NamedTuple):
    """Which labels of each image a request gets.

    Attributes:
        k: At most so many, 1 to classes.
        threshold: Those with a lower score are left out, 0 to 1.
    """

    k: int
    threshold: float


def read_k(parameters: Mapping[str, object], *, default: int, classes: int) -> int:
    """Read `k` from a request's parameters: an integer, or a text of one.

    Args:
        parameters: Of the request.
        default: `k` of a request that does not set it; `classes`, if that is less.
        classes: Number of classes.

    Raises:
        InvalidK: It is not an integer from 1 to `classes`.
    """
    value = _find(parameters, "k")
    if value is None:
        return min(default, classes)
    k: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        k = value
    elif isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        k = int(value) if len(value) < 10 else None
    if k is None or not 1 <= k <= classes:
        raise InvalidK(f"k must be an integer from 1 to {classes}, but it is {_shown(value)}")
    return k


def read_threshold(parameters: Mapping[str, object], *, default: float) -> float:
    """Read `threshold` from a request's parameters: a number, or a text of one.

    Args:
        parameters: Of the request.
        default: Threshold of a request that does not set it.

    Raises:
        InvalidThreshold: It is not a number from 0 to 1.
    """
    value = _find(parameters, "threshold")
    if value is None:
        return default
    threshold: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        threshold = value
    elif isinstance(value, str) and len(value) <= _MOST_DIGITS and _NUMBER.fullmatch(value.strip()):
        threshold = float(value)
    if threshold is None or not 0 <= threshold <= 1:
        raise InvalidThreshold(f"threshold must be a number from 0 to 1, but it is {_shown(value)}")
    return threshold


def read_wanted(parameters: Callable[[], str], *, k: int, threshold: float, classes: int) -> Wanted:
    """Read a request's parameters as Triton hands them to a Python model: JSON, or an empty text.

    Args:
        parameters: The request's method of that name. It raises UnicodeDecodeError for a header that is not text.
        k: See `default` of `read_k`.
        threshold: See `default` of `read_threshold`.
        classes: Number of classes.

    Raises:
        InvalidParameter: See `read_k` and `read_threshold`; also if the parameters cannot be read.
    """
    try:
        named: dict[str, object] = json.loads(parameters() or "{}")
    except ValueError as error:
        raise InvalidParameter(
            "the request's parameters, or the headers that become parameters, are not UTF-8 text"
        ) from error
    return Wanted(read_k(named, default=k, classes=classes), read_threshold(named, default=threshold))


def _find(parameters: Mapping[str, object], name: str) -> object:
    """Return a parameter, None without it. Triton hands HTTP headers on under the name that the client typed."""
    if name in parameters:
        return parameters[name]
    return next((value for typed, value in parameters.items() if typed.lower() == name), None)


def _shown(value: object) -> str:
    return repr(value)[:40]
