"""The limit of this machine without a server: decoder alone, classifier alone, and both in one process.

Several arrangements of threads and batches are measured; the fastest is the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jpeg_contract.command_line import Progress
from jpeg_contract.cpus import usable_cpus

from jpeg_bench.ceiling_worker import Arrangement, Memory, Part, Timing, prepare_single_image, prepare_worker
from jpeg_bench.errors import BenchError, InvalidOption
from jpeg_bench.pipeline import Pipeline
from jpeg_bench.worker_processes import PREPARE_TIMEOUT_S, run_together

PARTS: tuple[Part, ...] = ("decode", "classifier", "both")

_WARM_UP_S = 0.5
_CPU_BATCHES = (1, 4, 8)
_GPU_BATCHES = (32, 64, 128)


@dataclass(frozen=True)
class Throughput:
    """The throughput of one arrangement.

    Attributes:
        arrangement: The arrangement.
        images_per_s: Images per second; NaN if it failed.
        failure: Error message if it failed, otherwise empty.
    """

    arrangement: Arrangement
    images_per_s: float
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the arrangement with its throughput or failure."""
        outcome = {"failure": self.failure} if self.failure else {"images_per_s": round(self.images_per_s, 1)}
        return {**asdict(self.arrangement), **outcome}


@dataclass(frozen=True)
class SingleImageLatency:
    """Latency from one encoded image to its labels in one process that does nothing else, in milliseconds.

    Attributes:
        p50_ms: Median.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        images: Number of images.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return the latencies as JSON values."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Ceiling:
    """The throughput of all arrangements, and the latency of a single image.

    Attributes:
        throughputs: One for each arrangement.
        single_image: Latency of a single image.
    """

    throughputs: tuple[Throughput, ...]
    single_image: SingleImageLatency

    def fastest(self, part: Part) -> Throughput:
        """Return the fastest arrangement of a part. Raises BenchError if all failed."""
        return fastest([each for each in self.throughputs if each.arrangement.part == part])

    @property
    def separate_images_per_s(self) -> float:
        """The smaller throughput of decoder alone and classifier alone: the ceiling if they share no processor."""
        return min(self.fastest("decode").images_per_s, self.fastest("classifier").images_per_s)

    def to_json(self) -> dict[str, Any]:
        """Return the ceiling as JSON values."""
        return {
            **{
                part: {
                    "images_per_s": round(self.fastest(part).images_per_s, 1),
                    "fastest": self.fastest(part).to_json(),
                    "tried": [each.to_json() for each in self.throughputs if each.arrangement.part == part],
                }
                for part in PARTS
            },
            "smaller_of_decode_and_classifier_images_per_s": round(self.separate_images_per_s, 1),
            "single_image": self.single_image.to_json(),
        }


def measure_ceiling(
    pipeline: Pipeline,
    photos: Sequence[bytes],
    seconds: float,
    *,
    batch_sizes: Sequence[int] = (),
    progress: Progress = lambda _: None,
) -> Ceiling:
    """Measure all arrangements, and the latency of a single image.

    Args:
        pipeline: The ensemble.
        photos: Encoded images.
        seconds: Duration of each measurement.
        batch_sizes: Images per batch; empty takes the defaults of `arrangements`.
        progress: Called with each arrangement before its measurement.

    Raises:
        BenchError: A single image cannot be classified.
        InvalidOption: Every batch size exceeds the maximum of the classifier.
    """
    throughputs = []
    for part in PARTS:
        for arrangement in arrangements(pipeline, part, batch_sizes):
            progress(f"ceiling: {arrangement}")
            throughputs.append(measure_throughput(pipeline, photos, arrangement, seconds))
    progress("ceiling: single image")
    return Ceiling(tuple(throughputs), measure_single_image(pipeline, photos, seconds))


def arrangements(pipeline: Pipeline, part: Part, batch_sizes: Sequence[int] = ()) -> list[Arrangement]:
    """Return the arrangements to try on this machine.

    Args:
        pipeline: The ensemble.
        part: Stages to run.
        batch_sizes: Images per batch; empty takes 1, 4 and 8, or on a GPU 32, 64 and 128.

    Raises:
        InvalidOption: Every batch size exceeds the maximum of the classifier.
    """
    cpus = usable_cpus()
    if pipeline.on_gpu:
        return _gpu_arrangements(pipeline, part, batch_sizes or _GPU_BATCHES, cpus)
    sizes = [size for size in batch_sizes or _CPU_BATCHES if size <= pipeline.max_batch_size]
    if not sizes:
        raise InvalidOption(f"every batch size exceeds max_batch_size, which is {pipeline.max_batch_size}")
    found = [Arrangement(part, "workers", 1, cpus, batch=size) for size in sizes]
    if part == "decode" and cpus > 1:
        # Whether the interpreter's lock limits the decoder: processes do not share it.
        found += [Arrangement(part, "workers", cpus, 1, batch=size) for size in sizes]
    if part == "both":
        # One more thread computes while another waits for memory or for the interpreter's lock.
        found.append(Arrangement(part, "workers", 1, cpus + 1, batch=max(sizes)))
    found += [Arrangement(part, "sequential", batch=max(size, cpus)) for size in sorted({sizes[0], sizes[-1]})]
    if part == "both":
        found.append(Arrangement(part, "pipelined", batch=max(sizes)))
    return found


def _gpu_arrangements(pipeline: Pipeline, part: Part, sizes: Sequence[int], cpus: int) -> list[Arrangement]:
    # Each takes seconds to initialise the GPU: few, with distant values.
    largest = sizes[-2:]
    if part == "classifier":
        places: tuple[tuple[Memory, int, Sequence[int]], ...] = (
            ("device", 1, [1, *sizes]),
            ("device", 2, largest),
            ("host", 2, sizes[-1:]),
        )
        return [
            Arrangement(part, "workers", 1, threads, batch=size, pixels=memory)
            for memory, threads, batches in places
            for size in batches
        ]
    if part == "decode" and not pipeline.decodes_on_gpu:
        return [Arrangement(part, "workers", *spread, batch=8) for spread in ((1, cpus), (cpus, 1))]
    if part == "decode":
        spreads = ((1, 1), (2, 2), (4, 1), (4, 2))
        return [Arrangement(part, "workers", *spread, batch=size) for spread in spreads for size in largest]
    if not pipeline.decodes_on_gpu:
        return [Arrangement(part, "pipelined", batch=size) for size in largest]
    spread = ((1, 1), (2, 1), (2, 2), (3, 2))
    return [
        *(Arrangement(part, "workers", 1, threads, batch=size) for threads in (2, 4) for size in largest),
        *(
            Arrangement(part, "pipelined", threads=decoders, classifiers=classifiers, batch=size)
            for decoders, classifiers in spread
            for size in largest
        ),
    ]


def measure_throughput(
    pipeline: Pipeline,
    photos: Sequence[bytes],
    arrangement: Arrangement,
    seconds: float,
    warmup_s: float = _WARM_UP_S,
) -> Throughput:
    """Measure one arrangement in worker processes. A failure is part of the result.

    Args:
        pipeline: The ensemble.
        photos: Encoded images.
        arrangement: The arrangement.
        seconds: Duration of the measurement.
        warmup_s: Seconds before the measurement.
    """
    timing = Timing(warmup_s, seconds)
    jobs = [(pipeline, tuple(photos), arrangement, index, timing) for index in range(arrangement.processes)]
    try:
        _, images = run_together(prepare_worker, jobs, timeout_s=warmup_s + seconds + PREPARE_TIMEOUT_S)
    except BenchError as error:
        return Throughput(arrangement, math.nan, str(error))
    return Throughput(arrangement, sum(images) / seconds)


def measure_single_image(pipeline: Pipeline, photos: Sequence[bytes], seconds: float) -> SingleImageLatency:
    """Measure the latency of single images in one process, with all CPUs or the GPU.

    Args:
        pipeline: The ensemble.
        photos: Encoded images.
        seconds: Duration of the measurement.

    Raises:
        BenchError: An image cannot be classified.
    """
    jobs = [(pipeline, tuple(photos), seconds)]
    _, (latencies,) = run_together(prepare_single_image, jobs, timeout_s=seconds + PREPARE_TIMEOUT_S)
    p50, p90, p99 = (float(value) for value in np.percentile(latencies, (50, 90, 99)))
    return SingleImageLatency(p50, p90, p99, len(latencies))


def fastest(throughputs: Sequence[Throughput]) -> Throughput:
    """Return the fastest arrangement. Raises BenchError with the first failure if all failed."""
    succeeded = [each for each in throughputs if not each.failure]
    if not succeeded:
        raise BenchError(f"the ceiling cannot be measured: {throughputs[0].failure}", reason="ceiling_failed")
    return max(succeeded, key=lambda each: each.images_per_s)
