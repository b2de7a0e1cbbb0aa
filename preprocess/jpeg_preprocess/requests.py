"""A batch of requests with several images each: to pixels, or to the reason why a request is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jpeg_contract.checksum import checksum
from jpeg_contract.image_errors import ImageError, describe_failures
from numpy.typing import NDArray

from jpeg_preprocess.admission import DecodeLater, RequestTooLong
from jpeg_preprocess.base64_text import unwrap
from jpeg_preprocess.device_preprocessor import DevicePreprocessor
from jpeg_preprocess.preprocessor import Decoded, Preprocessor


@dataclass(frozen=True)
class Refused:
    """A request that gets an error.

    Attributes:
        message: For its client.
        status: Name of Triton's error code.
        reason: For the metrics.
    """

    message: str
    status: Literal["INVALID_ARG", "UNAVAILABLE", "INTERNAL"]
    reason: Literal["no_usable_image", "bad_shape", "too_long", "internal", "busy", "late"]


@dataclass(frozen=True)
class Preprocessed:
    """A request of N images that goes on to the classifier.

    Attributes:
        pixels: NHWC uint8, RGB, [0, 255], in host memory or on a GPU.
        errors: (N, 1) object array of UTF-8 bytes, empty for a decoded image.
        checksums: (N, 1) uint32.
    """

    pixels: NDArray[np.uint8]
    errors: NDArray[Any]
    checksums: NDArray[np.uint32]


@dataclass(frozen=True)
class PreprocessedBatch:
    """What became of a batch.

    Attributes:
        outcomes: Of each request.
        images: That were decoded, of all requests, as they were sent.
        decoded: Of these.
    """

    outcomes: list[Refused | Preprocessed]
    images: list[bytes]
    decoded: Decoded


def preprocess_requests(
    preprocessor: Preprocessor | DevicePreprocessor,
    requests: Sequence[list[bytes] | Refused],
    may_be_large: Callable[[], bool],
) -> PreprocessedBatch:
    """Decode the images of those requests that are admitted, all together.

    Args:
        preprocessor: Decodes.
        requests: The images of each, or why it is refused already.
        may_be_large: See `admission.admit`.
    """
    limits, formats = preprocessor.settings.limits, preprocessor.settings.formats
    unwrapped = [
        [] if isinstance(request, Refused) else [unwrap(image, limits, formats) for image in request]
        for request in requests
    ]
    verdicts = preprocessor.admit(unwrapped, may_be_large)
    admitted = [
        request if verdict is None else _refused(verdict) for request, verdict in zip(requests, verdicts, strict=True)
    ]
    images = [image for each in admitted if not isinstance(each, Refused) for image in each]
    taken = zip(unwrapped, admitted, strict=True)
    decoded = preprocessor.decode([image for each, made in taken if not isinstance(made, Refused) for image in each])
    sizes = [len(each) for each in admitted if not isinstance(each, Refused)]
    pixels, errors = iter(preprocessor.for_requests(decoded.pixels, sizes)), iter(decoded.errors)
    outcomes = [
        each if isinstance(each, Refused) else _outcome(each, next(pixels), list(itertools.islice(errors, len(each))))
        for each in admitted
    ]
    return PreprocessedBatch(outcomes, images, decoded)


def _refused(verdict: RequestTooLong | DecodeLater) -> Refused:
    if isinstance(verdict, RequestTooLong):
        return Refused(str(verdict), "INVALID_ARG", "too_long")
    return Refused(str(verdict), "UNAVAILABLE", "busy")


def _outcome(
    images: Sequence[bytes], pixels: NDArray[np.uint8], errors: Sequence[ImageError | None]
) -> Refused | Preprocessed:
    failures = [error for error in errors if error is not None]
    if len(failures) == len(errors):
        # No image of this request can be answered. Only an error of the request reaches the client as HTTP 400.
        internal = any(error.reason == "internal" for error in failures)
        return Refused(describe_failures(failures), "INTERNAL" if internal else "INVALID_ARG", "no_usable_image")
    messages = [[b"" if error is None else error.with_code().encode()] for error in errors]
    checksums = np.array([[checksum(image)] for image in images], np.uint32)
    return Preprocessed(pixels, np.array(messages, dtype=object), checksums)
