"""Logits to labels, for batches in which some images failed in an earlier stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import Head
from numpy.typing import NDArray

from jpeg_postprocess.topk import best

_NOT_FINITE = "the classifier's output for this image is not finite"


@dataclass(frozen=True)
class TopKRequest:
    """One request of N images.

    Attributes:
        logits: (N, classes) float32.
        decode_errors: N messages as UTF-8 bytes, empty for an image that the earlier stages decoded.
        k: How many labels for each image, 1 to classes.
        threshold: Labels with a lower score are left out, 0 to 1.
    """

    logits: NDArray[np.float32]
    decode_errors: Sequence[bytes]
    k: int
    threshold: float = 0.0


@dataclass(frozen=True)
class TopKResponse:
    """The response of the ensemble for N images.

    The labels of an image with an error are empty, its scores NaN, and its indices -1. What a threshold leaves out, at
    the end of the row, has an empty label, the score 0 and the index -1. An image of which nothing is left has no
    error.

    Attributes:
        labels: (N, k) object array of UTF-8 bytes, best first.
        scores: (N, k) float32 in [0, 1].
        indices: (N, k) int32.
        errors: (N, 1) object array of UTF-8 bytes, empty where there is no error.
    """

    labels: NDArray[Any]
    scores: NDArray[np.float32]
    indices: NDArray[np.int32]
    errors: NDArray[Any]


class Postprocessor:
    """Scores, the k best classes, and their labels.

    Args:
        labels: Names of the classes, in their order.
        head: How logits become scores.
    """

    def __init__(self, labels: Sequence[str], head: Head = "softmax") -> None:
        self._head: Head = head
        # dtype object: NumPy's bytes dtype would drop trailing zero bytes, and pads to the longest label.
        self._labels = np.array([label.encode() for label in labels], dtype=object)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self._labels)

    def __call__(self, request: TopKRequest) -> TopKResponse:
        """Compute the response of one request.

        Raises:
            ImageError: With reason "not_finite": no image of the request has finite logits or an earlier message. The
                classifier is broken, and there is nothing to answer.
        """
        (response,) = self.run([request])
        if isinstance(response, ImageError):
            raise response
        return response

    def run(self, requests: Sequence[TopKRequest]) -> list[TopKResponse | ImageError]:
        """Compute several requests; those with the same k together, since the price is nearly all per call.

        Returns:
            For each request, in their order, what `__call__` returns or raises.
        """
        found: dict[int, TopKResponse | ImageError] = {}
        by_k: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            by_k.setdefault(request.k, []).append(place)
        for k, places in by_k.items():
            found.update(zip(places, self._run_same_k([requests[place] for place in places], k), strict=True))
        return [found[place] for place in range(len(requests))]

    def _run_same_k(self, requests: Sequence[TopKRequest], k: int) -> list[TopKResponse | ImageError]:
        logits = np.concatenate([request.logits for request in requests])
        errors = np.array([message for request in requests for message in request.decode_errors], dtype=object)
        undecoded = errors.astype(bool)
        broken = ~np.isfinite(logits).all(axis=-1) & ~undecoded
        unusable = broken | undecoded
        if unusable.any():
            logits = np.where(unusable[:, None], np.float32(0), logits)
        indices, scores = best(logits, k, self._head)
        labels = self._labels[indices]
        # As float32, so that a score which a client has read passes itself as a threshold.
        thresholds = np.repeat(
            np.array([request.threshold for request in requests], np.float32),
            [len(request.decode_errors) for request in requests],
        )
        left_out = scores < thresholds[:, None]
        # Not NaN, which JSON cannot hold: a threshold leaves labels out of most responses.
        labels[left_out], scores[left_out], indices[left_out] = b"", 0, -1
        labels[unusable], scores[unusable], indices[unusable] = b"", np.nan, -1
        errors[broken] = _not_finite().with_code().encode()
        responses: list[TopKResponse | ImageError] = []
        start = 0
        for request in requests:
            rows = slice(start, start := start + len(request.decode_errors))
            if unusable[rows].all() and unusable[rows].size:
                responses.append(_not_finite())
            else:
                responses.append(TopKResponse(labels[rows], scores[rows], indices[rows], errors[rows, None]))
        return responses


def _not_finite() -> ImageError:
    return ImageError("not_finite", _NOT_FINITE)
