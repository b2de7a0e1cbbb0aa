"""What the client expects of a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jpeg_client.responses import EnsembleOutputs


class Transport(Protocol):
    """Connections to one server address, shared by threads."""

    sends_deadline: bool
    """Whether requests carry the time after which nobody waits for them, by this machine's clock."""

    def max_batch_size(self, model: str, timeout_s: float) -> int:
        """Return the largest number of images per request."""
        ...

    def infer(self, model: str, images: Sequence[bytes], k: int | None, timeout_s: float) -> EnsembleOutputs:
        """Classify one batch in one attempt.

        Args:
            model: Name of the ensemble.
            images: Encoded JPEGs, at most `max_batch_size`.
            k: Labels per image; None takes the server's default.
            timeout_s: Time limit in seconds.

        Raises:
            JpegClientError: The request fails, or the response does not fit it.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...
