"""A load over a long time: does latency grow, or memory?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from jpeg_bench.asks import Ask, Load
from jpeg_bench.load import sample
from jpeg_bench.proc import snapshot
from jpeg_bench.recorder import clock
from jpeg_bench.target import Target

PARTS = 10


def soak(target: Target, asks: Sequence[Ask], load: Load) -> dict[str, Any]:
    """Run a load, look at it in ten parts, and say how p50, p99 and memory drift over it.

    Memory is PSS and /dev/shm of the server, in MiB, at the end of each part; null if the server is not here.
    """
    memory: list[dict[str, Any] | None] = []

    def watch(begin: float, end: float) -> None:
        for part in range(1, PARTS + 1):
            time.sleep(max(0.0, begin + (end - begin) * part / PARTS - clock()))
            memory.append(None if target.pid is None else snapshot(target.pid).memory())

    samples = sample(asks, load, watch)
    length = load.seconds / PARTS
    parts: list[dict[str, Any]] = []
    for part, held in enumerate(memory):
        begin = samples.begin + part * length
        found = samples.between(begin, begin + length).measured()
        parts.append(
            {
                "from_s": round(part * length, 1),
                "images_per_s": round(found.images_per_s, 1),
                "p50_ms": round(found.p50_ms, 3),
                "p99_ms": round(found.p99_ms, 3),
                "pss_mib": None if held is None else held["pss_mib"],
                "shm_mib": None if held is None else held["shm_mib"],
            }
        )
    names = ("p50_ms", "p99_ms", *(() if target.pid is None else ("pss_mib", "shm_mib")))
    return {
        "protocol": asks[0].protocol,
        "images_a_request": asks[0].images,
        "arrivals_per_s": load.arrivals_per_s,
        "whole": samples.measured().to_json(),
        "parts": parts,
        "drift": {name: drift([part[name] for part in parts]) for name in names},
    }


def drift(values: Sequence[float]) -> dict[str, float | None]:
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
