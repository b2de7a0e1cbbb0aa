"""TLS for the clients of the tests."""

from __future__ import annotations

import ssl
from pathlib import Path


class _ClosedAfterReset(ssl.SSLSocket):
    """A socket that closes itself if the connection is reset before TLS begins.

    `SSLContext.wrap_socket` of Python 3.11 loses such a socket: it takes the file descriptor, calls `recv` because
    the connection has no peer any more, and does not close what it took when that raises.
    """

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ConnectionError:
            self.close()
            raise


def trusting(certificate: Path) -> ssl.SSLContext:
    """Return a context that trusts one certificate and no other."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.sslsocket_class = _ClosedAfterReset
    return context
