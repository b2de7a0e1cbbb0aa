"""TCP ports: free ones, and the error for taken ones."""

from __future__ import annotations

import ipaddress
import os
import socket

from jpeg_serve.errors import PortError

LOOPBACK = "127.0.0.1"


def reachable(address: str) -> str:
    """Return an address to connect to, for one to listen on; IPv6 in brackets, as in HOST:PORT."""
    if address == "0.0.0.0":  # noqa: S104  # compared, not bound
        return LOOPBACK
    return "[::1]" if address == "::" else in_brackets(address)


def in_brackets(address: str) -> str:
    """Return an address as HOST:PORT needs it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches a server that listens on an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def free_port(address: str) -> int:
    """Return a TCP port that is free on `address` at this moment."""
    with listen(address, 0) as listener:
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
        with listen(address, port):
            pass
    except OSError as error:
        # Python's own text names the address again.
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise PortError(
            f"port {port} on {address} cannot be used ({cause}): choose another with {option} PORT, or a free one with "
            f"{option} 0"
        ) from error


def listen(address: str, port: int) -> socket.socket:
    """Listen on a TCP port of an IPv4 or IPv6 address; 0 takes a free one.

    SO_REUSEADDR, which create_server sets, allows for connections that are still closing, as Triton does.
    """
    return socket.create_server((address, port), family=family(address))


def family(address: str) -> socket.AddressFamily:
    """Return the address family of an IP address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET
