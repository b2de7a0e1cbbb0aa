"""The result for one image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The k best classes of one image, best first, or the cause of its failure.

    Attributes:
        labels: Class names, k of them.
        scores: Scores in [0, 1], k of them: softmax probabilities, or sigmoid scores for a multi-label classifier.
        indices: Class numbers, k of them.
        error: Cause of the failure; None on success. Otherwise labels, scores and indices are empty.
        reason: Its stable code, such as "truncated"; None on success, and from a server that sends none.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    indices: tuple[int, ...]
    error: str | None = None
    reason: str | None = None
