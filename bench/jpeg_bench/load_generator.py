"""Applies a load to a server from client processes, and computes the result."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpeg_bench.load import Load, LoadResult, PreparedRequest
from jpeg_bench.paced_sender import PacedSender
from jpeg_bench.recorder import MAX_FAILURE_MESSAGES, Recorder, Records
from jpeg_bench.worker_processes import run_together

_TRANSFER_TIMEOUT_S = 60.0

_PERCENTILES = ("p50_ms", "p90_ms", "p99_ms")

CLIENT_LIMIT = 0.8
"""CPU share of a client process from which on it may limit the throughput."""


@dataclass(frozen=True)
class LoadSamples:
    """Every request of a load, from all client processes. Times are in seconds on `recorder.clock`.

    Attributes:
        begin: Begin of the measurement.
        end: End of the measurement.
        scheduled: (N,) scheduled times of the successful requests.
        completed: (N,) times of the last byte of their responses.
        request: (N,) indices of their prepared requests.
        images: Number of images of each prepared request.
        failures: See `LoadResult`.
        delayed: See `LoadResult`.
        reconnects: See `LoadResult`.
        failure_messages: See `LoadResult`.
        cpu_s: CPU seconds of each client process during the measurement.
        responses: Last responses to each prepared request by index, at most one per client process: gRPC messages or
            whole HTTP responses.
        closed_loop: Whether the load is a closed loop.
    """

    begin: float
    end: float
    scheduled: NDArray[np.float64]
    completed: NDArray[np.float64]
    request: NDArray[np.int64]
    images: NDArray[np.int64]
    failures: int
    delayed: int
    reconnects: int
    failure_messages: tuple[str, ...]
    cpu_s: tuple[float, ...]
    responses: dict[int, list[bytes]] = field(default_factory=dict)
    closed_loop: bool = True

    def between(self, begin: float, end: float) -> LoadSamples:
        """Return the samples with another measurement window. Failures and CPU time belong to the whole, and become 0.

        Args:
            begin: Begin of the window.
            end: End of the window.
        """
        return replace(self, begin=begin, end=end, failures=0, delayed=0, reconnects=0, failure_messages=(), cpu_s=())

    def latencies_ms(self) -> NDArray[np.float64]:
        """Return the latencies of all requests scheduled in the window, including those that completed after it."""
        inside = (self.scheduled >= self.begin) & (self.scheduled < self.end)
        latencies: NDArray[np.float64] = (self.completed[inside] - self.scheduled[inside]) * 1e3
        return latencies

    def by_group(self, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return requests, p50, p90 and p99 in milliseconds of each group of requests; see `latencies_ms`.

        Args:
            groups: Name of the group of each prepared request, such as the size of its photo.
        """
        names = np.array(groups)[self.request]
        found = {}
        for name in dict.fromkeys(groups):
            chosen = names == name
            part = replace(self, scheduled=self.scheduled[chosen], completed=self.completed[chosen])
            latencies = part.latencies_ms()
            percentiles = np.percentile(latencies, (50, 90, 99)).round(3).tolist() if latencies.size else [None] * 3
            found[name] = {"requests": int(latencies.size), **dict(zip(_PERCENTILES, percentiles, strict=True))}
        return found

    def throughput(self) -> tuple[float, float]:
        """Return images and requests per second.

        In an open loop, the requests that completed in the window count. In a closed loop, a request on an edge of the
        window counts with its fraction inside, as in the ceiling: with 8 concurrent requests of 8 images, responses
        arrive 64 images at a time, and counting completions would depend on where the window begins.
        """
        if self.closed_loop:
            inside = np.minimum(self.completed, self.end) - np.maximum(self.scheduled, self.begin)
            weights = np.clip(inside / np.maximum(self.completed - self.scheduled, 1e-9), 0, 1)
        else:
            weights = ((self.completed >= self.begin) & (self.completed < self.end)).astype(np.float64)
        seconds = self.end - self.begin
        return float((weights * self.images[self.request]).sum()) / seconds, float(weights.sum()) / seconds

    def result(self) -> LoadResult:
        """Compute the result."""
        seconds = self.end - self.begin
        inside = (self.completed >= self.begin) & (self.completed < self.end)
        images_per_s, requests_per_s = self.throughput()
        latencies = self.latencies_ms()
        p50, p90, p99 = np.percentile(latencies, (50, 90, 99)) if latencies.size else (np.nan,) * 3
        share = max(self.cpu_s, default=0.0) / seconds
        return LoadResult(
            images_per_s=images_per_s,
            requests_per_s=requests_per_s,
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            mean_ms=float(latencies.mean()) if latencies.size else float("nan"),
            max_ms=float(latencies.max()) if latencies.size else float("nan"),
            requests=int(inside.sum()),
            images=int(self.images[self.request[inside]].sum()),
            failures=self.failures,
            seconds=seconds,
            client_cpu_cores=sum(self.cpu_s) / seconds,
            client_cpu_share=share,
            client_limited=share > CLIENT_LIMIT,
            client_processes=len(self.cpu_s),
            delayed=self.delayed,
            reconnects=self.reconnects,
            failure_messages=self.failure_messages,
        )


def run_load(requests: Sequence[PreparedRequest], load: Load) -> LoadResult:
    """Apply a load, and return its result; see `sample_load`."""
    return sample_load(requests, load).result()


def sample_load(
    requests: Sequence[PreparedRequest], load: Load, meanwhile: Callable[[float, float], None] = lambda *_: None
) -> LoadSamples:
    """Apply a load, and return every request.

    Args:
        requests: Sent in rotation. All have the same protocol, address and path.
        load: The load.
        meanwhile: Called in this process while the load runs, with begin and end of the measurement in seconds on
            `recorder.clock`.

    Raises:
        BenchError: No server responds. Failed requests do not raise: `LoadSamples.failures` counts them.
    """
    if len({(request.protocol, request.address, request.path) for request in requests}) != 1:
        raise ValueError("a load needs at least one request, and all to one address and path by one protocol")
    loads = load.split()
    jobs = [(list(requests), each, index, len(loads)) for index, each in enumerate(loads)]
    start, records = run_together(
        prepare_client,
        jobs,
        timeout_s=load.warmup_s + load.seconds + 2 * load.timeout_s + _TRANSFER_TIMEOUT_S,
        meanwhile=lambda start: meanwhile(*_window(start, load)),
    )
    return _merge(requests, load, start, records)


def prepare_client(
    requests: Sequence[PreparedRequest], load: Load, index: int, count: int
) -> Callable[[float], Records]:
    """Connect to the server, in a client process.

    Args:
        requests: See `sample_load`.
        load: The load of this process.
        index: Number of this process.
        count: Number of processes.

    Returns:
        Function that sends requests from a start time on, and returns their records.
    """
    sender: PacedSender
    # Imported by need: HTTP does not need libcurl.
    if requests[0].protocol == "http":
        from jpeg_bench.http_sender import HttpSender

        sender = HttpSender(requests, load, index, count)
    else:
        from jpeg_bench.grpc_sender import GrpcSender

        sender = GrpcSender(requests, load, index, count)
    gc.freeze()

    def run(start: float) -> Records:
        recorder = Recorder(*_window(start, load))
        sender.run(start, recorder)
        return recorder.records

    return run


def _window(start: float, load: Load) -> tuple[float, float]:
    return start + load.warmup_s, start + load.warmup_s + load.seconds


def _merge(requests: Sequence[PreparedRequest], load: Load, start: float, records: Sequence[Records]) -> LoadSamples:
    begin, end = _window(start, load)
    responses: dict[int, list[bytes]] = {}
    for each in records:
        for request, response in each.responses.items():
            responses.setdefault(request, []).append(response)
    messages = dict.fromkeys(message for each in records for message in each.failure_messages)
    return LoadSamples(
        begin=begin,
        end=end,
        scheduled=np.concatenate([np.frombuffer(each.scheduled, np.float64) for each in records]),
        completed=np.concatenate([np.frombuffer(each.completed, np.float64) for each in records]),
        request=np.concatenate([np.frombuffer(each.requests, np.uint16) for each in records]).astype(np.int64),
        images=np.array([request.images for request in requests], np.int64),
        failures=sum(each.failures for each in records),
        delayed=sum(each.delayed for each in records),
        reconnects=sum(each.reconnects for each in records),
        failure_messages=tuple(messages)[:MAX_FAILURE_MESSAGES],
        cpu_s=tuple(each.cpu_s for each in records),
        responses=responses,
        closed_loop=load.concurrency > 0,
    )
