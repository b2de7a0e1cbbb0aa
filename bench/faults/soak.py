"""An hour at four fifths of the capacity, with a worker killed every five minutes: does anything grow?"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from jpeg_bench.process_usage import MIB, process_tree, shm_bytes, shm_prefix
from jpeg_contract.folders import SHARED_MEMORY

from faults import injection
from faults.answers import Verdict
from faults.crowd import crowd
from faults.samples import Sample
from faults.senders import Load, Target
from faults.service import MODELS, Service
from faults.traffic import RECOVERY_S, Traffic
from faults.trials import problems

VALUES = ("pss_mib", "shm_mib", "descriptors", "threads")
ALLOWED_PERCENT = 1.0

_CAPACITY_S = 10.0
_CAPACITY_SENDERS = 12  # of each protocol
_LOOK_S = 0.2
_PROTOCOLS: tuple[Literal["grpc", "http"], ...] = ("grpc", "http")
_BURST = 300
_BURST_LIMIT_S = 30.0
# The burst comes when this part of a life is over.
_WARM_UP_PART = 0.15
# A life is compared in this part of its time, when it has warmed up and before it is ended.
_MATURE = (0.7, 0.95)
# Half-way through, for the growth within a life.
_MIDDLE = (0.4, 0.65)


@dataclass(frozen=True)
class SoakPlan:
    """How to soak.

    Attributes:
        seconds: How long.
        share: Of the capacity.
        kill_every_s: A worker is killed so often; those of all models in turn, of the oldest server.
        sample_every_s: Time between two readings of memory, descriptors and threads.
    """

    seconds: float = 3600.0
    share: float = 0.8
    kill_every_s: float = 300.0
    sample_every_s: float = 5.0


def run_soak(
    service: Service,
    samples: Sequence[Sample],
    plan: SoakPlan,
    *,
    servers: int,
    progress: Callable[[str], None],
    checkpoint: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Soak, and judge.

    Args:
        service: Runs with `servers` tritonservers, and is used by nobody else.
        samples: Good and wrong images.
        plan: How.
        servers: Number of tritonservers.
        progress: Receives the steps.
        checkpoint: Receives the result so far: at the begin, after each kill, and at the end, also at an early one.

    Returns:
        Capacity, rate, readings, kills with their recoveries, counts, `comparison` and `verdict`.
    """
    progress("capacity")
    capacity = measure_capacity(service.target, samples)
    rate = plan.share * capacity
    # Beside the schedule, few requests of several images and of this project's client.
    load = Load(grpc=0, http=0, grpc_batches=1, http_batches=1, clients=1, pause_s=1.0, rate=rate)
    readings: list[dict[str, Any]] = []
    kills: list[dict[str, Any]] = []
    models = itertools.cycle(MODELS)
    bursts: list[str] = []
    result: dict[str, Any] = {
        "plan": plan.__dict__,
        "servers": servers,
        "capacity_per_s": round(capacity, 1),
        "rate_per_s": round(rate, 1),
        "readings": readings,
        "kills": kills,
    }
    checkpoint(result)
    progress(f"{rate:.0f} requests/s, {plan.share:.0%} of {capacity:.0f}, for {plan.seconds:.0f} s")
    with Traffic(service.target, samples, load, keep_s=2 * plan.kill_every_s) as traffic:
        record = traffic.record
        try:
            traffic.wait_until_answering()
            begin = time.monotonic()
            next_kill, next_reading = plan.kill_every_s, 0.0
            killed_at, is_warm = begin, False
            while (now := time.monotonic() - begin) < plan.seconds:
                if now >= next_reading:
                    counts = {verdict.value: record.count(verdict) for verdict in Verdict}
                    readings.append({"at_s": round(now, 1), **counts, **read_service(service)})
                    next_reading += plan.sample_every_s
                # The last life is a whole one, too.
                if now >= next_kill and plan.seconds - now >= 0.98 * plan.kill_every_s:
                    model = next(models)
                    killed_at, is_warm = injection.kill(service.workers(model)[:1]), False
                    progress(f"{now:.0f} s: killed {model}")
                    kills.append({"at_s": round(now, 1), "model": model, "recovery_s": None})
                    next_kill += plan.kill_every_s
                    checkpoint({**result, **record.summary()})
                recovered_at = record.recovered_at(killed_at)
                if kills and not is_warm and recovered_at is not None:
                    kills[-1]["recovery_s"] = round(recovered_at - killed_at, 2)
                if not is_warm and time.monotonic() - killed_at > _WARM_UP_PART * plan.kill_every_s:
                    bursts += _burst(service.target, samples)
                    is_warm = True
                time.sleep(_LOOK_S)
        finally:
            checkpoint({**result, **record.summary()})
    result |= {**record.summary(), "problems": bursts + problems(record)}
    result["comparison"] = compare(readings, plan, servers)
    result["verdict"] = judge(result)
    return result


def _burst(target: Target, samples: Sequence[Sample]) -> list[str]:
    """Fill the queues once in each life, so that all lives have seen the same peak; return what went wrong."""
    return [
        problem
        for protocol in _PROTOCOLS
        for problem in problems(crowd(target, protocol, samples, connections=_BURST, limit_s=_BURST_LIMIT_S))
    ]


def measure_capacity(target: Target, samples: Sequence[Sample]) -> float:
    """Return the requests of one image that the server answers per second, of these samples."""
    load = Load(grpc=_CAPACITY_SENDERS, http=_CAPACITY_SENDERS, grpc_batches=0, http_batches=0, clients=0, pause_s=0)
    with Traffic(target, samples, load) as traffic:
        traffic.wait_until_answering()
        begin = time.monotonic()
        time.sleep(_CAPACITY_S)
        end = time.monotonic()
    right = [each for each in traffic.record.select(Verdict.RIGHT) if begin <= each.done < end]
    return len(right) / (end - begin)


def read_service(service: Service) -> dict[str, Any]:
    """Read jpeg-serve and each of its servers, with their workers.

    Returns:
        `own`: of jpeg-serve alone. `servers`: of each, with its process id and its age in seconds. `shm_mib`: of all
        segments of jpeg-serve's servers, also of dead ones.
    """
    servers = []
    for server in service.servers():
        with contextlib.suppress(psutil.Error):
            servers.append(
                {
                    "pid": server.pid,
                    "age_s": round(time.time() - server.create_time(), 1),
                    "shm_mib": shm_bytes(shm_prefix(server.pid)) / MIB,
                    **_read(process_tree(server.pid)),
                }
            )
    segments = SHARED_MEMORY.glob(f"jpeg_serve_{service.pid}_*")
    in_use = 0
    for segment in segments:
        with contextlib.suppress(OSError):
            in_use += segment.stat().st_blocks * 512  # stat(2): in units of 512 bytes on any file system
    return {"own": _read([psutil.Process(service.pid)]), "servers": servers, "shm_mib": in_use / MIB}


def _read(processes: Sequence[psutil.Process]) -> dict[str, float]:
    total = {"pss_mib": 0.0, "anonymous_mib": 0.0, "descriptors": 0, "threads": 0}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory = process.memory_full_info()
            total["pss_mib"] += memory.pss / MIB
            total["anonymous_mib"] += (memory.rss - memory.shared) / MIB
            # What clients have open at the moment is theirs; a connection that is not closed after its end counts.
            open_now = [each for each in process.net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED]
            total["descriptors"] += process.num_fds() - len(open_now)
            total["threads"] += process.num_threads()
    return total


def compare(readings: Sequence[dict[str, Any]], plan: SoakPlan, servers: int) -> dict[str, Any]:
    """Compare the servers' lives with each other at equal age, and jpeg-serve with itself.

    A kill ends the life of a server and begins the next one's, and a server that has just started grows for a while. So
    each life is represented by its median between 70 and 95 % of its length; in each, a burst has filled the queues
    before. The first life warms the machine up and does not count. The change is that of the least-squares line through
    the lives, from the first to the last. `within` is the change inside a life, from its middle (40 to 65 %) to that
    part, the median over the lives. jpeg-serve lives all the time: the median of its last fifth is compared with that
    of the second fifth, in anonymous memory: whether other programs share its libraries changes its PSS and its private
    memory by 8 MiB.

    Args:
        readings: Of `read_service`, with `at_s`.
        plan: Of the soak.
        servers: Number of tritonservers.

    Returns:
        By value: `lives` (medians), `change_percent`, `noise_percent` (two standard errors of the change),
        `within_percent`; `own_change_percent` by value. None where there is too little to compare.
    """
    life_s = plan.kill_every_s * servers
    lives: dict[int, list[dict[str, Any]]] = {}
    for reading in readings:
        for server in reading["servers"]:
            lives.setdefault(server["pid"], []).append(server)
    whole = [life for life in list(lives.values())[servers:] if life[-1]["age_s"] >= _MATURE[1] * life_s]
    result: dict[str, Any] = {"lives_compared": len(whole), "values": {}, "own_change_percent": {}}
    for value in VALUES:
        mature = [_median(life, value, life_s, _MATURE) for life in whole]
        middle = [_median(life, value, life_s, _MIDDLE) for life in whole]
        grown = [100 * (late / early - 1) for early, late in zip(middle, mature, strict=True) if early]
        result["values"][value] = {
            "lives": [round(each, 2) for each in mature],
            **_change(mature),
            "within_percent": round(float(np.median(grown)), 2) if grown else None,
        }
    fifth = len(readings) // 5
    for value in ("anonymous_mib", "descriptors", "threads") if fifth else ():
        early = np.median([reading["own"][value] for reading in readings[fifth : 2 * fifth]])
        late = np.median([reading["own"][value] for reading in readings[-fifth:]])
        result["own_change_percent"][value] = round(100 * float(late / early - 1), 2)
    return result


def judge(result: dict[str, Any]) -> dict[str, bool]:
    """Return which promises were kept."""
    comparison = result["comparison"]
    changes = [
        (values["change_percent"], max(ALLOWED_PERCENT, values["noise_percent"] or 0.0))
        for values in comparison["values"].values()
    ]
    within = [values["within_percent"] for values in comparison["values"].values()]
    own = list(comparison["own_change_percent"].values())
    recoveries = [kill["recovery_s"] for kill in result["kills"]]
    return {
        "enough_lives": comparison["lives_compared"] >= 2,
        "flat_over_lives": all(change is not None and change <= allowed for change, allowed in changes),
        "flat_within_lives": all(change is not None and change <= ALLOWED_PERCENT for change in within),
        "jpeg_serve_flat": all(change is not None and change <= ALLOWED_PERCENT for change in own),
        "answers_again": all(each is not None and each <= RECOVERY_S for each in recoveries),
        "nothing_lost_or_mixed_up": not result["problems"],
    }


def plot_soak(result: dict[str, Any], file: Path) -> None:
    """Plot readings and rates over time.

    Args:
        result: Of `run_soak`.
        file: PNG file to write.
    """
    from jpeg_bench.plots import import_pyplot, save_figure

    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(3, 2, figsize=(12, 9), sharex=True)
    readings = result["readings"]
    minutes = [reading["at_s"] / 60 for reading in readings]
    lives: dict[int, list[tuple[float, dict[str, Any]]]] = {}
    for minute, reading in zip(minutes, readings, strict=True):
        for server in reading["servers"]:
            lives.setdefault(server["pid"], []).append((minute, server))
    titles = {
        "pss_mib": "each server with its workers, PSS in MiB",
        "shm_mib": "shared memory, MiB",
        "descriptors": "descriptors",
        "threads": "threads",
    }
    for axis, (value, title) in zip(axes.flat, titles.items(), strict=False):
        for life in lives.values():
            axis.plot([minute for minute, _ in life], [server[value] for _, server in life], color="#2a6f97")
        axis.set_title(title)
    axes[0, 1].plot(minutes, [reading["shm_mib"] for reading in readings], color="#d4a373", ls="--", label="all")
    axes[0, 1].legend()
    axes[2, 0].plot(minutes, [reading["own"]["anonymous_mib"] for reading in readings], color="#2a6f97")
    axes[2, 0].set_title("jpeg-serve itself, anonymous memory, MiB")
    for verdict, colour in (("right", "#2a6f97"), ("refused", "#d4a373"), ("lost", "#c1121f"), ("lie", "#000000")):
        rates = [
            (later[verdict] - earlier[verdict]) / (later["at_s"] - earlier["at_s"])
            for earlier, later in itertools.pairwise(readings)
        ]
        axes[2, 1].plot(minutes[1:], rates, color=colour, label=verdict)
    axes[2, 1].set_title("requests per second")
    axes[2, 1].legend()
    for axis in axes.flat:
        for kill in result["kills"]:
            axis.axvline(kill["at_s"] / 60, color="#888888", lw=0.5)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    for axis in axes[2]:
        axis.set_xlabel("minutes")
    save_figure(pyplot, figure, file)


def _median(life: Sequence[dict[str, Any]], value: str, life_s: float, part: tuple[float, float]) -> float:
    begin, end = part
    return float(np.median([each[value] for each in life if begin * life_s <= each["age_s"] < end * life_s]))


def _change(values: Sequence[float]) -> dict[str, float | None]:
    """Return the change of the least-squares line from the first to the last value, relative to the mean.

    The noise is twice the standard error of that change: shared memory grows in steps of a MiB, and how far depends on
    which requests meet; single lives differ by a quarter.
    """
    count, mean = len(values), float(np.mean(values)) if len(values) else 0.0
    if count < 2 or not mean:
        return {"change_percent": None if count < 2 else 0.0, "noise_percent": None}
    places = np.linspace(0, 1, count)
    slope, start = np.polyfit(places, values, 1)
    noise = None
    if count > 3:
        rest = float(np.sum((np.asarray(values) - start - slope * places) ** 2)) / (count - 2)
        noise = round(200 * (rest / float(np.sum((places - 0.5) ** 2))) ** 0.5 / mean, 2)
    return {"change_percent": round(100 * float(slope) / mean, 2), "noise_percent": noise}
