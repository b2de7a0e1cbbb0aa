"""The server that is measured: one of our own, or one that runs already."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from jpeg_bench.asks import Protocol
from jpeg_bench.errors import BenchError
from jpeg_bench.ours import MODEL
from jpeg_bench.proc import snapshot

# After it is ready, until its memory counts as that of an idle server.
_SETTLE_S = 1.0


@dataclass(frozen=True)
class Target:
    """A server. addresses: HOST:PORT by protocol. pid: None if it does not run on this machine, or is not found.

    start_s: from the start of the process to readiness. idle: its memory then, before the first request.
    """

    addresses: dict[Protocol, str]
    model: str = MODEL
    pid: int | None = None
    start_s: float | None = None
    idle: dict[str, Any] | None = None

    def address(self, protocol: Protocol) -> str:
        """Raises BenchError if it has none."""
        if protocol not in self.addresses:
            raise BenchError(f"the server's address for {protocol} is not known: give --url {protocol}://HOST:PORT")
        return self.addresses[protocol]


@contextmanager
def own_server(repository: Path, model: str = MODEL) -> Iterator[Target]:
    """A tritonserver on free ports, for as long as the block takes. Raises BenchError if it does not start."""
    from jpeg_serve import ServeError, ServerOptions, TritonServer

    # Its log is of no interest unless it fails, and then the error has the words that count.
    with TemporaryFile() as log:
        server = TritonServer(ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0), log=log)
        try:
            try:
                begun = time.monotonic()
                server.start()
                server.wait_until_ready()
                start_s = time.monotonic() - begun
            except ServeError as error:
                raise BenchError(str(error)) from error
            time.sleep(_SETTLE_S)
            yield Target(
                {"grpc": server.grpc_address, "http": server.http_address},
                model,
                server.pid,
                round(start_s, 2),
                snapshot(server.pid).memory(),
            )
        finally:
            server.stop()


def running_server(url: str, model: str = MODEL) -> Target:
    """A server that runs, here or elsewhere. Raises ValueError for what is no address, or one with TLS."""
    from jpeg_client.address import Address
    from jpeg_serve.state import find_running

    address = Address.parse(url)
    if address.tls:
        raise ValueError(f"{url}: the load generators speak no TLS; measure behind the gateway, or with its port open")
    protocol: Protocol = "grpc" if address.scheme == "grpc" else "http"
    # A server of this project that runs here says where else it listens, and which process it is.
    for _, running in find_running() if address.is_this_machine else ():
        if running.holds(address.port):
            addresses: dict[Protocol, str] = {"grpc": running.grpc_address, "http": running.http_address}
            return Target({**addresses, protocol: address.host_and_port}, model, running.pid)
    return Target({protocol: address.host_and_port}, model)
