"""What the load generators take and give: prepared requests, the load to put on a server, and what came of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Protocol = Literal["http", "grpc"]

INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Ask:
    """One request, prepared to the last byte.

    address: HOST:PORT. path: of the HTTP URL, or the gRPC method. headers: beside Host, Content-Length and
    Connection, which are written for you; none for gRPC. body: all of it, for gRPC the serialised message. images:
    how many images it carries. name: for messages.
    """

    protocol: Protocol
    address: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    images: int = 1
    name: str = ""

    def http_bytes(self) -> bytes:
        """The whole HTTP/1.1 request, as it goes over the wire."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.address}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "Connection: keep-alive", "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


@dataclass(frozen=True)
class Load:
    """How to ask: a closed loop (in_flight) or an open one (arrivals_per_s), one of the two.

    in_flight: requests that are always under way; each answer lets the next one go. arrivals_per_s: requests that
    come each second, whether the earlier ones are answered or not. processes: that ask, at most one for each request
    in flight. warmup_s: asked before, and not counted. seconds: what is counted. poisson: whether arrivals are
    random (exponential gaps, by `seed`) or evenly spaced. most_outstanding: of an open loop, over all processes; what
    should be sent beyond that waits, its clock running, and `Measured.held_back` counts it. timeout_s: after which a
    request has failed. channels: gRPC connections of each process.
    """

    in_flight: int = 0
    arrivals_per_s: float = 0.0
    processes: int = 1
    warmup_s: float = 1.0
    seconds: float = 5.0
    poisson: bool = True
    seed: int = 1
    most_outstanding: int = 1024
    timeout_s: float = 60.0
    channels: int = 1

    def __post_init__(self) -> None:
        if (self.in_flight > 0) == (self.arrivals_per_s > 0):
            raise ValueError("a load has requests in flight or arrivals per second: exactly one of the two, above 0")
        if self.processes < 1 or self.seconds <= 0 or self.warmup_s < 0 or self.most_outstanding < 1:
            raise ValueError("a load has at least 1 process and 1 outstanding request, and lasts longer than 0 s")

    def shares(self) -> list[Load]:
        """The load of each process: together they are this one."""
        if self.in_flight:
            count = min(self.processes, self.in_flight)
            whole, more = divmod(self.in_flight, count)
            return [replace(self, in_flight=whole + (index < more), processes=1) for index in range(count)]
        bound = max(1, self.most_outstanding // self.processes)
        rate = self.arrivals_per_s / self.processes
        return [
            replace(self, arrivals_per_s=rate, processes=1, most_outstanding=bound, seed=self.seed + index)
            for index in range(self.processes)
        ]


@dataclass(frozen=True)
class Measured:
    """What came of a load.

    images_per_s, requests_per_s: answered rightly, as `load.Samples.rates` counts. p50_ms .. max_ms: latency of all
    requests that began in the window, from when they should have been sent to the last byte of the answer; exact, of
    all of them; NaN if there were none. requests, images: answered rightly within the window of `seconds`. failures:
    answers that were not right, and messages of some. held_back: of an open loop, the requests that waited for
    `most_outstanding`. reconnects: requests that were sent again, on a new connection, since the server had closed the
    old one between two of them.

    client_cpu_cores: CPU seconds of the clients for each second. client_cpu_share_of_process: of the busiest client
    process; `client_limited` is whether it was above 0.8, so that the clients may have been what was measured.
    """

    images_per_s: float
    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    max_ms: float
    requests: int
    images: int
    failures: int
    seconds: float
    client_cpu_cores: float
    client_cpu_share_of_process: float
    client_limited: bool
    client_processes: int
    held_back: int = 0
    reconnects: int = 0
    messages: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, texts and lists; what is not a number (no answer at all) is null."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    return list(value) if isinstance(value, tuple) else value
