"""The limit of this machine: decode alone, classifier alone, and both in one process, without any server.

What arrangement of threads and batches is fastest is not assumed: each is tried, and the best is the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jpeg_preprocess.cpus import usable_cpus

from jpeg_bench.ceiling_work import Arrangement, What, prepare, prepare_alone
from jpeg_bench.errors import BenchError
from jpeg_bench.processes import START_S, together
from jpeg_bench.steps import Steps


@dataclass(frozen=True)
class Rate:
    """What an arrangement reached; images_per_s is NaN, and `failure` says why, if it could not be run."""

    arrangement: Arrangement
    images_per_s: float
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        said: dict[str, Any] = {"images_per_s": round(self.images_per_s, 1)} if not self.failure else {}
        return {**asdict(self.arrangement), **said, **({"failure": self.failure} if self.failure else {})}


def arrangements(steps: Steps, what: What, batch_sizes: Sequence[int] = ()) -> list[Arrangement]:
    """What is worth trying on this machine."""
    cpus = usable_cpus()
    if steps.on_gpu:
        return _on_gpu(steps, what, batch_sizes, cpus)
    sizes = [size for size in (batch_sizes or (1, 4, 8)) if size <= steps.max_batch_size]
    single = steps.can_be_one_thread or what == "decode"
    found = [Arrangement(what, "workers", 1, cpus, size) for size in sizes if single]
    if what == "decode":
        # Processes that share no interpreter: is it in the way?
        found += [Arrangement(what, "workers", cpus, 1, size) for size in sizes] if cpus > 1 else []
    if what == "both" and single:
        # While a thread waits for memory or for the interpreter, another may compute.
        found.append(Arrangement(what, "workers", 1, cpus + 1, max(sizes)))
    found += [Arrangement(what, "whole", batch=max(size, cpus)) for size in sorted({sizes[0], sizes[-1]})]
    if what == "both":
        found.append(Arrangement(what, "overlapped", batch=max(sizes)))
    return found


def _on_gpu(steps: Steps, what: What, batch_sizes: Sequence[int], cpus: int) -> list[Arrangement]:
    # Each takes some seconds until its process holds the GPU: few, and far apart.
    sizes = list(batch_sizes or (32, 64, 128))
    largest = sizes[-2:]
    if what == "classifier":
        places: tuple[tuple[Literal["host", "device"], int, list[int]], ...] = (
            ("device", 1, [1, *sizes]),
            ("device", 2, largest),
            ("host", 2, sizes[-1:]),
        )
        return [Arrangement(what, "workers", 1, threads, size, place)
                for place, threads, each in places for size in each]  # fmt: skip
    if what == "decode" and not steps.decodes_on_gpu:
        return [Arrangement(what, "workers", *spread, 8) for spread in ((1, cpus), (cpus, 1))]
    if what == "decode":
        spreads = ((1, 1), (2, 2), (4, 1), (4, 2))
        return [Arrangement(what, "workers", *spread, size) for spread in spreads for size in largest]
    if not steps.decodes_on_gpu:
        return [Arrangement(what, "overlapped", batch=size) for size in largest]
    return [Arrangement(what, "workers", 1, threads, size) for threads in (2, 4) for size in largest]


def rate(
    steps: Steps, photos: Sequence[bytes], arrangement: Arrangement, seconds: float, warmup_s: float = 0.5
) -> Rate:
    """Run one arrangement, in processes of its own."""
    jobs = [(steps, tuple(photos), arrangement, index, (warmup_s, seconds)) for index in range(arrangement.processes)]
    try:
        _, counts = together(prepare, jobs, limit_s=warmup_s + seconds + START_S)
    except BenchError as error:
        return Rate(arrangement, float("nan"), str(error))
    return Rate(arrangement, sum(counts) / seconds)


def best(rates: Sequence[Rate]) -> Rate:
    """The fastest. Raises BenchError, with the first reason, if none could be run."""
    ran = [each for each in rates if not each.failure]
    if not ran:
        raise BenchError(f"no ceiling: {rates[0].failure}")
    return max(ran, key=lambda each: each.images_per_s)


@dataclass(frozen=True)
class Alone:
    """Milliseconds from the bytes of one JPEG to its labels, one after the other, nothing else running."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    images: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def alone(steps: Steps, photos: Sequence[bytes], seconds: float) -> Alone:
    """Decode in the calling thread, classify with all CPUs (or the GPU), and make labels, in one process.

    Raises BenchError.
    """
    _, found = together(prepare_alone, [(steps, tuple(photos), seconds)], limit_s=seconds + START_S)
    p50, p90, p99 = (float(value) for value in np.percentile(found[0], (50, 90, 99)))
    return Alone(p50, p90, p99, len(found[0]))


@dataclass(frozen=True)
class Ceiling:
    """All that was tried, in images/s, and the latency of one image alone."""

    rates: tuple[Rate, ...]
    alone: Alone

    def best(self, what: What) -> Rate:
        """The fastest arrangement. Raises BenchError if none could be run."""
        return best([each for each in self.rates if each.arrangement.what == what])

    @property
    def smaller_images_per_s(self) -> float:
        """Of decode alone and classifier alone, which do not share a processor on a GPU."""
        return min(self.best("decode").images_per_s, self.best("classifier").images_per_s)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts."""
        parts: dict[str, Any] = {
            what: {
                "images_per_s": round(self.best(what).images_per_s, 1),
                "best": self.best(what).to_json(),
                "tried": [each.to_json() for each in self.rates if each.arrangement.what == what],
            }
            for what in WHATS
        }
        return {
            **parts,
            "smaller_of_decode_and_classifier_images_per_s": round(self.smaller_images_per_s, 1),
            "one_at_a_time": self.alone.to_json(),
        }


WHATS: tuple[What, ...] = ("decode", "classifier", "both")


def measure_ceiling(
    steps: Steps,
    photos: Sequence[bytes],
    seconds: float,
    *,
    batch_sizes: Sequence[int] = (),
    tell: Callable[[str], None] = lambda _: None,
) -> Ceiling:
    """Try everything, each for so many seconds. Raises BenchError if nothing can be run."""
    rates = []
    for what in WHATS:
        for arrangement in arrangements(steps, what, batch_sizes):
            found = rate(steps, photos, arrangement, seconds)
            tell(f"{arrangement}: {found.failure or f'{found.images_per_s:.1f} images/s'}")
            rates.append(found)
    one = alone(steps, photos, seconds)
    tell(f"one at a time: p50 {one.p50_ms:.2f} ms, p99 {one.p99_ms:.2f} ms")
    return Ceiling(tuple(rates), one)
