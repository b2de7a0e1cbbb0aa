"""What the clients expect of a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from jpeg_client.responses import EnsembleOutputs
from jpeg_client.top_k import TopK


class Transport(Protocol):
    """Connections to one server address, shared by threads."""

    sends_deadline: bool
    """Whether requests carry the time after which nobody waits for them, by this machine's clock."""

    def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """Return the config of a model, as in model_config.proto."""
        ...

    def metadata(self, model: str | None, timeout_s: float) -> dict[str, Any]:
        """Return the metadata of a model, or of the server with None: names and versions."""
        ...

    def infer(self, model: str, images: Sequence[bytes], top_k: TopK, timeout_s: float) -> EnsembleOutputs:
        """Classify one batch in one attempt.

        Args:
            model: Name of the ensemble.
            images: Encoded JPEGs, at most as many as the model's config allows.
            top_k: Which labels of each.
            timeout_s: Time limit in seconds.

        Raises:
            JpegClientError: The request fails, or the response does not fit it.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class AsyncTransport(Protocol):
    """Connections to one server address, shared by the tasks of an event loop; see `Transport`."""

    sends_deadline: bool

    async def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        ...

    async def metadata(self, model: str | None, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        ...

    async def infer(self, model: str, images: Sequence[bytes], top_k: TopK, timeout_s: float) -> EnsembleOutputs:
        """See Transport."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
