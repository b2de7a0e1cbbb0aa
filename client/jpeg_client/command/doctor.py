"""What a client reaches at an address, and what to do about what it does not."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from jpeg_contract.resources import PHOTOS

from jpeg_client.address import Address
from jpeg_client.client import Client
from jpeg_client.errors import JpegClientError, ProtocolMismatch, ServerUnavailable

_ROUND_TRIPS = 5
_CONNECT_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One step of the examination.

    Attributes:
        step: What was examined.
        ok: Whether it works.
        detail: What was found, or what is wrong and what to do.
        reason: Code of the error, or None.
    """

    step: str
    ok: bool
    detail: str
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def examine(client: Client, report: Callable[[Finding], None]) -> bool:
    """Examine a server, step by step, and stop at the first one that fails.

    Args:
        client: Without retries, so that the first error shows.
        report: Gets each finding.

    Returns:
        Whether all is well.
    """
    steps: list[tuple[str, Callable[[Client], str]]] = [
        ("address", _connect),
        ("server", _server),
        ("model", _describe),
        ("photo", _classify),
        ("round trip", _measure),
    ]
    for step, run in steps:
        try:
            finding = Finding(step, True, run(client))
        except JpegClientError as error:
            finding = Finding(step, False, str(error), error.reason)
        report(finding)
        if not finding.ok:
            return False
    return True


def _connect(client: Client) -> str:
    address = Address.parse(client.url)
    try:
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_S) as connection:
            peer = connection.getpeername()[0]
    except socket.gaierror as error:
        raise JpegClientError(
            f"the host name {address.host} is unknown ({error.strerror}): check it, or the name service",
            reason="unknown_host",
        ) from error
    except OSError as error:
        raise JpegClientError(
            f"nothing accepts connections at {address.host_and_port} ({error}): start the server, open its port, or "
            "correct the URL",
            reason="unreachable",
        ) from error
    return f"{address.host_and_port} accepts connections ({peer})"


def _server(client: Client) -> str:
    try:
        return f"Triton {client.server_version()}"
    except ServerUnavailable as error:
        address = Address.parse(client.url)
        if address.scheme == "grpc" and _speaks_http(address):
            raise ProtocolMismatch(
                f"the server at {address.host_and_port} speaks HTTP: write http://{address.host_and_port}, or the port "
                "of gRPC"
            ) from error
        raise


def _speaks_http(address: Address) -> bool:
    try:
        with socket.create_connection((address.host, address.port), timeout=_CONNECT_S) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
            return connection.recv(7) == b"HTTP/1."
    except OSError:
        return False


def _describe(client: Client) -> str:
    found = client.describe()
    precision = f" in {found.precision}" if found.precision else ""
    head = ", each label with a score of its own" if found.output == "sigmoid" else ""
    threshold = f", threshold {found.threshold:g}" if found.threshold else ""
    return (
        f"{found.name}, version {found.version}: {found.classifier} ({found.backend}{precision}), {found.classes} "
        f"classes{head}{threshold}, up to {found.max_batch_size} images per request"
    )


def _classify(client: Client) -> str:
    prediction = client.classify(_photo(), k=1, threshold=0)
    if prediction.error is not None:
        raise JpegClientError(f"a known photo is refused: {prediction.error}", reason=prediction.reason)
    return f'a photo of coffee is "{prediction.labels[0]}", {prediction.scores[0]:.3f}'


def _measure(client: Client) -> str:
    photo = _photo()
    trips = []
    for _ in range(_ROUND_TRIPS):
        begun = time.monotonic()
        prediction = client.classify(photo, k=1)
        trips.append(((time.monotonic() - begun) * 1e3, prediction.times))
    total, times = sorted(trips, key=lambda trip: trip[0])[_ROUND_TRIPS // 2]
    if times is None:
        return f"{total:.1f} ms, the median of {_ROUND_TRIPS}"
    steps = times.preprocess_ms + times.classify_ms + times.postprocess_ms
    return (
        f"{total:.1f} ms, the median of {_ROUND_TRIPS}: preprocess {times.preprocess_ms:.1f}, classify "
        f"{times.classify_ms:.1f}, postprocess {times.postprocess_ms:.1f}, network and the rest {total - steps:.1f}"
    )


def _photo() -> bytes:
    return (PHOTOS / "coffee.jpg").read_bytes()
