"""Whether a Triton may listen beyond this machine: releases in which one request ends the server may not."""

from __future__ import annotations

import os

from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.locate import EMBEDDED_VERSION, Installation
from jpeg_serve.ports import is_loopback

# Of release 26.07: the oldest in which SECURITY.md knows of no request that ends the server.
SAFE_VERSION = (2, 71)

# NVIDIA's images state the version here.
_VARIABLE = "TRITON_SERVER_VERSION"


def require_shelter(address: str, installation: Installation, *, behind_gateway: bool) -> None:
    """Refuse to listen beyond loopback on a Triton that a single request can end.

    Args:
        address: IP address to listen on.
        installation: The tritonserver.
        behind_gateway: Whether the user states that only a gateway reaches the server.

    Raises:
        PrerequisiteError: With reason "known_killers".
    """
    if behind_gateway or is_loopback(address):
        return
    version = triton_version(installation)
    if version is not None and version >= SAFE_VERSION:
        return
    name = "of unknown version" if version is None else ".".join(map(str, version))
    raise PrerequisiteError(
        f"--address {address} would let other machines reach Triton {name}, which a single request can end (see "
        "SECURITY.md): put the gateway of deploy/gateway in front and add --behind-gateway, which states that only a "
        "gateway, or a port published on 127.0.0.1, reaches this server",
        reason="known_killers",
    )


def triton_version(installation: Installation) -> tuple[int, ...] | None:
    """Return the version of a tritonserver, None if it is unknown."""
    text = EMBEDDED_VERSION if installation.is_embedded else os.environ.get(_VARIABLE, "")
    try:
        return tuple(int(part) for part in text.split(".")[:2]) or None
    except ValueError:
        return None
