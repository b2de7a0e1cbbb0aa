"""From logits to the best classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
from jpeg_contract.errors import ReasonedError
from numpy.typing import NDArray


class InvalidTopK(ReasonedError, ValueError):
    """The `k` of a request cannot be served; the message states the range."""

    reason = "bad_k"


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute probabilities.

    Args:
        logits: (N, classes) float32.

    Returns:
        (N, classes) float32 in [0, 1]; each row sums to 1.
    """
    # The largest logit of a row is subtracted first, so that no exponential overflows.
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def top_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the k best of each row, best first; equal scores in the order of their classes.

    The k best are found by partition, in linear time, and only they are sorted.

    Args:
        scores: (N, classes) float32, finite.
        k: 1 to classes.

    Returns:
        (indices, scores), both (N, k): int32 and float32.
    """
    classes = scores.shape[-1]
    rows = np.arange(len(scores))[:, None]
    if k < classes:
        best = np.argpartition(scores, classes - k, axis=-1)[:, classes - k :]
        _break_ties(scores, best)
        best.sort(axis=-1)
    else:
        best = np.broadcast_to(np.arange(classes), scores.shape)
    best_scores = scores[rows, best]
    # Their classes are in order, and stay so where scores are equal.
    order = np.argsort(-best_scores, axis=-1, kind="stable")
    return best[rows, order].astype(np.int32), best_scores[rows, order]


def _break_ties(scores: NDArray[np.float32], best: NDArray[np.int64]) -> None:
    """Take the first classes where some outside `best` score as the worst inside; a partition chooses any of them."""
    # The partition puts the worst first.
    candidates = scores >= scores[np.arange(len(scores)), best[:, 0]][:, None]
    for row in np.flatnonzero(np.count_nonzero(candidates, axis=-1) > best.shape[-1]):
        classes = np.flatnonzero(candidates[row])
        best[row] = classes[np.argsort(-scores[row, classes], kind="stable")[: best.shape[-1]]]


def read_k(parameters: Mapping[str, object], *, default: int, classes: int) -> int:
    """Read `k` from a request's parameters: an integer, or a text of one.

    Triton hands HTTP headers on as text, under the name that the client typed.

    Args:
        parameters: Of the request.
        default: `k` of a request that does not set it; `classes`, if that is less.
        classes: Number of classes.

    Raises:
        InvalidTopK: It is not an integer from 1 to `classes`.
    """
    value = parameters.get("k", parameters.get("K"))
    if value is None:
        return min(default, classes)
    k: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        k = value
    elif isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        k = int(value) if len(value) < 10 else None
    if k is None or not 1 <= k <= classes:
        shown = repr(value)[:40]
        raise InvalidTopK(f"k must be an integer from 1 to {classes}, but it is {shown}")
    return k


def request_k(parameters: Callable[[], str], *, default: int, classes: int) -> int:
    """Read `k` from a request's parameters as Triton hands them to a Python model: JSON, or an empty text.

    Args:
        parameters: The request's method of that name. It raises UnicodeDecodeError for a header that is not text.
        default: See `read_k`.
        classes: See `read_k`.

    Raises:
        InvalidTopK: See `read_k`; also if the parameters cannot be read.
    """
    try:
        named: dict[str, object] = json.loads(parameters() or "{}")
    except ValueError as error:
        raise InvalidTopK(
            "the request's parameters, or the headers that become parameters, are not UTF-8 text"
        ) from error
    return read_k(named, default=default, classes=classes)
