"""From logits to the best classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray


class KError(ValueError):
    """The `k` of a request cannot be served; the message states the range."""


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities from logits: (N, classes) float32 to (N, classes) float32, each row in [0, 1], sum 1.

    The largest logit of a row is subtracted first, so that no exponential overflows.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def top_k(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best of each row, best first; equal scores in the order of their classes.

    scores: (N, classes) float32, finite. k: 1 to classes.

    Returns (indices, scores), both (N, k), int32 and float32.

    The k best are found by partition, in linear time, and only they are sorted.
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
    """Where classes outside `best` score as the worst inside, a partition chooses any: take the first ones."""
    # The partition puts the worst first.
    candidates = scores >= scores[np.arange(len(scores)), best[:, 0]][:, None]
    for row in np.flatnonzero(np.count_nonzero(candidates, axis=-1) > best.shape[-1]):
        classes = np.flatnonzero(candidates[row])
        best[row] = classes[np.argsort(-scores[row, classes], kind="stable")[: best.shape[-1]]]


def read_k(parameters: Mapping[str, object], *, default: int, classes: int) -> int:
    """The `k` that a request's parameters ask for; `default`, or `classes` if that is less, if they do not.

    A whole number, or a text of one: Triton hands HTTP headers on as text, under the name the client typed.

    Raises KError if it is no whole number from 1 to `classes`.
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
        raise KError(f"k must be a whole number from 1 to {classes}, but it is {shown}")
    return k


def request_k(parameters: Callable[[], str], *, default: int, classes: int) -> int:
    """`read_k` for a request's parameters as Triton hands them to a Python model: JSON, or an empty text.

    parameters: the request's method of that name. It raises UnicodeDecodeError for a header that is no text.

    Raises KError also if they cannot be read.
    """
    try:
        named: dict[str, object] = json.loads(parameters() or "{}")
    except ValueError as error:
        raise KError("the parameters of the request, or the headers that become such, are not UTF-8 text") from error
    return read_k(named, default=default, classes=classes)
