"""Ports: free ones, and what to say of taken ones."""

from __future__ import annotations

import os
import socket

from jpeg_serve.errors import PortError

LOOPBACK = "127.0.0.1"


def reachable(address: str) -> str:
    """An address to connect to, for one to listen on."""
    return LOOPBACK if address in ("0.0.0.0", "::") else address  # noqa: S104  # compared, not bound


def free_port(address: str) -> int:
    """A TCP port that is free on `address` at this moment."""
    with socket.create_server((address, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def require_free(address: str, port: int, option: str) -> None:
    """Raises PortError if something listens on the port, or if it may not be used; `option` changes it."""
    try:
        # SO_REUSEADDR, which create_server sets, allows for connections that are still closing, as Triton does.
        with socket.create_server((address, port)):
            pass
    except OSError as error:
        # Python's own text names the address again.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise PortError(
            f"port {port} on {address} cannot be used ({reason}): choose another with {option} PORT, "
            f"or a free one with {option} 0"
        ) from error
