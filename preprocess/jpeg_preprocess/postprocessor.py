"""Logits to labels, for a batch in which some images may have failed before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpeg_preprocess.errors import ImageError
from jpeg_preprocess.topk import softmax, top_k


@dataclass(frozen=True)
class Answer:
    """What the ensemble answers for N images.

    labels: (N, k) object array of UTF-8 bytes, best first. scores: (N, k) float32 in [0, 1].
    indices: (N, k) int32. errors: (N, 1) object array of UTF-8 bytes, empty where there is no error.
    Where there is one, the image's labels are empty, its scores NaN and its indices -1.
    """

    labels: NDArray[Any]
    scores: NDArray[np.float32]
    indices: NDArray[np.int32]
    errors: NDArray[Any]


class Postprocessor:
    """Softmax, the k best classes, and their labels."""

    def __init__(self, labels: Sequence[str]) -> None:
        # dtype object: NumPy's bytes dtype would drop trailing zero bytes, and pads to the longest label.
        self._labels = np.array([label.encode() for label in labels], dtype=object)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self._labels)

    def __call__(self, logits: NDArray[np.float32], failures: Sequence[bytes], k: int) -> Answer:
        """Answer for a batch.

        logits: (N, classes) float32. failures: N messages, empty for an image that came through the earlier
        stages. k: 1 to classes.

        Raises ImageError("not_finite") if no image of the batch has finite logits or an earlier message, that
        is, if the classifier is broken and there is nothing to answer.
        """
        failed = np.array([bool(message) for message in failures])
        broken = ~np.isfinite(logits).all(axis=-1) & ~failed
        if broken.size and (broken | failed).all():
            raise ImageError("not_finite", NOT_FINITE)
        unusable = broken | failed
        usable_logits = np.where(unusable[:, None], np.float32(0), logits)
        indices, scores = top_k(softmax(usable_logits), k)
        labels = self._labels[indices]
        labels[unusable], scores[unusable], indices[unusable] = b"", np.nan, -1
        errors = np.array(list(failures), dtype=object).reshape(-1, 1)
        errors[broken] = NOT_FINITE.encode()
        return Answer(labels, scores, indices, errors)


NOT_FINITE = "the classifier's output for this image is not finite"
