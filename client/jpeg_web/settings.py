"""The settings of the application."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jpeg_client.address import Address
from jpeg_client.defaults import DEFAULT_TIMEOUT_S, DEFAULT_URL
from jpeg_client.errors import InvalidArgument
from jpeg_contract.tensors import ENSEMBLE

DEFAULT_METRICS_PORT = 8002


@dataclass(frozen=True)
class Settings:
    """What the application serves, and how.

    Attributes:
        url: Triton, as `jpeg_client` takes it: grpc://HOST:PORT, http://HOST:PORT, or with TLS grpcs:// or https://.
        metrics_url: Triton's metrics, http://HOST:PORT/metrics; empty for none: `GET /stats` then returns nulls. None
            takes port 8002 of the host in `url`, and none for a gateway (TLS), which has no metrics.
        api_key: API key for a gateway in front of Triton.
        ca: PEM file with the trusted certificates, for TLS.
        models: Names of the ensembles; the first one is the default.
        cors: Origins whose pages may call the application, as `https://example.org`; `*` for all.
        timeout_s: Time limit for the classification of one request, in seconds.
        max_request_mib: Longest body of a request, in MiB.
        max_held_mib: Most MiB that the bodies of all open requests may have together; a request beyond gets 503.
        receive_timeout_s: Longest pause between two parts of a body, in seconds.
    """

    url: str = DEFAULT_URL
    metrics_url: str | None = None
    api_key: str | None = None
    ca: Path | None = None
    models: tuple[str, ...] = (ENSEMBLE,)
    cors: tuple[str, ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_request_mib: float = 48.0
    max_held_mib: float = 512.0
    receive_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        address = Address.parse(self.url)
        if not self.models:
            raise InvalidArgument("at least one model is required", reason="no_model")
        for origin in self.cors:
            _check_origin(origin)
        if self.metrics_url is None:
            host = f"[{address.host}]" if ":" in address.host else address.host
            default = "" if address.tls else f"http://{host}:{DEFAULT_METRICS_PORT}/metrics"
            object.__setattr__(self, "metrics_url", default)
        elif self.metrics_url:
            _check_metrics_url(self.metrics_url)

    @property
    def max_request_bytes(self) -> int:
        """Longest body of a request, in bytes."""
        return int(self.max_request_mib * 2**20)

    @property
    def max_held_bytes(self) -> int:
        """Most bytes that the bodies of all open requests may have together; at least one longest body."""
        return max(int(self.max_held_mib * 2**20), self.max_request_bytes)


def _check_metrics_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "http" and parts.hostname and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgument("invalid metrics URL: write http://HOST:PORT/metrics", reason="invalid_metrics_url")


def _check_origin(origin: str) -> None:
    """Refuse an origin that no browser sends: a typing error would otherwise only show as a blocked page."""
    try:
        parts = urlsplit(origin)
        valid = origin == "*" or (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and origin == f"{parts.scheme}://{parts.netloc}"
            and (parts.port is None or parts.port > 0)
            and "@" not in origin
        )
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgument(
            f"invalid origin {origin!r}: write SCHEME://HOST[:PORT] without a path, as https://example.org, or *",
            reason="invalid_origin",
        )
