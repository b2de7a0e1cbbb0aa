"""Measures how throughput and latency change with concurrency, batch size, image size and instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jpeg_contract.command_line import Progress

from jpeg_bench.changed_repository import repository_with_instances
from jpeg_bench.load import Load, Protocol
from jpeg_bench.load_point import LoadPoint, measure_load, prepare_and_check
from jpeg_bench.machine import describe_machine, package_versions
from jpeg_bench.options import PhotoOptions
from jpeg_bench.photos import read_photos
from jpeg_bench.pipeline import read_pipeline
from jpeg_bench.target_server import TargetServer, start_server

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
IMAGE_SIZES = ((250, 188), (500, 375), (1000, 750), (2000, 1500), (4000, 3000))
INSTANCES = (1, 2, 3)
_CONCURRENCY = 32
_CONCURRENT_IMAGES = 64


def run_sweep(repository: Path, options: PhotoOptions, load: Load, progress: Progress) -> dict[str, Any]:
    """Measure along each of the four dimensions over gRPC, and concurrency also over HTTP.

    Args:
        repository: Model repository.
        options: The photos; along image size, other sizes.
        load: Duration, warm-up and client processes of each measurement; its concurrency is replaced.
        progress: Called before each measurement.

    Raises:
        BenchError: The server cannot be measured.
    """

    def measure(
        server: TargetServer,
        photos: Sequence[bytes],
        concurrency: int,
        *,
        batch_size: int = 1,
        protocol: Protocol = "grpc",
        subject: str = "",
    ) -> dict[str, Any]:
        progress(f"{protocol}, batch size {batch_size}, concurrency {concurrency}{subject}")
        requests = prepare_and_check(server, protocol, photos, batch_size)
        return _select(measure_load(server, requests, replace(load, concurrency=concurrency)))

    photos = options.read().data
    max_batch_size = read_pipeline(repository).max_batch_size
    protocols: tuple[Protocol, ...] = ("grpc", "http")
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": package_versions(),
        "seconds": load.seconds,
        "image_size": [],
        "instances": [],
    }
    with start_server(repository) as server:
        result["concurrency"] = [
            measure(server, photos, concurrency, protocol=protocol)
            for protocol in protocols
            for concurrency in CONCURRENCIES
        ]
        result["batch_size"] = [
            measure(server, photos, max(2, _CONCURRENT_IMAGES // size), batch_size=size)
            for size in BATCH_SIZES
            if size <= max_batch_size
        ]
        for width, height in IMAGE_SIZES:
            resized = read_photos(options.photos, (width, height), options.encoding)
            point = measure(server, resized.data, _CONCURRENCY, subject=f", images of {width}x{height}")
            image = {
                "size": f"{width}x{height}",
                "megapixels": round(width * height / 1e6, 3),
                "mean_bytes": resized.mean_bytes,
            }
            result["image_size"].append({**image, **point})
    for count in INSTANCES:
        with repository_with_instances(repository, count) as changed, start_server(changed) as server:
            subject = f", {count} instances"
            single = measure(server, photos, 1, subject=subject)
            concurrent = measure(server, photos, _CONCURRENCY, subject=subject)
            result["instances"].append({"instances": count, "single": single, "concurrent": concurrent})
    return result


def sweep_points(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all load points of a sweep; `variant` names the image size or the number of instances."""
    return [
        *result["concurrency"],
        *result["batch_size"],
        *({**point, "variant": point["size"]} for point in result["image_size"]),
        *(
            {**each[name], "variant": f"{each['instances']} instances"}
            for each in result["instances"]
            for name in ("single", "concurrent")
        ),
    ]


def _select(point: LoadPoint) -> dict[str, Any]:
    values = point.to_json()
    selected = ("protocol", "batch_size", "concurrency", "images_per_s", "p50_ms", "p99_ms", "failures")
    return {
        **{name: values[name] for name in (*selected, "client_limited")},
        "cpu_cores": point.cpu_cores and point.cpu_cores["all"],
        "pss_mib": point.memory and point.memory["pss_mib"],
    }
