"""Prepared requests, the load to apply with them, and the result of a load."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Protocol = Literal["http", "grpc"]

RequestDistribution = Literal["poisson", "constant"]
"""Intervals between the requests of an open loop: exponentially distributed, or constant."""

MOST_CLIENT_PROCESSES = 16
"""Where measurements are repeated with twice as many client processes, because those limit them, the bound."""

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class PreparedRequest:
    """A serialised request.

    Attributes:
        protocol: Protocol to send it with.
        address: HOST:PORT of the server.
        path: Path of the HTTP URL, or the gRPC method.
        headers: HTTP headers except Host, Content-Length and Connection; empty for gRPC.
        body: HTTP body, or the serialised gRPC message.
        images: Number of images.
        name: Name for error messages.
    """

    protocol: Protocol
    address: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    images: int = 1
    name: str = ""

    def http_bytes(self) -> bytes:
        """Return the whole HTTP/1.1 request."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.address}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += [f"Content-Length: {len(self.body)}", "Connection: keep-alive", "", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


@dataclass(frozen=True)
class Load:
    """A closed loop (`concurrency`) or an open loop (`request_rate`): exactly one of them is above 0.

    A closed loop sends the next request when a response arrives. An open loop sends at a given rate, whether the server
    keeps up or not.

    Attributes:
        concurrency: Number of requests that are always outstanding.
        request_rate: Requests per second.
        client_processes: Number of client processes; a closed loop uses at most one per concurrent request.
        warmup_s: Seconds of load before the measurement.
        seconds: Duration of the measurement.
        distribution: Intervals between the requests of an open loop.
        seed: Seed of the Poisson distribution.
        max_outstanding: Limit of outstanding requests in an open loop, over all processes. Requests beyond it are
            delayed while their latency counts from the scheduled time.
        timeout_s: Time limit per request in seconds.
        channels: gRPC connections per process.

    Raises:
        ValueError: The values contradict each other or are out of range.
    """

    concurrency: int = 0
    request_rate: float = 0.0
    client_processes: int = 1
    warmup_s: float = 1.0
    seconds: float = 5.0
    distribution: RequestDistribution = "poisson"
    seed: int = 1
    max_outstanding: int = 1024
    timeout_s: float = 60.0
    channels: int = 1

    def __post_init__(self) -> None:
        if (self.concurrency > 0) == (self.request_rate > 0):
            raise ValueError("a load needs either a concurrency or a request rate above 0")
        if self.client_processes < 1 or self.seconds <= 0 or self.warmup_s < 0 or self.max_outstanding < 1:
            raise ValueError(
                "a load needs at least 1 client process, 1 outstanding request, a duration above 0 s and a warm-up of "
                "at least 0 s"
            )

    def __str__(self) -> str:
        if self.concurrency:
            return f"concurrency {self.concurrency}"
        return f"{self.request_rate:.1f} requests/s ({self.distribution})"

    def split(self) -> list[Load]:
        """Return one load per client process; together they are equal to this load."""
        if self.concurrency:
            count = min(self.client_processes, self.concurrency)
            quotient, remainder = divmod(self.concurrency, count)
            return [
                replace(self, concurrency=quotient + (index < remainder), client_processes=1) for index in range(count)
            ]
        limit = max(1, self.max_outstanding // self.client_processes)
        rate = self.request_rate / self.client_processes
        return [
            replace(self, request_rate=rate, client_processes=1, max_outstanding=limit, seed=self.seed + index)
            for index in range(self.client_processes)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the concurrency, or the request rate and its distribution."""
        if self.concurrency:
            return {"concurrency": self.concurrency}
        return {"request_rate": self.request_rate, "request_distribution": self.distribution}


@dataclass(frozen=True)
class LoadResult:
    """The result of a load.

    Latencies are exact percentiles over all successful requests scheduled during the measurement. They last from the
    scheduled time to the last byte of the response, in milliseconds, and are NaN without requests.

    Attributes:
        images_per_s: Throughput; see `load_generator.LoadSamples.throughput`.
        requests_per_s: Throughput in requests.
        p50_ms: Median latency.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        mean_ms: Mean latency.
        max_ms: Maximum latency.
        requests: Successful responses during the measurement.
        images: Images in these responses.
        failures: Failed requests.
        seconds: Duration of the measurement.
        client_cpu_cores: CPU seconds of all client processes per second.
        client_cpu_share: CPU seconds of the busiest client process per second.
        client_limited: Whether that share exceeds 0.8: the clients may limit the throughput.
        client_processes: Number of client processes.
        delayed: Requests of an open loop that `Load.max_outstanding` delayed.
        reconnects: Requests sent again because the server had closed an idle connection.
        failure_messages: Up to 5 different failures.
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
    client_cpu_share: float
    client_limited: bool
    client_processes: int
    delayed: int = 0
    reconnects: int = 0
    failure_messages: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; NaN becomes None."""
        return {name: _to_json(value) for name, value in asdict(self).items()}


def _to_json(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    return list(value) if isinstance(value, tuple) else value
