"""Measures how the cost of an image grows with connections, instances and ensembles."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jpeg_contract.command_line import Progress

from jpeg_bench.changed_repository import repository_with_ensembles, repository_with_instances
from jpeg_bench.load import Load, Protocol
from jpeg_bench.load_point import measure_load, prepare_and_check
from jpeg_bench.machine import describe_machine, package_versions
from jpeg_bench.options import PhotoOptions
from jpeg_bench.target_server import TargetServer, start_server

CONNECTIONS = (1, 8, 64, 256, 1000, 2000)
INSTANCES = (1, 2, 3, 4)
ENSEMBLES = (1, 2, 4, 8)
_CONCURRENCY = 64
# Connections and pipes of a client process, beside those of the load.
_OTHER_FILES = 256
# Rounds, in which each connection has one answer: until the load is steady, and to measure.
_SETTLE_ROUNDS, _ROUNDS = 1.2, 2.0


def run_growth(
    repository: Path,
    options: PhotoOptions,
    load: Load,
    progress: Progress,
    *,
    connections: Sequence[int] = CONNECTIONS,
    instances: Sequence[int] = INSTANCES,
    ensembles: Sequence[int] = ENSEMBLES,
) -> dict[str, Any]:
    """Apply closed loops of single images, with a request on each connection.

    With many connections a round takes longer than a measurement: warm-up and measurement then last some rounds.

    Args:
        repository: Model repository.
        options: The photos.
        load: Client processes of each measurement, and its duration and warm-up at least; its concurrency is replaced.
        progress: Called before each measurement.
        connections: Numbers of connections, over each protocol.
        instances: Numbers of instances of `preprocess` and of the classifier.
        ensembles: Numbers of ensembles in the server, which take turns.

    Returns:
        For each dimension a list of points: throughput, latency, CPU time of the server per image in milliseconds, and
        its memory.

    Raises:
        BenchError: The server cannot be measured.
    """
    photos = options.read().data
    most = max((*connections, _CONCURRENCY))
    _allow_files(most + _OTHER_FILES)

    def measure(
        server: TargetServer,
        count: int,
        subject: str,
        *,
        protocol: Protocol = "grpc",
        models: Sequence[str] = (),
        rate: float | None = None,
    ) -> dict[str, Any]:
        progress(f"{subject}, {protocol}, {count} connections")
        requests = [
            request
            for model in models or (server.model,)
            for request in prepare_and_check(replace(server, model=model), protocol, photos, 1)
        ]
        channels = max(1, count // min(count, load.client_processes))
        timed = in_rounds(load, count / rate if rate else 0.0)
        point = measure_load(server, requests, replace(timed, concurrency=count, channels=channels))
        values = point.to_json()
        cores, reached = point.cpu_cores, point.result.images_per_s
        return {
            **{name: values[name] for name in ("protocol", "images_per_s", "p50_ms", "p99_ms", "failures")},
            "cpu_ms_per_image": round(1e3 * cores["all"] / reached, 3) if cores and reached else None,
            "pss_mib": point.memory and point.memory["pss_mib"],
        }

    protocols: tuple[Protocol, ...] = ("grpc", "http")
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": package_versions(),
        "seconds": load.seconds,
        "connections": [],
        "instances": [],
        "ensembles": [],
    }
    for protocol in protocols:
        # One for each: a server keeps the memory that its longest queue took.
        with start_server(repository, max_waiting=2 * most) as server:
            rate: float | None = None
            for count in connections:
                point = measure(server, count, "connections", protocol=protocol, rate=rate)
                rate = point["images_per_s"]
                result["connections"].append({"connections": count, **point})
    for count in instances:
        with repository_with_instances(repository, count) as changed, start_server(changed) as server:
            result["instances"].append({"instances": count, **measure(server, _CONCURRENCY, f"{count} instances")})
    for count in ensembles:
        with repository_with_ensembles(repository, count) as (changed, names), start_server(changed) as server:
            point = measure(server, _CONCURRENCY, f"{count} ensembles", models=names)
            result["ensembles"].append({"ensembles": count, **point})
    return result


def in_rounds(load: Load, round_s: float) -> Load:
    """Return a load that lasts some rounds at least. round_s: in which each connection has one answer, in seconds."""
    return replace(
        load,
        warmup_s=max(load.warmup_s, _SETTLE_ROUNDS * round_s),
        seconds=max(load.seconds, _ROUNDS * round_s),
    )


def _allow_files(count: int) -> None:
    """Raise the limit of open files of this process and its children, as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count), hard))
