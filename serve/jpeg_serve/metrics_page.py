"""The metrics of all servers of one `jpeg-serve`, and its own, at one address."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from jpeg_serve import ports
from jpeg_serve.triton_metrics import merge, read_metrics, with_histograms

if TYPE_CHECKING:
    from jpeg_serve.supervisor import Keeper

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPage:
    """Serves /metrics in a thread of its own, from `start` to `stop`.

    Args:
        address: IP address to listen on.
        port: Port to listen on.
        keepers: Of the servers.
    """

    def __init__(self, address: str, port: int, keepers: Sequence[Keeper]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] == "/metrics"
                content = render(keepers).encode() if found else b""
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", _TYPE)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it
                """Log nothing: a scrape is no event."""

        class Server(ThreadingHTTPServer):
            address_family = ports.family(address)
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Log nothing: the client has gone."""

        self._server = Server((address, port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics-page", daemon=True)

    def start(self) -> None:
        """Start to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and close the port."""
        self._server.shutdown()
        self._server.server_close()


def render(keepers: Sequence[Keeper]) -> str:
    """Return the metrics of all servers that respond, and how often each was replaced.

    Those of several have the label `server`.
    """
    texts: dict[str, str] = {}
    up: dict[int, bool] = {}
    for keeper in keepers:
        server = keeper.server
        up[keeper.number] = keeper.is_ready
        if server is not None:
            with contextlib.suppress(OSError):  # it is starting, or its metrics are switched off
                texts[str(keeper.number)] = with_histograms(read_metrics(server.metrics_address))
    theirs = merge(texts) if len(keepers) > 1 else "".join(texts.values())
    own = [
        "# HELP jpeg_server_up Whether the server serves",
        "# TYPE jpeg_server_up gauge",
        *(f'jpeg_server_up{{server="{number}"}} {int(is_up)}' for number, is_up in up.items()),
        "# HELP jpeg_server_replaced_total How often the server was replaced, by the reason",
        "# TYPE jpeg_server_replaced_total counter",
        *(
            f'jpeg_server_replaced_total{{server="{keeper.number}",reason="{reason}"}} {number}'
            for keeper in keepers
            for reason, number in sorted(keeper.restarts.items())
        ),
    ]
    return theirs + "".join(f"{line}\n" for line in own)
