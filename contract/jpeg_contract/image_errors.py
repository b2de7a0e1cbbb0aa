"""Why one image gets no labels: the reason codes that preprocess, postprocess, metrics and clients share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jpeg_contract.errors import ReasonedError

Reason = Literal[
    "empty",
    "too_many_bytes",
    "not_jpeg",
    "invalid_base64",
    "truncated",
    "too_many_pixels",
    "too_many_scans",
    "too_much_work",
    "too_much_memory",
    "corrupt",
    "unsupported",
    "not_finite",
    "internal",
]

# An error travels in a gRPC trailer, which many proxies limit to 8 kB.
MAX_DESCRIBED_FAILURES = 16


class ImageError(ReasonedError, ValueError):
    """One image cannot be answered.

    The message goes to the sender of the image: it never holds a path, an address or a traceback.

    Args:
        reason: The kind of failure, for metrics and programs.
        message: The fault.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason

    def with_code(self) -> str:
        """Return the message and the reason code, as clients get them."""
        return f"{self} [{self.reason}]"


def describe_failures(errors: Sequence[ImageError]) -> str:
    """Describe a request in which no image could be answered, one line `image I: why` for each image.

    Args:
        errors: In the order of the images. After the first 16 a last line counts the rest.
    """
    lines = [f"image {index}: {error.with_code()}" for index, error in enumerate(errors[:MAX_DESCRIBED_FAILURES])]
    if len(errors) > MAX_DESCRIBED_FAILURES:
        lines.append(f"and {len(errors) - MAX_DESCRIBED_FAILURES} more images")
    return "\n".join(lines)
