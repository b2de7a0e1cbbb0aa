"""The server to measure: started for the measurement, or already running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from jpeg_contract.errors import ReasonedError
from jpeg_contract.tensors import ENSEMBLE

from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.load import Protocol
from jpeg_bench.process_usage import read_usage

# Between readiness and the measurement of the idle memory.
_IDLE_S = 1.0


@dataclass(frozen=True)
class TargetServer:
    """A server.

    Attributes:
        addresses: HOST:PORT by protocol.
        model: Name of the ensemble.
        pid: Process ID of tritonserver; None if it runs on another machine or is unknown.
        start_s: Seconds from the start of the process to readiness; None if it was running already.
        idle: Memory of its processes before the first request (`Usage.memory`); None if it was running already.
    """

    addresses: dict[Protocol, str]
    model: str = ENSEMBLE
    pid: int | None = None
    start_s: float | None = None
    idle: dict[str, Any] | None = None

    def address(self, protocol: Protocol) -> str:
        """Return the address for a protocol. Raises InvalidOption if it is unknown."""
        if protocol not in self.addresses:
            raise InvalidOption(
                f"the server's address for {protocol} is unknown: set --url {protocol}://HOST:PORT",
                reason="address_unknown",
            )
        return self.addresses[protocol]


@contextmanager
def start_server(repository: Path, model: str = ENSEMBLE, *, max_waiting: int = 0) -> Iterator[TargetServer]:
    """Run a tritonserver on free ports until the block ends.

    Args:
        repository: Model repository.
        model: Name of the ensemble.
        max_waiting: See `ServerOptions`.

    Raises:
        BenchError: The server does not start.
    """
    from jpeg_serve import ServeError, ServerOptions, TritonServer

    # If the server fails, the error has the relevant lines of its log.
    with TemporaryFile() as log:
        options = ServerOptions(repository, http_port=0, grpc_port=0, metrics_port=0, max_waiting=max_waiting)
        server = TritonServer(options, log=log)
        try:
            try:
                begin = time.monotonic()
                server.start()
                server.wait_until_ready()
                start_s = time.monotonic() - begin
            except ServeError as error:
                reason = error.reason if isinstance(error, ReasonedError) else "server_failed"
                raise BenchError(str(error), reason=reason) from error
            time.sleep(_IDLE_S)
            yield TargetServer(
                addresses={"grpc": server.grpc_address, "http": server.http_address},
                model=model,
                pid=server.pid,
                start_s=round(start_s, 2),
                idle=read_usage(server.pid).memory(),
            )
        finally:
            server.stop()


def find_server(url: str, model: str = ENSEMBLE) -> TargetServer:
    """Return a running server.

    Args:
        url: grpc://HOST:PORT or http://HOST:PORT.
        model: Name of the ensemble.

    Raises:
        InvalidOption: The URL uses TLS.
        jpeg_client.errors.InvalidArgument: The URL is malformed.
    """
    from jpeg_client.address import Address
    from jpeg_serve.state import find_running

    address = Address.parse(url)
    if address.tls:
        raise InvalidOption(
            f"{url}: the load generator does not support TLS; measure the server behind the gateway",
            reason="tls_unsupported",
        )
    protocol: Protocol = "grpc" if address.scheme == "grpc" else "http"
    # The state file of a local server has its process ID and its other address.
    for _, running in find_running() if address.is_this_machine else ():
        if running.holds(address.port):
            addresses: dict[Protocol, str] = {"grpc": running.grpc_address, "http": running.http_address}
            return TargetServer({**addresses, protocol: address.host_and_port}, model, running.pid)
    return TargetServer({protocol: address.host_and_port}, model)
