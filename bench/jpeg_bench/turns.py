"""What each has its turn with in a round of a comparison: the ceiling, our server, a peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jpeg_preprocess.cpus import usable_cpus

from jpeg_bench.asks import Load, Protocol
from jpeg_bench.ceiling import Rate, alone, best, rate
from jpeg_bench.ceiling_work import Arrangement
from jpeg_bench.errors import BenchError
from jpeg_bench.load import drive
from jpeg_bench.serve import measure, prepared
from jpeg_bench.steps import Steps
from jpeg_bench.target import own_server

Tell = Callable[[str], None]
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")


@dataclass(frozen=True)
class Loads:
    """The loads of a comparison. many: requests of one image in flight. batch: images of a request.

    batches: such requests in flight. seconds: of each measurement. processes: of the clients.
    """

    many: int = 32
    batch: int = 8
    batches: int = 8
    seconds: float = 5.0
    warmup_s: float = 1.0
    processes: int = 1

    def load(self, in_flight: int) -> Load:
        """A closed loop."""
        return Load(in_flight=in_flight, processes=self.processes, warmup_s=self.warmup_s, seconds=self.seconds)

    def named(self) -> dict[str, tuple[int, Load]]:
        """Images of a request, and the load, of each point."""
        return {
            "one": (1, replace(self.load(1), processes=1)),
            "many": (1, self.load(self.many)),
            "batches": (self.batch, self.load(self.batches)),
        }


def ceiling_turn(
    steps: Steps, photos: Sequence[bytes], candidates: Sequence[Arrangement], seconds: float, tell: Tell
) -> dict[str, Any]:
    """The fastest of the arrangements: both steps in one process, or on a GPU the smaller of the two alone."""
    rates = [rate(steps, photos, each, seconds) for each in candidates]
    parts = {what: best([each for each in rates if each.arrangement.what == what]) for what in _whats(rates)}
    one = alone(steps, photos, seconds)
    slowest = min(part.images_per_s for part in parts.values())
    tell(f"ceiling: {slowest:.1f} images/s, one at a time p50 {one.p50_ms:.2f} ms")
    return {
        "images_per_s": round(slowest, 1),
        "parts": {what: part.to_json() for what, part in parts.items()},
        "p50_ms": round(one.p50_ms, 3),
        "p99_ms": round(one.p99_ms, 3),
    }


def _whats(rates: Sequence[Rate]) -> list[Any]:
    return list(dict.fromkeys(each.arrangement.what for each in rates))


def our_turn(repository: Path, photos: Sequence[bytes], loads: Loads, tell: Tell, name: str) -> dict[str, Any]:
    """Our server, started for this: one request in flight, many, and batches, over gRPC and HTTP."""
    points: dict[str, Any] = {}
    with own_server(repository) as target:
        tell(f"{name}: ready after {target.start_s} s, idle {target.idle and target.idle['pss_mib']} MiB")
        for protocol in PROTOCOLS:
            for key, (images, load) in loads.named().items():
                point = measure(target, prepared(target, protocol, photos, images), load)
                tell(f"{name}: {point}")
                points[f"{protocol} {key}"] = point.to_json()
        return {"start_s": target.start_s, "idle": target.idle, "points": points}


def peer_turn(
    who: tuple[str, Any], repository: Path, photos: Sequence[bytes], loads: Loads, tell: Tell
) -> dict[str, Any]:
    """A peer, started for this: one request in flight, and many. A failure is its result, and is not raised.

    who: its name and configuration. repository: whose network and settings it takes.
    """
    from jpeg_bench.peers import running

    name, configuration = who
    points: dict[str, Any] = {}
    try:
        with running(name, configuration, usable_cpus(), repository=repository) as peer:
            asks = peer.asks(photos)
            for key, (images, load) in loads.named().items():
                if images != 1:
                    continue
                measured = drive(asks, load)
                failed = f", {measured.failures} FAILED ({measured.messages[0]})" if measured.failures else ""
                tell(
                    f"{name} {configuration}, {load.in_flight} in flight: {measured.images_per_s:.1f} images/s, "
                    f"p50 {measured.p50_ms:.1f} ms, p99 {measured.p99_ms:.1f} ms{failed}"
                )
                points[key] = {"in_flight": load.in_flight, **measured.to_json()}
            memory = round(peer.memory_mib(), 1)
            return {"about": peer.to_json(), "points": points, "memory_mib": memory, "ready_s": peer.ready_s}
    except BenchError as error:
        tell(f"{name} {configuration}: {error}")
        return {"points": points, "failure": str(error)}
