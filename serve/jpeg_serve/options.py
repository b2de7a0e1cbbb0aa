"""The options of a server, as the library and the command line take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from jpeg_contract.command_line import Parameter, port, positive
from jpeg_contract.remedies import DEFAULT_REPOSITORY

from jpeg_serve.logs import LogFormat
from jpeg_serve.machine import ServedWith
from jpeg_serve.ports import LOOPBACK
from jpeg_serve.tracing import collector_url


def natural(_kind: Any, value: Any) -> None:
    """Validate a number for cyclopts: refuse one below 0."""
    if value < 0:
        raise ValueError(f"{value} is below 0")


def _collector(_kind: Any, value: str) -> None:
    if value:
        collector_url(value)


@dataclass(frozen=True)
class LoadOptions:
    """The models to load, and how.

    Attributes:
        model_repository: Folder of the models.
        load: Name of a model to load, can be repeated; by default the ensembles and, through them, their steps.
        backends: Folder of Python-based backends; by default `backends` beside the model repository, else this
            project's own.
        serve_with: Which backend serves, by the backend's name; otherwise each classifier form decides.
        ready_timeout_s: Time limit for the models to load, in seconds.
    """

    model_repository: Path = DEFAULT_REPOSITORY
    load: Annotated[Sequence[str], Parameter(name="--load-model", show_default=False)] = ()
    backends: Path | None = None
    serve_with: Annotated[Mapping[str, ServedWith], Parameter(parse=False)] = field(default_factory=dict)
    ready_timeout_s: Annotated[float, Parameter(validator=positive)] = 300.0


@dataclass(frozen=True)
class ServerOptions(LoadOptions):
    """The models to serve, and where.

    Attributes:
        http_port: HTTP port; 0 takes a free one.
        grpc_port: gRPC port; 0 takes a free one.
        metrics_port: Port of the Prometheus metrics; 0 takes a free one.
        address: IP address that all three ports listen on; beyond 127.0.0.1, put a gateway in front.
        drain_s: Time limit for open requests once the server stops, in seconds.
        trace_to: OpenTelemetry collector that receives traces, as http://HOST:4318 (OTLP over HTTP); empty for none.
        trace_rate: Trace every N-th request. A request with the header traceparent is always traced; with 0, only
            those are.
        max_waiting: How many requests may wait in front of the first step of a server; more are refused. 0 is 128, or
            what the server begins in one second if that is more.
        behind_gateway: State that only a gateway, or a port published on 127.0.0.1, reaches this server: a single
            request can end a Triton before 26.07, which listens beyond loopback only with this.
        shared_memory_key_file: File with the key that opens shared memory to clients of this machine, for those that
            send pixels; by default the key of management does.
        log_format: Of the lines on stderr: text, or json with one object a line.
        triton: Further options of tritonserver; they come last and win.
    """

    http_port: Annotated[int, Parameter(validator=port)] = 8000
    grpc_port: Annotated[int, Parameter(validator=port)] = 8001
    metrics_port: Annotated[int, Parameter(validator=port)] = 8002
    address: str = LOOPBACK
    drain_s: Annotated[int, Parameter(validator=natural)] = 30
    trace_to: Annotated[str, Parameter(validator=_collector, show_default=False)] = ""
    trace_rate: Annotated[int, Parameter(validator=natural)] = 1
    max_waiting: Annotated[int, Parameter(validator=natural)] = 0
    behind_gateway: bool = False
    shared_memory_key_file: Path | None = None
    log_format: LogFormat = "text"
    triton: Annotated[Sequence[str], Parameter(parse=False)] = ()

    @property
    def names_of_triton(self) -> frozenset[str]:
        """The names of the options in `triton`."""
        return frozenset(option.split("=")[0] for option in self.triton if option.startswith("--"))
