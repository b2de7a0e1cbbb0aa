"""Measures each system once per round: the ceiling, this project's server, a peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jpeg_bench.ceiling import Throughput, fastest, measure_single_image, measure_throughput
from jpeg_bench.ceiling_worker import Arrangement, Part
from jpeg_bench.errors import BenchError
from jpeg_bench.load import Load, Protocol
from jpeg_bench.load_generator import run_load
from jpeg_bench.load_point import measure_load, prepare_and_check
from jpeg_bench.pipeline import Pipeline
from jpeg_bench.target_server import start_server
from jpeg_contract.command_line import Progress
from jpeg_contract.cpus import usable_cpus

from comparison.peer_settings import Configuration
from comparison.running_peer import start_peer

PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")


@dataclass(frozen=True)
class Loads:
    """The loads of a comparison.

    Attributes:
        concurrency: Concurrent requests of one image.
        batch_size: Images per request of several images.
        batch_concurrency: Concurrent requests of several images.
        seconds: Duration of each measurement.
        warmup_s: Seconds of load before each measurement.
        client_processes: Client processes.
    """

    concurrency: int = 32
    batch_size: int = 8
    batch_concurrency: int = 8
    seconds: float = 5.0
    warmup_s: float = 1.0
    client_processes: int = 1

    def single(self) -> Load:
        """Return the load of one request at a time."""
        return replace(self._closed_loop(1), client_processes=1)

    def concurrent(self) -> Load:
        """Return the load of concurrent requests of one image."""
        return self._closed_loop(self.concurrency)

    def batched(self) -> Load:
        """Return the load of concurrent requests of several images."""
        return self._closed_loop(self.batch_concurrency)

    def _closed_loop(self, concurrency: int) -> Load:
        return Load(
            concurrency=concurrency,
            client_processes=self.client_processes,
            warmup_s=self.warmup_s,
            seconds=self.seconds,
        )


def measure_ceiling_trial(
    pipeline: Pipeline,
    photos: Sequence[bytes],
    candidates: Sequence[Arrangement],
    seconds: float,
    progress: Progress,
) -> dict[str, Any]:
    """Measure the fastest of these arrangements, and the latency of a single image.

    Args:
        pipeline: The ensemble.
        photos: Encoded images.
        candidates: Arrangements of both stages, or of each alone.
        seconds: Duration of each measurement.
        progress: Called before each measurement.

    Raises:
        BenchError: All arrangements of a part fail.
    """
    throughputs: list[Throughput] = []
    for arrangement in candidates:
        progress(f"ceiling: {arrangement}")
        throughputs.append(measure_throughput(pipeline, photos, arrangement, seconds))
    parts: dict[Part, Throughput] = {
        part: fastest([each for each in throughputs if each.arrangement.part == part])
        for part in dict.fromkeys(each.arrangement.part for each in throughputs)
    }
    progress("ceiling: single image")
    single = measure_single_image(pipeline, photos, seconds)
    return {
        "images_per_s": round(min(part.images_per_s for part in parts.values()), 1),
        "parts": {name: part.to_json() for name, part in parts.items()},
        "p50_ms": round(single.p50_ms, 3),
        "p99_ms": round(single.p99_ms, 3),
    }


def measure_server_trial(
    name: str, repository: Path, photos: Sequence[bytes], loads: Loads, progress: Progress
) -> dict[str, Any]:
    """Start this project's server, and measure it under all loads over gRPC and HTTP.

    Args:
        name: Name of the system, for the progress.
        repository: Model repository.
        photos: Encoded images.
        loads: The loads.
        progress: Called before each measurement.

    Raises:
        BenchError: The server does not start, or a response is wrong.
    """
    points: dict[str, Any] = {}
    measurements = {
        "single": (1, loads.single()),
        "concurrent": (1, loads.concurrent()),
        "batched": (loads.batch_size, loads.batched()),
    }
    progress(f"{name}: start")
    with start_server(repository) as server:
        for protocol in PROTOCOLS:
            for key, (batch_size, load) in measurements.items():
                progress(f"{name}: {protocol}, batch size {batch_size}, {load}")
                requests = prepare_and_check(server, protocol, photos, batch_size)
                points[f"{protocol} {key}"] = measure_load(server, requests, load).to_json()
        return {"start_s": server.start_s, "idle": server.idle, "points": points}


def measure_peer_trial(
    name: str,
    configuration: Configuration,
    *,
    repository: Path,
    photos: Sequence[bytes],
    loads: Loads,
    progress: Progress,
) -> dict[str, Any]:
    """Start a peer, and measure it under the loads of one image per request. A failure is part of the result.

    Args:
        name: Name of the peer.
        configuration: Its configuration.
        repository: Model repository whose ONNX file and settings the peer uses.
        photos: Encoded images.
        loads: The loads.
        progress: Called before each measurement.
    """
    points: dict[str, Any] = {}
    progress(f"{name} {configuration}: start")
    try:
        with start_peer(name, configuration, usable_cpus(), repository=repository) as peer:
            requests = peer.prepare_requests(photos)
            for key, load in {"single": loads.single(), "concurrent": loads.concurrent()}.items():
                progress(f"{name} {configuration}: {load}")
                points[key] = {**load.to_json(), **run_load(requests, load).to_json()}
            memory = round(peer.memory_mib(), 1)
            return {"about": peer.to_json(), "points": points, "memory_mib": memory, "ready_s": peer.ready_s}
    except BenchError as error:
        progress(f"{name} {configuration} failed: {error}")
        return {"points": points, "failure": str(error)}
