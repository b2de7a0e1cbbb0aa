"""One worker process of the ceiling: the stages of the ensemble in threads."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from jpeg_bench.errors import BenchError
from jpeg_bench.photos import rotate_batches
from jpeg_bench.pipeline import Classify, Decode, Pipeline, Pixels
from jpeg_bench.recorder import clock

Part = Literal["decode", "classifier", "both"]
"""Stages that a ceiling covers; "both" includes the postprocessing."""

Memory = Literal["host", "device"]

Step = Callable[[], None]
"""Processes one batch."""

Producer = Callable[[threading.Event], None]
"""Decodes batches in the background until the event is set."""

_WARM_UP_IMAGES = 20
_DECODE_TIMEOUT_S = 30


@dataclass(frozen=True)
class Arrangement:
    """How threads and batches share the work.

    Attributes:
        part: Stages to run.
        style: "workers": each thread processes batches of its own with a single-threaded decoder and classifier.
            "sequential": one batch at a time; all CPUs decode it, then all CPUs classify it.
            "pipelined": threads that decode hand batches to threads that classify; each takes all CPUs.
        processes: Number of processes, for "workers".
        threads: Threads per process, for "workers"; threads that decode, for "pipelined".
        classifiers: Threads that classify, for "pipelined".
        batch: Images per batch.
        pixels: Memory that holds the input of the classifier alone.
    """

    part: Part
    style: Literal["workers", "sequential", "pipelined"] = "workers"
    processes: int = 1
    threads: int = 1
    classifiers: int = 1
    batch: int = 1
    pixels: Memory = "host"

    def __str__(self) -> str:
        spread = {
            "workers": f"{self.processes} x {self.threads} ",
            "pipelined": f"{self.threads} to {self.classifiers} ",
            "sequential": "",
        }[self.style]
        memory = ", pixels on the GPU" if self.pixels == "device" else ""
        return f"{self.part}, {spread}{self.style}, batch {self.batch}{memory}"


class Timing(NamedTuple):
    """The timing of a measurement.

    Attributes:
        warmup_s: Seconds before the measurement.
        seconds: Duration of the measurement.
    """

    warmup_s: float
    seconds: float


def prepare_worker(
    pipeline: Pipeline, photos: Sequence[bytes], arrangement: Arrangement, index: int, timing: Timing
) -> Callable[[float], float]:
    """Open the stages, in a worker process.

    Args:
        pipeline: The ensemble.
        photos: Encoded images.
        arrangement: How threads and batches share the work.
        index: Number of this process.
        timing: Timing of the measurement.

    Returns:
        Function that works from a start time on, and returns the number of images during the measurement. A batch on
        an edge of the measurement counts with its fraction inside.
    """
    steps, producers = _open(pipeline, list(photos), arrangement, index)
    for step in steps:
        step()  # frameworks initialise in their first run

    def run(start: float) -> float:
        begin = start + timing.warmup_s
        end = begin + timing.seconds
        batches = [0.0] * len(steps)
        failures: list[Exception] = []
        stop = threading.Event()

        def work(number: int) -> None:
            try:
                started = clock()
                while started < end:
                    steps[number]()
                    finished = clock()
                    inside = max(0.0, min(finished, end) - max(started, begin))
                    batches[number] += inside / (finished - started)
                    started = finished
            except Exception as error:
                failures.append(error)

        def produce(producer: Producer) -> None:
            try:
                producer(stop)
            except Exception as error:
                failures.append(error)

        background = [threading.Thread(target=produce, args=(producer,)) for producer in producers]
        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(steps))]
        for thread in (*background, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        for thread in background:
            thread.join()
        if failures:
            raise failures[0]
        return sum(batches) * arrangement.batch

    return run


def prepare_single_image(pipeline: Pipeline, photos: Sequence[bytes], seconds: float) -> Callable[[float], list[float]]:
    """Open the stages for single images, in a worker process.

    Args:
        pipeline: The ensemble.
        photos: Encoded images.
        seconds: Duration of the measurement.

    Returns:
        Function that classifies one image at a time from a start time on, and returns the latency of each in
        milliseconds.
    """
    step = _chain(
        itertools.cycle([[photo] for photo in photos]),
        pipeline.open_decoder(),
        pipeline.open_classifier(),
        pipeline.open_postprocessor(),
    )
    for _ in range(_WARM_UP_IMAGES):
        step()

    def run(start: float) -> list[float]:
        latencies = []
        while (begin := clock()) < start + seconds:
            step()
            latencies.append((clock() - begin) * 1e3)
        return latencies

    return run


def _open(
    pipeline: Pipeline, photos: list[bytes], arrangement: Arrangement, index: int
) -> tuple[list[Step], list[Producer]]:
    """Return a step for each thread, and the producers of a pipelined arrangement."""
    batches = rotate_batches(photos, arrangement.batch)
    if arrangement.style == "pipelined":
        return _open_pipelined(pipeline, batches, arrangement)
    workers = arrangement.style == "workers"
    cpus = 1 if workers and not pipeline.classifier_on_gpu else None
    steps = []
    for number in range(arrangement.threads if workers else 1):
        decode: Decode = pipeline.open_decoder(1 if workers else 0)
        first = (index + number) % len(batches)
        inputs = itertools.cycle(batches[first:] + batches[:first])
        if arrangement.part == "decode":
            steps.append(_chain(inputs, decode))
            continue
        classify = pipeline.open_classifier(cpus=cpus, max_batch_size=arrangement.batch)
        if arrangement.part == "classifier":
            pixels = [_place(decode(batch), arrangement.pixels) for batch in batches]
            steps.append(_chain(itertools.cycle(pixels), classify))
        else:
            steps.append(_chain(inputs, decode, classify, pipeline.open_postprocessor()))
    return steps, []


def _chain(inputs: Iterator[Any], *functions: Callable[[Any], Any]) -> Step:
    def step() -> None:
        value = next(inputs)
        for function in functions:
            value = function(value)

    return step


def _open_pipelined(
    pipeline: Pipeline, batches: list[list[bytes]], arrangement: Arrangement
) -> tuple[list[Step], list[Producer]]:
    inputs = itertools.cycle(batches)  # the interpreter's lock makes each step one
    decoders = [pipeline.open_decoder() for _ in range(arrangement.threads)]
    decoded: queue.Queue[Pixels] = queue.Queue(maxsize=2 * arrangement.classifiers)

    def producer(decode: Decode) -> Producer:
        def produce(stop: threading.Event) -> None:
            while not stop.is_set():
                pixels = decode(next(inputs))
                while not stop.is_set():
                    try:
                        decoded.put(pixels, timeout=0.1)
                        break
                    except queue.Full:
                        pass

        return produce

    def step(classify: Classify, postprocess: Callable[[Any], Any]) -> Step:
        def run() -> None:
            try:
                pixels = decoded.get(timeout=_DECODE_TIMEOUT_S)
            except queue.Empty as error:
                raise BenchError(f"no batch was decoded for {_DECODE_TIMEOUT_S} s", reason="decode_timeout") from error
            postprocess(classify(pixels))

        return run

    steps = []
    for _ in range(arrangement.classifiers):
        # Its first run, before the decoders start.
        decoded.put(decoders[0](next(inputs)))
        classify = pipeline.open_classifier(max_batch_size=arrangement.batch)
        steps.append(step(classify, pipeline.open_postprocessor()))
    return steps, [producer(decode) for decode in decoders]


def _place(pixels: Pixels, memory: Memory) -> Pixels:
    """Return the pixels as a NumPy or a CuPy array."""
    if memory == "host":
        return pixels if isinstance(pixels, np.ndarray) else pixels.get()
    import cupy

    placed = cupy.asarray(pixels)
    cupy.cuda.Device().synchronize()
    return placed
