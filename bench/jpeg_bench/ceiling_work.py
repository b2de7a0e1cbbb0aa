"""What a process does whose speed is a ceiling: the ensemble's steps in threads, as an arrangement says."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jpeg_bench.errors import BenchError
from jpeg_bench.photos import batches
from jpeg_bench.recorder import clock
from jpeg_bench.steps import Decode, Pixels, Steps

What = Literal["decode", "classifier", "both"]

Step = Callable[[], None]
Feeder = Callable[[threading.Event], None]

_WARM_UP_IMAGES = 20
_STARVED_S = 30


@dataclass(frozen=True)
class Arrangement:
    """How the work is spread.

    style "workers": each thread decodes and classifies batches of its own, with a decoder and a classifier of one
    thread. "whole": one batch at a time, its images decoded by a pool of all CPUs, then classified by all CPUs.
    "overlapped": as "whole", but the next batch is decoded while this one is classified. processes, threads: of
    `workers`. batch: images. pixels: where the classifier alone finds its input.
    """

    what: What
    style: Literal["workers", "whole", "overlapped"] = "workers"
    processes: int = 1
    threads: int = 1
    batch: int = 1
    pixels: Literal["host", "device"] = "host"

    def __str__(self) -> str:
        spread = f"{self.processes} x {self.threads} " if self.style == "workers" else ""
        where = ", pixels on the GPU" if self.pixels == "device" else ""
        return f"{self.what}, {spread}{self.style}, batches of {self.batch}{where}"


def prepare(
    steps: Steps, photos: Sequence[bytes], arrangement: Arrangement, index: int, timing: tuple[float, float]
) -> Callable[[float], float]:
    """In a process of its own: open what is needed; what is returned counts the images of the window.

    timing: seconds of warm-up and of the window. Of a batch that lies on an edge of it, the part within counts.
    """
    warmup_s, seconds = timing
    work, feeder = _open(steps, list(photos), arrangement, index)
    for step in work:
        step()  # frameworks settle things in the first run

    def run(start: float) -> float:
        begin, end = start + warmup_s, start + warmup_s + seconds
        done = [0.0] * len(work)
        failures: list[Exception] = []
        stop = threading.Event()

        def repeat(number: int) -> None:
            try:
                begun = clock()
                while begun < end:
                    work[number]()
                    ended = clock()
                    done[number] += max(0.0, min(ended, end) - max(begun, begin)) / (ended - begun)
                    begun = ended
            except Exception as error:
                failures.append(error)

        def feed() -> None:
            try:
                if feeder is not None:
                    feeder(stop)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=repeat, args=(number,)) for number in range(len(work))]
        for thread in (beside := threading.Thread(target=feed), *threads):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        beside.join()
        if failures:
            raise failures[0]
        return sum(done) * arrangement.batch

    return run


def prepare_alone(steps: Steps, photos: Sequence[bytes], seconds: float) -> Callable[[float], list[float]]:
    """In a process of its own: what is returned takes one image after the other, and gives the milliseconds of each."""
    decode, classify, postprocess = steps.open_decode(), steps.open_classify(), steps.open_postprocess()
    step = _chain(itertools.cycle([[photo] for photo in photos]), decode, classify, postprocess)
    for _ in range(_WARM_UP_IMAGES):
        step()

    def run(start: float) -> list[float]:
        taken = []
        while (begun := clock()) < start + seconds:
            step()
            taken.append((clock() - begun) * 1e3)
        return taken

    return run


def _open(steps: Steps, photos: list[bytes], arrangement: Arrangement, index: int) -> tuple[list[Step], Feeder | None]:
    """What each thread repeats, for one batch, and what feeds it beside."""
    groups = batches(photos, arrangement.batch)
    if arrangement.style == "overlapped":
        return _overlapped(steps, groups)
    workers = arrangement.style == "workers"
    found = []
    for number in range(arrangement.threads if workers else 1):
        decode: Decode = steps.open_decode(1 if workers else 0)
        turns = itertools.cycle(groups[(index + number) % len(groups) :] + groups[: (index + number) % len(groups)])
        if arrangement.what == "decode":
            found.append(_chain(turns, decode))
            continue
        classify = steps.open_classify(one_thread=workers and steps.can_be_one_thread, largest=arrangement.batch)
        if arrangement.what == "classifier":
            pixels = [_placed(decode(group), arrangement.pixels) for group in groups]
            found.append(_chain(itertools.cycle(pixels), classify))
        else:
            found.append(_chain(turns, decode, classify, steps.open_postprocess()))
    return found, None


def _chain(turns: Iterator[Any], *functions: Callable[[Any], Any]) -> Step:
    def step() -> None:
        value = next(turns)
        for function in functions:
            value = function(value)

    return step


def _overlapped(steps: Steps, groups: list[list[bytes]]) -> tuple[list[Step], Feeder]:
    decode, classify, postprocess = (
        steps.open_decode(),
        steps.open_classify(largest=len(groups[0])),
        steps.open_postprocess(),
    )
    turns = itertools.cycle(groups)
    ready: queue.Queue[Pixels] = queue.Queue(maxsize=2)
    ready.put(decode(next(turns)))

    def feed(stop: threading.Event) -> None:
        while not stop.is_set():
            pixels = decode(next(turns))
            while not stop.is_set():
                try:
                    ready.put(pixels, timeout=0.1)
                    break
                except queue.Full:
                    pass

    def take() -> None:
        try:
            pixels = ready.get(timeout=_STARVED_S)
        except queue.Empty as error:
            raise BenchError(f"nothing was decoded for {_STARVED_S} s") from error
        postprocess(classify(pixels))

    return [take], feed


def _placed(pixels: Pixels, where: Literal["host", "device"]) -> Pixels:
    """The pixels as NumPy or as CuPy array, wherever they came into being."""
    if where == "host":
        return pixels if isinstance(pixels, np.ndarray) else pixels.get()
    import cupy

    placed = cupy.asarray(pixels)
    cupy.cuda.Device().synchronize()
    return placed
