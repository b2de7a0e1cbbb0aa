"""HTTP connections to one certain server among those that share a port."""

from __future__ import annotations

import contextlib
import http.client
import json
import time

# For the question who responds, which takes less than a millisecond unless the server hangs.
_NAME_TIMEOUT_S = 1.0
_PAUSE_S = 0.02


class WrongServer(OSError):
    """Another server responded each time, or none."""


def connect(address: str, server_id: str, timeout_s: float) -> http.client.HTTPConnection:
    """Open an HTTP connection to the server with a certain id.

    The kernel spreads connections to a shared port over its servers, so this connects until the right one responds.

    Args:
        address: HOST:PORT, IPv6 in brackets.
        server_id: Triton's option `--id`; empty takes any server.
        timeout_s: Time limit for this search, and then for each response, in seconds.

    Raises:
        OSError: No server responds.
        WrongServer: The server did not respond within the limit.
    """
    host, _, port = address.rpartition(":")
    limit = time.monotonic() + timeout_s
    while True:
        wait_s = min(_NAME_TIMEOUT_S, timeout_s) if server_id else timeout_s
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=wait_s)
        try:
            connection.connect()
            if not server_id or _name(connection) in (server_id, None):
                connection.timeout = timeout_s
                if connection.sock is not None:
                    connection.sock.settimeout(timeout_s)
                return connection
        except (TimeoutError, http.client.HTTPException):
            pass  # one of the servers hangs, or ends at this moment
        except BaseException:
            connection.close()
            raise
        connection.close()
        time.sleep(_PAUSE_S)
        if time.monotonic() > limit:
            raise WrongServer(f"server {server_id} did not respond on {address} within {timeout_s:g} s")


def _name(connection: http.client.HTTPConnection) -> str | None:
    """Return the id of the server that responds; None if it may not be read."""
    connection.request("GET", "/v2")
    response = connection.getresponse()
    content = response.read()
    if response.status != http.client.OK:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(content)["name"])
    return None
