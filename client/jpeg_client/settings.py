"""The part that both kinds of clients share: their settings, checked."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping

from jpeg_contract.tensors import ENSEMBLE

from jpeg_client.address import Address
from jpeg_client.credentials import Credentials
from jpeg_client.defaults import DEFAULT_TIMEOUT_S, DEFAULT_URL
from jpeg_client.errors import InvalidArgument
from jpeg_client.packages import require_package
from jpeg_client.shrink import Shrinkers

MAX_TIMEOUT_S = 86_400


class ClientSettings(ABC):
    """The settings of a client; `Client` documents them.

    Attributes:
        url: Address of the server.
        timeout_s: Time limit per request in seconds.
        model: Name of the ensemble.
        retry: Whether requests are retried.
        shrink: Whether large photos are made smaller before they are sent.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        certificate_key: str | os.PathLike[str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        model: str = ENSEMBLE,
        retry: bool = True,
        send_deadline: bool = False,
        shrink: bool = False,
    ) -> None:
        self.url, self.timeout_s, self.model, self.retry = url, checked_timeout(timeout_s), model, retry
        self.shrink = shrink
        if shrink:
            require_package("PIL", "images")
        address = Address.parse(url)
        credentials = Credentials.checked(
            address,
            api_key=api_key,
            headers=headers,
            ca=ca,
            certificate=certificate,
            certificate_key=certificate_key,
        )
        self._batch_sizes: dict[str, int] = {}
        self._shrinkers = Shrinkers()
        self._sends_deadline = send_deadline
        self._open(address, credentials)

    @abstractmethod
    def _open(self, address: Address, credentials: Credentials) -> None:
        """Open the transport; nothing is sent."""

    def _timeout(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else checked_timeout(timeout_s)


def checked_timeout(timeout_s: float) -> float:
    """Return a time limit in seconds. Raises InvalidArgument."""
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise InvalidArgument(
            f"the timeout must be above 0 and at most {MAX_TIMEOUT_S} seconds, but is {timeout_s}",
            reason="invalid_timeout",
        )
    return timeout_s
