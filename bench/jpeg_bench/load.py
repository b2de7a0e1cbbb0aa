"""Puts a load on a server from processes of its own, and says what came of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpeg_bench.asks import Ask, Load, Measured
from jpeg_bench.processes import together
from jpeg_bench.recorder import Notes, Recorder

_HAND_OVER_S = 60.0
# Above this share of one CPU, a client process may be what was measured.
CLIENT_LIMIT = 0.8


@dataclass(frozen=True)
class Samples:
    """All requests that a load made, from all its processes.

    begin, end: the window, in seconds on `recorder.clock`. due, done: of each request answered rightly. ask: its
    number among the asks. images: how many each ask carries. cpu_s: of each client process within the window.
    answers: the last answer to each ask, as it came: bytes of the gRPC message, or the whole HTTP answer. closed_loop:
    see `rates`.
    """

    begin: float
    end: float
    due: NDArray[np.float64]
    done: NDArray[np.float64]
    ask: NDArray[np.int64]
    images: NDArray[np.int64]
    failures: int
    held_back: int
    reconnects: int
    messages: tuple[str, ...]
    cpu_s: tuple[float, ...]
    answers: dict[int, list[bytes]] = field(default_factory=dict)
    closed_loop: bool = True

    def between(self, begin: float, end: float) -> Samples:
        """The same requests, seen in a part of the window. Failures and CPU stay with the whole."""
        return replace(self, begin=begin, end=end, failures=0, held_back=0, reconnects=0, messages=(), cpu_s=())

    def latencies_ms(self) -> NDArray[np.float64]:
        """Of all requests that were due in the window, also of those that were answered after it."""
        began = (self.due >= self.begin) & (self.due < self.end)
        latencies: NDArray[np.float64] = (self.done[began] - self.due[began]) * 1e3
        return latencies

    def rates(self) -> tuple[float, float]:
        """Images and requests per second.

        Open loop: those that were answered within the window. Closed loop: of a request that lies on an edge of the
        window, the part of its time within it counts, as in the ceiling: with 8 requests of 8 images in flight,
        answers come in lumps of 64, and which lump falls into the window would be a matter of luck.
        """
        if self.closed_loop:
            inside = np.minimum(self.done, self.end) - np.maximum(self.due, self.begin)
            parts = np.clip(inside / np.maximum(self.done - self.due, 1e-9), 0, 1)
        else:
            parts = ((self.done >= self.begin) & (self.done < self.end)).astype(np.float64)
        seconds = self.end - self.begin
        return float((parts * self.images[self.ask]).sum()) / seconds, float(parts.sum()) / seconds

    def measured(self) -> Measured:
        """The numbers."""
        seconds = self.end - self.begin
        within = (self.done >= self.begin) & (self.done < self.end)
        images = int(self.images[self.ask[within]].sum())
        images_per_s, requests_per_s = self.rates()
        latencies = self.latencies_ms()
        p50, p90, p99 = np.percentile(latencies, (50, 90, 99)) if latencies.size else (np.nan,) * 3
        share = max(self.cpu_s, default=0.0) / seconds
        return Measured(
            images_per_s=images_per_s,
            requests_per_s=requests_per_s,
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            mean_ms=float(latencies.mean()) if latencies.size else float("nan"),
            max_ms=float(latencies.max()) if latencies.size else float("nan"),
            requests=int(within.sum()),
            images=images,
            failures=self.failures,
            seconds=seconds,
            client_cpu_cores=sum(self.cpu_s) / seconds,
            client_cpu_share_of_process=share,
            client_limited=share > CLIENT_LIMIT,
            client_processes=len(self.cpu_s),
            held_back=self.held_back,
            reconnects=self.reconnects,
            messages=self.messages,
        )


def drive(asks: Sequence[Ask], load: Load) -> Measured:
    """Ask in rotation as `load` says. All asks go to one address, by one protocol.

    Failures are counted in `Measured.failures` and are no throughput. Raises BenchError if nothing answers there at
    all.
    """
    return sample(asks, load).measured()


def sample(asks: Sequence[Ask], load: Load, watch: Callable[[float, float], None] = lambda *_: None) -> Samples:
    """As `drive`, with every single request.

    watch: called when all begin, with begin and end of the window on `recorder.clock`; what it does happens meanwhile.
    """
    if not asks or len({(ask.protocol, ask.address, ask.path) for ask in asks}) != 1:
        raise ValueError("asks must be at least one, and all to one address and path by one protocol")
    shares = load.shares()
    jobs = [(list(asks), share, index, len(shares)) for index, share in enumerate(shares)]
    limit_s = load.warmup_s + load.seconds + 2 * load.timeout_s + _HAND_OVER_S
    start, notes = together(prepare, jobs, limit_s=limit_s, meanwhile=lambda start: watch(*_window(start, load)))
    return replace(_all_samples(asks, _window(start, load), notes), closed_loop=load.in_flight > 0)


def prepare(asks: Sequence[Ask], load: Load, index: int, count: int) -> Callable[[float], Notes]:
    """In a process of its own: connect; what is returned asks from the given start on."""
    worker: Any
    # Each imports what it needs: who asks over HTTP needs no libcurl.
    if asks[0].protocol == "http":
        from jpeg_bench.http_load import HttpLoad

        worker = HttpLoad(asks, load, index, count)
    else:
        from jpeg_bench.grpc_load import GrpcLoad

        worker = GrpcLoad(asks, load, index, count)
    gc.freeze()

    def run(start: float) -> Notes:
        recorder = Recorder(*_window(start, load))
        worker.run(start, recorder)
        return recorder.notes

    return run


def _window(start: float, load: Load) -> tuple[float, float]:
    return start + load.warmup_s, start + load.warmup_s + load.seconds


def _all_samples(asks: Sequence[Ask], window: tuple[float, float], notes: Sequence[Notes]) -> Samples:
    answers: dict[int, list[bytes]] = {}
    for each in notes:
        for ask, answer in each.answers.items():
            answers.setdefault(ask, []).append(answer)
    return Samples(
        begin=window[0],
        end=window[1],
        due=np.concatenate([np.frombuffer(each.due, np.float64) for each in notes]),
        done=np.concatenate([np.frombuffer(each.done, np.float64) for each in notes]),
        ask=np.concatenate([np.frombuffer(each.asks, np.uint16) for each in notes]).astype(np.int64),
        images=np.array([ask.images for ask in asks], np.int64),
        failures=sum(each.failures for each in notes),
        held_back=sum(each.held_back for each in notes),
        reconnects=sum(each.reconnects for each in notes),
        messages=tuple(dict.fromkeys(message for each in notes for message in each.messages))[:5],
        cpu_s=tuple(each.cpu_s for each in notes),
        answers=answers,
    )
