"""The part that the clients share whose calls block."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from jpeg_client.retries import MAX_LOST, call_with_retries
from jpeg_client.settings import ClientSettings
from jpeg_client.transport import Transport

_Client = TypeVar("_Client", bound="BlockingClient")
_Response = TypeVar("_Response")


class BlockingClient(ClientSettings):
    """Settings, retries, and the end of a `with` block."""

    _transport: Transport

    def __enter__(self: _Client) -> _Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def _config(self, model: str, timeout_s: float) -> dict[str, Any]:
        return self._call(lambda left_s: self._transport.config(model, left_s), timeout_s)

    def _call(self, request: Callable[[float], _Response], timeout_s: float, max_lost: int = MAX_LOST) -> _Response:
        """Send a request, with the retries of `jpeg_client.retries`. request: takes a time limit in seconds."""
        return call_with_retries(request, timeout_s, max_lost) if self.retry else request(timeout_s)
