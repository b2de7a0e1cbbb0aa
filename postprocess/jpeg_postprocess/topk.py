"""From logits to the best classes."""

from __future__ import annotations

import numpy as np
from jpeg_contract.settings import Head
from numpy.typing import NDArray


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


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the score of each label by itself.

    Args:
        logits: Float32, of any shape.

    Returns:
        Float32 in [0, 1], of the same shape.
    """
    # Only exponentials of negative numbers, so that none overflows.
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits < 0, small, np.float32(1)) / (1 + small), np.float32)


def best(logits: NDArray[np.float32], k: int, head: Head) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the k best classes of each row, and their scores.

    Args:
        logits: (N, classes) float32, finite.
        k: 1 to classes.
        head: How logits become scores.

    Returns:
        (indices, scores), both (N, k): int32 and float32; the scores of a row do not increase.
    """
    if head == "softmax":
        return top_k(softmax(logits), k)
    # By their logits: the scores of large ones are all 1.
    indices, values = top_k(logits, k)
    # NumPy's exponential is not monotonic in its last bit.
    return indices, np.minimum.accumulate(sigmoid(values), axis=-1)


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
