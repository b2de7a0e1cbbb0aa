"""TCP ports: free ones, and the error for taken ones."""

from __future__ import annotations

import os
import socket

from jpeg_serve.errors import PortError

LOOPBACK = "127.0.0.1"


def reachable(address: str) -> str:
    """Return an address to connect to, for one to listen on."""
    return LOOPBACK if address in ("0.0.0.0", "::") else address  # noqa: S104  # compared, not bound


def free_port(address: str) -> int:
    """Return a TCP port that is free on `address` at this moment."""
    with socket.create_server((address, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def require_free(address: str, port: int, option: str) -> None:
    """Make sure that a port can be used.

    Args:
        address: IP address to listen on.
        port: The port.
        option: The command-line option that changes it.

    Raises:
        PortError: Another program listens on the port, or this user may not.
    """
    try:
        # SO_REUSEADDR, which create_server sets, allows for connections that are still closing, as Triton does.
        with socket.create_server((address, port)):
            pass
    except OSError as error:
        # Python's own text names the address again.
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise PortError(
            f"port {port} on {address} cannot be used ({cause}): choose another with {option} PORT, or a free one with "
            f"{option} 0"
        ) from error
