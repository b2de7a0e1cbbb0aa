"""What the values of a network's output are, and how they become logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jpeg_contract.settings import Head
from jpeg_contract.tensors import SMALLEST_PROBABILITY
from numpy.typing import NDArray

from jpeg_build.recipe.keys import Output

SMALLEST = SMALLEST_PROBABILITY


@dataclass(frozen=True)
class OutputKind:
    """Kind of a network's output.

    Attributes:
        values: Before or behind the softmax or sigmoid.
        head: Which of the two.
        single: The network has one value for two classes, of a sigmoid: the score of the second class. The logits of
            the two are 0 and the value's, since the softmax of these is its sigmoid.
    """

    values: Output = "logits"
    head: Head = "softmax"
    single: bool = False


LOGITS = OutputKind()


def to_logits(output: NDArray[np.float32], kind: OutputKind) -> NDArray[np.float32]:
    """Compute logits from a network's output.

    Args:
        output: (N, values) float32.
        kind: Of the values.

    Returns:
        (N, classes) float32. Of probabilities of a softmax, the logarithm, whose softmax they are; of those of a
        sigmoid, log(p / (1 - p)).
    """
    floor = np.float32(SMALLEST)
    if kind.values == "probabilities":
        positive = np.log(np.maximum(output, floor))
        sigmoid = kind.head == "sigmoid" or kind.single
        output = positive - np.log(np.maximum(1 - output, floor)) if sigmoid else positive
    if kind.single:
        output = np.concatenate([np.zeros_like(output), output], axis=1)
    return output


def to_scores(logits: NDArray[np.float32], head: Head) -> NDArray[np.float64]:
    """Compute the scores that the server responds with: (N, classes) logits to float64 in [0, 1]."""
    wide = logits.astype(np.float64)
    if head == "sigmoid":
        # Without an overflow for large negative numbers.
        scores: NDArray[np.float64] = np.exp(-np.logaddexp(0, -wide))
        return scores
    shifted = np.exp(wide - wide.max(axis=1, keepdims=True))
    total: NDArray[np.float64] = shifted.sum(axis=1, keepdims=True)
    return np.asarray(shifted / total)
