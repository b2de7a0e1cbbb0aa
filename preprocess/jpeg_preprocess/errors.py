"""Why one image gets no labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Reason = Literal[
    "empty",
    "too_many_bytes",
    "not_jpeg",
    "truncated",
    "too_many_pixels",
    "too_many_scans",
    "corrupt",
    "not_finite",
    "internal",
]

# An error travels in a gRPC trailer, which many proxies limit to 8 kB.
MAX_DESCRIBED_FAILURES = 16


class ImageError(ValueError):
    """One image cannot be answered.

    `reason` is the kind of failure, for metrics and programs. The message is for whoever sent the image: it
    never holds a path, an address or a traceback.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def describe_failures(errors: Sequence[ImageError]) -> str:
    """The message of a request in which no image could be answered: one line `image I: why` for each.

    `errors` are in the order of the images. After the first 16 a last line counts the rest.
    """
    lines = [f"image {index}: {error}" for index, error in enumerate(errors[:MAX_DESCRIBED_FAILURES])]
    if len(errors) > MAX_DESCRIBED_FAILURES:
        lines.append(f"and {len(errors) - MAX_DESCRIBED_FAILURES} more images")
    return "\n".join(lines)
