"""Overload: five times what the server can do, and what the accepted and the refused requests see of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jpeg_contract.tensors import MAX_BATCH_SIZE
from jpeg_serve.queue_bound import BOUND_S, LEAST_BOUND

from faults.answers import Outcome, Record, Verdict
from faults.errors import FaultsError
from faults.samples import Sample
from faults.senders import Load, Target
from faults.traffic import Traffic
from faults.trials import problems

AFTER_S = 2.0
"""So long after the storm the latency is back."""

_NOTHING = {"grpc": 0, "http": 0, "grpc_batches": 0, "http_batches": 0, "clients": 0}
_BATCH_LATENCIES = 3  # of the unloaded server
_CAPACITY_SENDERS = 16  # of each protocol


def measure_overload(
    target: Target,
    samples: Sequence[Sample],
    *,
    seconds: float = 20.0,
    times: float = 5.0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure latencies at rest, the capacity, a storm, and the latencies after it.

    Args:
        target: The server. Nobody else uses it.
        samples: Slow ones, so that a small client can send more than the server can do.
        seconds: Length of the storm; the other parts follow from it.
        times: Rate of the storm, relative to the capacity.
        progress: Receives the steps.

    Returns:
        Rates in images/s, latencies in s, counts, `allowed_p99_s` (three times the latency of a whole batch at rest,
        and the time that a full queue takes), `verdict` (of each promise), and `problems`.
    """
    progress("latency at rest")
    rest = _observe(target, samples, Load(**{**_NOTHING, "grpc": 1}, pause_s=0.01), seconds / 4)
    batch = _batch_latency_s(target, samples)
    progress("capacity")
    busy = _observe(
        target,
        samples,
        Load(**{**_NOTHING, "grpc": _CAPACITY_SENDERS, "http": _CAPACITY_SENDERS}, pause_s=0),
        seconds / 2,
    )
    capacity = _rate(busy.select(Verdict.RIGHT))
    # What jpeg-serve lets wait: see its option --max-waiting.
    queue = max(LEAST_BOUND, capacity * BOUND_S)
    progress(f"storm: {times:g} times {capacity:.0f} images/s")
    storm, after = _storm(target, samples, rate=times * capacity, seconds=seconds)
    progress("evaluation")
    right, refused = storm.select(Verdict.RIGHT), storm.select(Verdict.REFUSED)
    accepted, refusals = _latencies(right), _latencies(refused)
    allowed = 3 * batch + queue / capacity
    statuses = Counter(f"{each.protocol} {each.status}" for each in refused)
    result = {
        "unloaded_p50_s": _quantile(_latencies(rest.outcomes), 50),
        "unloaded_batch_s": round(batch, 4),
        "capacity_per_s": round(capacity, 1),
        "queue_bound": round(queue),
        "queue_bound_s": round(queue / capacity, 3),
        "offered_per_s": round(len(storm.outcomes) / seconds, 1),
        "offered_times_capacity": round(len(storm.outcomes) / seconds / capacity, 2),
        "accepted": len(right),
        "refused": len(refused),
        "refusals_by_status": dict(statuses),
        "refusals": storm.summary()["refusals"],
        "accepted_per_s": round(len(right) / seconds, 1),
        "accepted_p50_s": _quantile(accepted, 50),
        "accepted_p99_s": _quantile(accepted, 99),
        "allowed_p99_s": round(allowed, 3),
        "refused_p50_s": _quantile(refusals, 50),
        "refused_p99_s": _quantile(refusals, 99),
        "after_p50_s": _quantile(_latencies(after.outcomes), 50),
        "problems": [found for record in (rest, busy, storm, after) for found in problems(record)],
    }
    result["verdict"] = {
        "accepted_p99": result["accepted_p99_s"] < allowed,
        "refused_with_unavailable": set(statuses) <= {"grpc UNAVAILABLE", "http 503"},
        "refused_at_once": result["refused_p50_s"] < batch,
        "latency_is_back": result["after_p50_s"] < 1.5 * result["unloaded_p50_s"] + 0.005,
        "nothing_lost_or_mixed_up": not result["problems"],
    }
    return result


def _observe(target: Target, samples: Sequence[Sample], load: Load, seconds: float) -> Record:
    with Traffic(target, samples, load) as traffic:
        _wait_for_first(traffic)
        time.sleep(seconds)
    return traffic.record


def _storm(target: Target, samples: Sequence[Sample], *, rate: float, seconds: float) -> tuple[Record, Record]:
    """Apply the storm, with a patient client that measures from 2 s after it."""
    storm_load = Load(**_NOTHING, rate=rate, pause_s=0)
    with Traffic(target, samples, storm_load) as traffic:
        _wait_for_first(traffic)
        begin = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
    # The traffic has waited for its last answers; they are a part of the storm.
    time.sleep(max(0.0, end + AFTER_S - time.monotonic()))
    after = _observe(target, samples, Load(**{**_NOTHING, "grpc": 1}, pause_s=0.01), seconds / 4)
    storm = Record()
    storm.add([each for each in traffic.record.outcomes if begin <= each.sent < end])
    return storm, after


def _wait_for_first(traffic: Traffic) -> None:
    limit = time.monotonic() + 30
    while not traffic.record.outcomes:
        if time.monotonic() > limit:
            raise FaultsError("no answer within 30 s", reason="no_answer")
        time.sleep(0.02)


def _batch_latency_s(target: Target, samples: Sequence[Sample]) -> float:
    """Return the median latency of a request with as many images as a batch takes, on a server at rest."""
    load = Load(**{**_NOTHING, "grpc_batches": 1}, batch_size=MAX_BATCH_SIZE)
    repeated = [samples[index % len(samples)] for index in range(MAX_BATCH_SIZE)]
    with Traffic(target, repeated, load) as traffic:
        limit = time.monotonic() + 60
        while len(traffic.record.outcomes) < _BATCH_LATENCIES and time.monotonic() < limit:
            time.sleep(0.05)
    return float(np.median(_latencies(traffic.record.select(Verdict.RIGHT))))


def _latencies(outcomes: Sequence[Outcome]) -> list[float]:
    return [each.done - each.sent for each in outcomes]


def _rate(outcomes: Sequence[Outcome]) -> float:
    """Return images per second, without the first and last tenth of the time."""
    moments = sorted(each.done for each in outcomes)
    cut = len(moments) // 10
    kept = moments[cut : len(moments) - cut]
    return (len(kept) - 1) / (kept[-1] - kept[0])


def _quantile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 4) if values else float("nan")
