"""The result for one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepTimes:
    """Time of the steps in the server for one image, in milliseconds.

    Attributes:
        preprocess_ms: From the start of preprocess to its end: decoding of the image and of those in its batch.
        classify_ms: From there to the start of postprocess, with the queue of the classifier.
        postprocess_ms: The labels of its batch.
    """

    preprocess_ms: float
    classify_ms: float
    postprocess_ms: float


@dataclass(frozen=True)
class Prediction:
    """The k best classes of one image, best first, or the cause of its failure.

    Attributes:
        labels: Class names: k of them, or fewer if the scores of others are below the threshold.
        scores: Of each label, in [0, 1]: probabilities that sum to 1 over all classes (softmax), or each by itself
            (sigmoid).
        indices: Class numbers.
        error: Cause of the failure; None on success. Otherwise labels, scores and indices are empty.
        reason: Its stable code, such as "truncated"; None on success, and from a server that sends none.
        times: Time of the steps in the server, which comparisons ignore; None for a failure, and from a server that
            does not measure them.
        others: Of a model over several networks (`jpeg-build combine`), the predictions of the others, by their names.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    indices: tuple[int, ...]
    error: str | None = None
    reason: str | None = None
    times: StepTimes | None = field(default=None, compare=False)
    others: Mapping[str, Prediction] = field(default_factory=dict, hash=False)

    @classmethod
    def failed(cls, error: str, reason: str | None) -> Prediction:
        """Return the prediction of an image without labels."""
        return cls((), (), (), error=error, reason=reason)


@dataclass(frozen=True)
class Classified:
    """One result of a stream.

    Attributes:
        index: Position of the image in the input, from 0.
        image: The image as it was given.
        prediction: Its labels, or its error.
    """

    index: int
    image: Any
    prediction: Prediction
