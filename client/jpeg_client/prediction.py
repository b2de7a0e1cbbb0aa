"""The answer for one image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The k best classes of one image, best first; or why there are none.

    labels: names. scores: softmax probabilities in [0, 1]. indices: class numbers.
    error: None, or the reason why this image has no labels; the three are empty then.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    indices: tuple[int, ...]
    error: str | None = None
