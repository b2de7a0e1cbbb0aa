"""A load over a long time: does latency grow, or memory, or what an image costs?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from jpeg_bench.asks import Ask, Load
from jpeg_bench.load import sample
from jpeg_bench.proc import Snapshot, snapshot
from jpeg_bench.recorder import clock
from jpeg_bench.target import Target

PARTS = 10


def soak(target: Target, asks: Sequence[Ask], load: Load) -> dict[str, Any]:
    """Run a load, look at it in ten parts, and say how they drift over it: p50, p99, and, if the server is here, CPU
    time for each image, and memory.

    Memory is PSS and /dev/shm of the server, in MiB, at the end of each part. Close to the most that a server can do,
    latency says above all how fast the machine is just then; CPU time for each image says what the server asks of it.
    """
    seen: list[tuple[float, Snapshot]] = []

    def watch(begin: float, end: float) -> None:
        for part in range(PARTS + 1):
            time.sleep(max(0.0, begin + (end - begin) * part / PARTS - clock()))
            if target.pid is not None:
                seen.append((clock(), snapshot(target.pid)))

    samples = sample(asks, load, watch)
    length = load.seconds / PARTS
    parts: list[dict[str, Any]] = []
    for part in range(PARTS):
        begin = samples.begin + part * length
        found = samples.between(begin, begin + length).measured()
        parts.append(
            {
                "from_s": round(part * length, 1),
                "images_per_s": round(found.images_per_s, 1),
                "p50_ms": round(found.p50_ms, 3),
                "p99_ms": round(found.p99_ms, 3),
                **(_server(*seen[part], *seen[part + 1], found.images_per_s) if seen else {}),
            }
        )
    names = [name for name in parts[0] if name not in ("from_s", "images_per_s", "stolen_cores")]
    return {
        "protocol": asks[0].protocol,
        "images_a_request": asks[0].images,
        "arrivals_per_s": load.arrivals_per_s,
        "whole": samples.measured().to_json(),
        "parts": parts,
        "drift": {name: drift([part[name] for part in parts]) for name in names},
    }


def _server(
    before: float, earlier: Snapshot, after: float, later: Snapshot, images_per_s: float
) -> dict[str, float | None]:
    """What the server used between two moments, and what memory it holds at the second."""
    cores = later.cpu_since(earlier, after - before)
    memory = later.memory()
    return {
        "cpu_ms_an_image": round(1e3 * cores["all"] / images_per_s, 3) if images_per_s else None,
        "stolen_cores": cores["stolen"],
        "pss_mib": memory["pss_mib"],
        "shm_mib": memory["shm_mib"],
    }


def drift(values: Sequence[float | None]) -> dict[str, float | None]:
    """How a row of numbers, evenly spaced in time, changes from its first to its last, in percent.

    slope_percent: of the straight line that fits best (least squares), over the whole time, of the mean.
    halves_percent: the median of the second half against that of the first. None if there is nothing to compare.
    """
    known = np.array(values, float)
    if len(known) < 2 or not np.isfinite(known).all() or known.mean() == 0:
        return {"slope_percent": None, "halves_percent": None}
    slope = float(np.polyfit(np.linspace(0, 1, len(known)), known, 1)[0])
    half = len(known) // 2
    first, second = median(known[:half].tolist()), median(known[-half:].tolist())
    return {
        "slope_percent": round(100 * slope / float(known.mean()), 2),
        "halves_percent": round(100 * (second / first - 1), 2) if first else None,
    }
