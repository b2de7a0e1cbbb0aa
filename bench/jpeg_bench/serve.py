"""One load on a server: images/s and latency, and what the server's steps, processors and memory did meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jpeg_bench.asks import Ask, Load, Measured, Protocol
from jpeg_bench.errors import BenchError
from jpeg_bench.gpu import watched_gpus
from jpeg_bench.load import Samples, sample
from jpeg_bench.ours import check_answer, check_answers, make_asks
from jpeg_bench.proc import Snapshot, snapshot
from jpeg_bench.recorder import clock
from jpeg_bench.step_statistics import StepCounts, ask_counts, differences
from jpeg_bench.target import Target

_MOST_PROCESSES = 16


@dataclass(frozen=True)
class Point:
    """A load and what came of it.

    steps: of `step_statistics`, None if the server does not tell. cpu_cores: by process, and "all"; memory: after the
    load; both None if the server is not on this machine. gpus: of `gpu`.
    """

    protocol: Protocol
    images_a_request: int
    load: Load
    measured: Measured
    steps: dict[str, Any] | None
    cpu_cores: dict[str, float] | None
    memory: dict[str, Any] | None
    gpus: list[dict[str, Any]]
    samples: Samples

    def __str__(self) -> str:
        load, found = self.load, self.measured
        asked = f"{load.in_flight} in flight" if load.in_flight else f"{load.arrivals_per_s:g} requests/s"
        failed = f", {found.failures} FAILED ({'; '.join(found.messages)})" if found.failures else ""
        limited = ", LIMITED BY THE CLIENT" if found.client_limited else ""
        return (
            f"{self.protocol}, requests of {self.images_a_request}, {asked}: {found.images_per_s:.1f} images/s, "
            f"p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms{failed}{limited}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        load = self.load
        asked: dict[str, Any] = (
            {"in_flight": load.in_flight}
            if load.in_flight
            else {"arrivals_per_s": load.arrivals_per_s, "arrivals": "poisson" if load.poisson else "even"}
        )
        return {
            "protocol": self.protocol,
            "images_a_request": self.images_a_request,
            **asked,
            **self.measured.to_json(),
            "steps": self.steps,
            "cpu_cores": self.cpu_cores,
            "memory": self.memory,
            "gpus": self.gpus,
        }


def prepared(target: Target, protocol: Protocol, photos: Sequence[bytes], images: int) -> list[Ask]:
    """The requests, each of them asked once and its answer read. Raises BenchError if an answer is not right."""
    asks = make_asks(protocol, target.address(protocol), photos, images=images, model=target.model)
    check_answers(asks)
    return asks


def measure(target: Target, asks: Sequence[Ask], load: Load) -> Point:
    """Put a load on the server; if a client process was the limit, once more with twice as many.

    The last answer to each ask is read, too. Raises BenchError if it is not right, or if nothing was answered.
    """
    point = _measure(target, asks, load)
    if point.measured.client_limited and load.processes < _MOST_PROCESSES:
        point = _measure(target, asks, replace(load, processes=2 * load.processes))
    for number, answers in point.samples.answers.items():
        for answer in answers:
            check_answer(asks[number], answer)
    if not point.measured.requests and point.measured.failures:
        raise BenchError(f"{asks[0].protocol}://{asks[0].address} answered nothing: {point.measured.messages[0]}")
    return point


def _measure(target: Target, asks: Sequence[Ask], load: Load) -> Point:
    protocol = asks[0].protocol
    seen: list[tuple[dict[str, StepCounts] | None, Snapshot | None]] = []

    def look() -> None:
        usage = None if target.pid is None else snapshot(target.pid, memory=False)
        seen.append((_counts(target, protocol), usage))

    def watch(begin: float, end: float) -> None:
        time.sleep(max(0.0, begin - clock()))
        look()
        time.sleep(max(0.0, end - clock()))
        look()

    with watched_gpus() as gpus:
        samples = sample(asks, load, watch)
    (counts_before, used_before), (counts_after, used_after) = seen
    return Point(
        protocol=protocol,
        images_a_request=asks[0].images,
        load=load,
        measured=samples.measured(),
        steps=None if counts_before is None or counts_after is None else differences(counts_before, counts_after),
        cpu_cores=used_after.cpu_since(used_before, load.seconds) if used_after and used_before else None,
        memory=None if target.pid is None else snapshot(target.pid).memory(),
        gpus=gpus.to_json(),
        samples=samples,
    )


def _counts(target: Target, protocol: Protocol) -> dict[str, StepCounts] | None:
    try:
        return ask_counts(protocol, target.address(protocol))
    except BenchError:
        return None
