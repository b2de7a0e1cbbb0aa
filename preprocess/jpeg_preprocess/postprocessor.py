"""Logits to labels, for batches in which some images may have failed before."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpeg_preprocess.errors import ImageError
from jpeg_preprocess.together import run_together
from jpeg_preprocess.topk import softmax, top_k


@dataclass(frozen=True)
class Question:
    """What a request of N images asks.

    logits: (N, classes) float32. failures: N messages, empty for an image that came through the earlier stages. k: how
    many labels for each image, 1 to classes.
    """

    logits: NDArray[np.float32]
    failures: Sequence[bytes]
    k: int


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
        """Answer for one batch, as `Question` describes it.

        Raises ImageError("not_finite") if no image of the batch has finite logits or an earlier message, that
        is, if the classifier is broken and there is nothing to answer.
        """
        (answer,) = self.answer_all([Question(logits, failures, k)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def answer_all(self, questions: Sequence[Question | Exception]) -> list[Answer | Exception]:
        """Answer several requests; for each, in their order, what `__call__` returns or raises.

        questions: what is wrong with a request may stand in its place, and comes back.

        Those of the same k are computed together: for a single image, nearly all of the time is the price of a call.
        If that fails, each is computed alone: see `run_together`.
        """
        found: dict[int, Answer | Exception] = {}
        alike: dict[int, dict[int, Question]] = {}
        for number, question in enumerate(questions):
            if isinstance(question, Question):
                alike.setdefault(question.k, {})[number] = question
            else:
                found[number] = question
        for k, asked in alike.items():
            answers = run_together(functools.partial(self._of_same_k, k=k), list(asked.values()))
            found.update(zip(asked, answers, strict=True))
        return [found[number] for number in range(len(questions))]

    def _of_same_k(self, questions: Sequence[Question], k: int) -> list[Answer | Exception]:
        logits = np.concatenate([question.logits for question in questions])
        errors = np.array([message for question in questions for message in question.failures], dtype=object)
        failed = errors.astype(bool)
        broken = ~np.isfinite(logits).all(axis=-1) & ~failed
        unusable = broken | failed
        if unusable.any():
            logits = np.where(unusable[:, None], np.float32(0), logits)
        indices, scores = top_k(softmax(logits), k)
        labels = self._labels[indices]
        labels[unusable], scores[unusable], indices[unusable] = b"", np.nan, -1
        errors[broken] = NOT_FINITE.encode()
        answers: list[Answer | Exception] = []
        start = 0
        for question in questions:
            part = slice(start, start := start + len(question.failures))
            if unusable[part].all() and unusable[part].size:
                answers.append(ImageError("not_finite", NOT_FINITE))
            else:
                answers.append(Answer(labels[part], scores[part], indices[part], errors[part, None]))
        return answers


NOT_FINITE = "the classifier's output for this image is not finite"
