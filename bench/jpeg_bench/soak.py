"""Measures whether latency, memory or the CPU time per image drift under a long load."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.load_generator import sample_load
from jpeg_bench.process_usage import Usage, read_usage
from jpeg_bench.recorder import clock
from jpeg_bench.target_server import TargetServer

PARTS = 10

_DRIFT_VALUES = ("p50_ms", "p99_ms", "cpu_ms_per_image", "pss_mib", "shm_mib")


def measure_soak(server: TargetServer, requests: Sequence[PreparedRequest], load: Load) -> dict[str, Any]:
    """Apply a load, and measure its drift over ten parts of equal length.

    Near saturation, latency follows the speed of the machine; the CPU time per image shows the cost in the server.

    Args:
        server: The server. CPU time and memory require that it runs on this machine.
        requests: Sent in rotation.
        load: The load.

    Returns:
        Load, result of the whole, and for each part throughput, latency, CPU time per image, stolen CPU time and, at
        its end, memory (PSS and /dev/shm) of the server. `drift` has the output of `compute_drift` for each value.

    Raises:
        BenchError: No server responds.
    """
    usages: list[tuple[float, Usage]] = []

    def read_usages(begin: float, end: float) -> None:
        for part in range(PARTS + 1):
            time.sleep(max(0.0, begin + (end - begin) * part / PARTS - clock()))
            if server.pid is not None:
                usages.append((clock(), read_usage(server.pid)))

    samples = sample_load(requests, load, read_usages)
    length = load.seconds / PARTS
    parts: list[dict[str, Any]] = []
    for part in range(PARTS):
        begin = samples.begin + part * length
        result = samples.between(begin, begin + length).result()
        parts.append(
            {
                "from_s": round(part * length, 1),
                "images_per_s": round(result.images_per_s, 1),
                "p50_ms": round(result.p50_ms, 3),
                "p99_ms": round(result.p99_ms, 3),
                **(_server_usage(usages[part], usages[part + 1], result.images_per_s) if usages else {}),
            }
        )
    return {
        "protocol": requests[0].protocol,
        "batch_size": requests[0].images,
        **load.to_json(),
        "whole": samples.result().to_json(),
        "parts": parts,
        "drift": {name: compute_drift([part[name] for part in parts]) for name in _DRIFT_VALUES if name in parts[0]},
    }


def compute_drift(values: Sequence[float | None]) -> dict[str, float | None]:
    """Compute the change of values that are evenly spaced in time.

    Args:
        values: In the order of time.

    Returns:
        `slope_percent`: slope of the least-squares line over the whole time, relative to the mean.
        `halves_percent`: median of the second half relative to the median of the first half.
        Both are None if a value is missing.
    """
    array = np.array(values, float)
    if len(array) < 2 or not np.isfinite(array).all() or array.mean() == 0:
        return {"slope_percent": None, "halves_percent": None}
    slope = float(np.polyfit(np.linspace(0, 1, len(array)), array, 1)[0])
    half = len(array) // 2
    first, second = median(array[:half].tolist()), median(array[-half:].tolist())
    return {
        "slope_percent": round(100 * slope / float(array.mean()), 2),
        "halves_percent": round(100 * (second / first - 1), 2) if first else None,
    }


def _server_usage(
    earlier: tuple[float, Usage], later: tuple[float, Usage], images_per_s: float
) -> dict[str, float | None]:
    cores = later[1].cpu_cores_since(earlier[1], later[0] - earlier[0])
    memory = later[1].memory()
    return {
        "cpu_ms_per_image": round(1e3 * cores["all"] / images_per_s, 3) if images_per_s else None,
        "stolen_cores": cores["stolen"],
        "pss_mib": memory["pss_mib"],
        "shm_mib": memory["shm_mib"],
    }
