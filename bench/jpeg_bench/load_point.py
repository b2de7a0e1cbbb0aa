"""Measures a server under one load: throughput, latency, Triton's statistics, CPU time, memory and GPU utilisation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jpeg_bench.ensemble_requests import check_responses, check_server, prepare_requests
from jpeg_bench.errors import BenchError
from jpeg_bench.gpu_usage import watch_gpus
from jpeg_bench.load import MOST_CLIENT_PROCESSES, Load, LoadResult, PreparedRequest, Protocol
from jpeg_bench.load_generator import LoadSamples, sample_load
from jpeg_bench.process_usage import Usage, read_usage
from jpeg_bench.recorder import clock
from jpeg_bench.target_server import TargetServer
from jpeg_bench.triton_statistics import ModelCounters, differences, fetch_statistics


@dataclass(frozen=True)
class LoadPoint:
    """A load and its result.

    Attributes:
        protocol: Protocol of the requests.
        batch_size: Images per request.
        load: The load.
        result: Throughput and latency.
        models: Statistics by model (`triton_statistics.differences`); None if the server provides none.
        cpu_cores: See `Usage.cpu_cores_since`; None if the server runs on another machine.
        memory: See `Usage.memory`, after the load; None if the server runs on another machine.
        gpus: See `GpuUsage.to_json`.
        samples: Every request.
    """

    protocol: Protocol
    batch_size: int
    load: Load
    result: LoadResult
    models: dict[str, Any] | None
    cpu_cores: dict[str, float] | None
    memory: dict[str, Any] | None
    gpus: list[dict[str, Any]]
    samples: LoadSamples

    def to_json(self) -> dict[str, Any]:
        """Return everything except the samples as JSON values."""
        return {
            "protocol": self.protocol,
            "batch_size": self.batch_size,
            **self.load.to_json(),
            **self.result.to_json(),
            "models": self.models,
            "cpu_cores": self.cpu_cores,
            "memory": self.memory,
            "gpus": self.gpus,
        }


def prepare_and_check(
    server: TargetServer, protocol: Protocol, photos: Sequence[bytes], batch_size: int
) -> list[PreparedRequest]:
    """Prepare the requests, send each once, and check its response.

    Args:
        server: The server.
        protocol: Protocol of the requests.
        photos: Encoded images.
        batch_size: Images per request.

    Raises:
        BenchError: No server responds, a request fails, or an image has no label.
    """
    requests = prepare_requests(protocol, server.address(protocol), photos, batch_size=batch_size, model=server.model)
    check_server(requests)
    return requests


def measure_load(server: TargetServer, requests: Sequence[PreparedRequest], load: Load) -> LoadPoint:
    """Apply a load and measure the server; if the clients limit it, once more with twice as many client processes.

    Args:
        server: The server.
        requests: Sent in rotation.
        load: The load.

    Raises:
        BenchError: All requests failed, or an image in a last response has no label.
    """
    point = _measure(server, requests, load)
    if point.result.client_limited and load.client_processes < MOST_CLIENT_PROCESSES:
        point = _measure(server, requests, replace(load, client_processes=2 * load.client_processes))
    check_responses(requests, point.samples.responses)
    if not point.result.requests and point.result.failures:
        raise BenchError(
            f"{requests[0].protocol}://{requests[0].address}: all requests failed: {point.result.failure_messages[0]}",
            reason="request_failed",
        )
    return point


def _measure(server: TargetServer, requests: Sequence[PreparedRequest], load: Load) -> LoadPoint:
    protocol = requests[0].protocol
    readings: list[tuple[dict[str, ModelCounters] | None, Usage | None]] = []

    def read() -> None:
        usage = None if server.pid is None else read_usage(server.pid, memory=False)
        readings.append((_statistics(server, protocol), usage))

    def read_at_edges(begin: float, end: float) -> None:
        time.sleep(max(0.0, begin - clock()))
        read()
        time.sleep(max(0.0, end - clock()))
        read()

    with watch_gpus() as gpus:
        samples = sample_load(requests, load, read_at_edges)
    (counters_begin, usage_begin), (counters_end, usage_end) = readings
    return LoadPoint(
        protocol=protocol,
        batch_size=requests[0].images,
        load=load,
        result=samples.result(),
        models=differences(counters_begin, counters_end) if counters_begin and counters_end else None,
        cpu_cores=usage_end.cpu_cores_since(usage_begin, load.seconds) if usage_begin and usage_end else None,
        memory=None if server.pid is None else read_usage(server.pid).memory(),
        gpus=gpus.to_json(),
        samples=samples,
    )


def _statistics(server: TargetServer, protocol: Protocol) -> dict[str, ModelCounters] | None:
    try:
        return fetch_statistics(protocol, server.address(protocol))
    except BenchError:
        return None
