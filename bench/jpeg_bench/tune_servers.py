"""Runs the servers of two settings side by side and measures them alternately, for `tune_search`."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from tempfile import TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import psutil
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.errors import ReasonedError

from jpeg_bench.ensemble_requests import best_labels, check_responses, prepare_requests
from jpeg_bench.errors import BenchError
from jpeg_bench.load import Load, PreparedRequest, Protocol
from jpeg_bench.load_generator import sample_load
from jpeg_bench.options import Goal
from jpeg_bench.process_usage import MIB, Usage, read_usage
from jpeg_bench.recorder import clock
from jpeg_bench.tune_search import CandidateFailed, Point
from jpeg_bench.tune_settings import Tunable

if TYPE_CHECKING:
    from jpeg_serve.supervisor import Supervisor

# Load before a measurement: more for a server that was just started.
_WARM_UP_S, _FIRST_WARM_UP_S = 0.3, 1.0
# Over one connection, all requests of gRPC reach one server.
_CHANNELS_PER_SERVER = 8
# Free memory that a second server needs, compared with what the first one uses.
_SPARE = 1.5
# Part of the CPUs that others may use during a trial. With programs beside it, whoever has more processes gets a larger
# part of the CPUs: on two of them, two servers reached 1.45 of the throughput of one beside a busy program, 0.91 alone.
_DISTURBED = 0.1
_MOST_TRIES = 3
# A pair is measured again if so many times its duration is left.
_AGAIN = 4.0
# A candidate may take so much longer to start than the servers before it.
_LEAST_START_S, _START_FACTOR = 15.0, 5.0


@dataclass(frozen=True)
class LoadPart:
    """One load of the mix that is measured.

    Attributes:
        protocol: Protocol of the requests.
        batch_size: Images per request.
        concurrency: Concurrent requests.
    """

    protocol: Protocol
    batch_size: int
    concurrency: int


@dataclass(frozen=True)
class Objective:
    """What is better.

    Attributes:
        goal: What counts.
        parts: The loads; the geometric mean of their ratios counts.
        p99_limit_ms: Bound of the 99th percentile of the latency, in milliseconds; None for none.
    """

    goal: Goal
    parts: tuple[LoadPart, ...]
    p99_limit_ms: float | None = None

    def ratio(self, candidate: Sequence[Trial], incumbent: Sequence[Trial]) -> float:
        """Return how much better a candidate is: 0 if it must not be chosen, infinity if only it may be.

        If neither may be, the one is better that is nearer to it.

        Args:
            candidate: One trial for each part.
            incumbent: The same of the incumbent.
        """
        mine, theirs = self.excess(candidate), self.excess(incumbent)
        if mine and theirs:
            return theirs / mine
        if mine or theirs:
            return 0.0 if mine else math.inf
        return math.exp(
            statistics.fmean(
                math.log(one.score(self.goal) / other.score(self.goal))
                for one, other in zip(candidate, incumbent, strict=True)
            )
        )

    def excess(self, trials: Sequence[Trial]) -> float:
        """Return how far measurements are from what may be chosen; 0 if they may be.

        Failures count most; without them, the 99th percentile relative to its bound.
        """
        failures = sum(trial.failures for trial in trials)
        if failures:
            return 1e3 + failures
        worst = max(trial.p99_ms for trial in trials) / self.p99_limit_ms if self.p99_limit_ms else 0.0
        return worst if worst > 1 else 0.0


@dataclass(frozen=True)
class Trial:
    """A short measurement of a server under one load.

    Attributes:
        images_per_s: Throughput.
        p50_ms: Median latency in milliseconds.
        p99_ms: 99th percentile.
        failures: Failed requests; all of them if nothing succeeded.
        client_limited: Whether the clients may limit the throughput.
        others_cpus: How many CPUs other programs used, and other virtual machines.
    """

    images_per_s: float
    p50_ms: float
    p99_ms: float
    failures: int
    client_limited: bool
    others_cpus: float = 0.0

    @property
    def is_disturbed(self) -> bool:
        """Whether others used so much of the CPUs that it says little."""
        return self.others_cpus > _DISTURBED * usable_cpus()

    def score(self, goal: Goal) -> float:
        """Return what is to become large."""
        return self.images_per_s if goal == "throughput" else 1 / self.p50_ms


@dataclass
class _Served:
    """The servers of a point.

    Attributes:
        supervisor: Runs them.
        close: Ends them, and removes their files.
        requests: Those of each part.
        is_warm: Whether they were measured before.
    """

    supervisor: Supervisor
    close: ExitStack
    requests: list[list[PreparedRequest]]
    channels: int
    is_warm: bool = False


@dataclass
class Servers:
    """Starts, measures and ends servers. A context manager: it leaves none behind.

    Attributes:
        tunable: The settings.
        objective: What is better.
        photos: Encoded images.
        seconds: Duration of a trial.
        processes: Client processes.
        remaining: Returns the seconds that are left.
        side_by_side: Whether two servers run at the same time; found out by the memory that is free.
        start_s: The longest start so far.
        trials: The trials of each point, one list for each measurement of all parts.
        disturbed: Number of pairs that other programs disturbed.
    """

    tunable: Tunable
    objective: Objective
    photos: Sequence[bytes]
    seconds: float
    processes: int
    remaining: Callable[[], float]
    side_by_side: bool = True
    start_s: float = 0.0
    trials: defaultdict[Point, list[list[Trial]]] = field(default_factory=lambda: defaultdict(list))
    disturbed: int = 0
    _served: dict[Point, _Served] = field(default_factory=dict)
    _labels: list[list[bytes]] | None = None
    _candidate_first: bool = False

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_all_but()

    def end_all_but(self, *points: Point) -> None:
        """End the servers of all other points."""
        for point in [each for each in self._served if each not in points]:
            self._served.pop(point).close.close()

    def compare(self, incumbent: Point, candidate: Point) -> float:
        """Measure both once, in changing order, and return how much better the candidate is: see `tune_search.Compare`.

        A pair that other programs disturb is measured again, twice at most; then it does not count as better.

        Raises:
            CandidateFailed: The candidate's server does not start or fails, its labels differ, or its responses are
                wrong.
        """
        self.end_all_but(incumbent, candidate)
        if self.side_by_side:
            self._start(incumbent)
            self._start_beside(candidate)
        order = (incumbent, candidate)
        ratio = 0.0
        for _ in range(_MOST_TRIES):
            begun = time.monotonic()
            found = {point: self._measure(point) for point in (reversed(order) if self._candidate_first else order)}
            self._candidate_first = not self._candidate_first
            ratio = self.objective.ratio(found[candidate], found[incumbent])
            if not any(trial.is_disturbed for trials in found.values() for trial in trials):
                return ratio
            self.disturbed += 1
            if self.remaining() < _AGAIN * (time.monotonic() - begun):
                break
        # Nothing is better because others disturbed it.
        return min(ratio, 1.0)

    def measure_first(self, point: Point) -> list[Trial]:
        """Start and measure the settings as they are; find out whether there is memory for a second server.

        Raises:
            BenchError: They cannot be served or measured.
        """
        try:
            served = self._start(point)
            trials = self._measure(point)
        except CandidateFailed as error:
            # The user's own settings are no candidate: the whole message, and its code.
            cause = error.__cause__
            reason = cause.reason if isinstance(cause, ReasonedError) else error.reason
            raise BenchError(str(cause or error), reason=reason) from error
        used = sum(read_usage(pid).memory()["pss_mib"] for pid in _pids(served.supervisor))
        self.side_by_side = psutil.virtual_memory().available / MIB > _SPARE * used
        return trials

    def with_parts(self, parts: tuple[LoadPart, ...]) -> None:
        """Measure other loads from now on; servers that run stay."""
        self.objective = replace(self.objective, parts=parts)
        self.trials.clear()
        for served in self._served.values():
            served.requests = self._prepare(served.supervisor)

    def _start_beside(self, candidate: Point) -> None:
        """Start a candidate beside the incumbent; if the GPU has no memory for both, alone."""
        try:
            self._start(candidate)
        except CandidateFailed:
            if not self.tunable.on_gpu:
                raise
            self.end_all_but()
            self._start(candidate)
            # It was the other server that kept it from starting.
            self.side_by_side = False

    def _measure(self, point: Point) -> list[Trial]:
        if not self.side_by_side:
            self.end_all_but(point)
        served = self._start(point)
        trials = []
        for requests, part in zip(served.requests, self.objective.parts, strict=True):
            load = Load(
                concurrency=part.concurrency,
                client_processes=self.processes,
                warmup_s=_WARM_UP_S if served.is_warm else _FIRST_WARM_UP_S,
                seconds=self.seconds,
                channels=max(1, served.channels // self.processes),
            )
            try:
                trials.append(_trial(requests, load))
            except ReasonedError as error:
                self.end_all_but(*(each for each in self._served if each != point))
                raise CandidateFailed(str(error)) from error
            served.is_warm = True
        if fault := _fault(served.supervisor):
            self.end_all_but(*(each for each in self._served if each != point))
            raise CandidateFailed(fault)
        self.trials[point].append(trials)
        return trials

    def _start(self, point: Point) -> _Served:
        """Start the servers of a point, if they do not run; check their labels."""
        if point in self._served:
            return self._served[point]
        begun = time.monotonic()
        with ExitStack() as stack:
            try:
                # An error has the lines of it that matter.
                log = stack.enter_context(TemporaryFile())
                supervisor = self._supervisor(point, stack, log)
                requests = self._prepare(supervisor)
                labels = [best_labels(each) for each in requests]
            except ReasonedError as error:
                raise CandidateFailed(_shortened(str(error))) from error
            if self._labels is None or len(self._labels) != len(labels):
                self._labels = labels
            elif labels != self._labels:
                raise CandidateFailed("its best labels differ from those of the repository as it is")
            channels = _CHANNELS_PER_SERVER * self.tunable.servers(point) if self.tunable.servers(point) > 1 else 1
            served = _Served(supervisor, stack.pop_all(), requests, channels)
        self.start_s = max(self.start_s, time.monotonic() - begun)
        self._served[point] = served
        return served

    def _supervisor(self, point: Point, stack: ExitStack, log: BinaryIO) -> Supervisor:
        from jpeg_serve.machine import backends_folder, this_machine
        from jpeg_serve.models import read_models, served_models
        from jpeg_serve.options import ServerOptions
        from jpeg_serve.placement import check_placement, place_servers
        from jpeg_serve.supervisor import Supervisor

        repository = stack.enter_context(self.tunable.copy(point))
        limit_s = max(_LEAST_START_S, _START_FACTOR * self.start_s) if self.start_s else math.inf
        options = ServerOptions(
            model_repository=repository,
            load=(self.tunable.ensemble,),
            # Twice: the first server starts before the others.
            ready_timeout_s=max(1.0, min(limit_s, self.remaining() / 2)),
            http_port=0,
            grpc_port=0,
            metrics_port=0,
        )
        models, _ = read_models(repository)
        machine = this_machine(backends=backends_folder(repository, None))
        devices = place_servers(self.tunable.servers(point), served_models(models, options.load), machine)
        check_placement(devices, options)
        supervisor = Supervisor(options, devices, progress=lambda _: None, log=log)
        stack.callback(_end, supervisor)
        supervisor.start()
        return supervisor

    def _prepare(self, supervisor: Supervisor) -> list[list[PreparedRequest]]:
        addresses: dict[Protocol, str] = {"grpc": supervisor.grpc_address, "http": supervisor.http_address}
        return [
            prepare_requests(
                part.protocol,
                addresses[part.protocol],
                self.photos,
                batch_size=part.batch_size,
                model=self.tunable.ensemble,
            )
            for part in self.objective.parts
        ]


def summary(trials: Sequence[Sequence[Trial]]) -> dict[str, Any]:
    """Return the medians of a point's trials, and its failures, of the first part of the load and of all.

    Args:
        trials: See `Servers.trials`.
    """
    first = [each[0] for each in trials]
    return {
        "images_per_s": round(statistics.median(trial.images_per_s for trial in first), 1),
        "p50_ms": round(statistics.median(trial.p50_ms for trial in first), 2),
        "p99_ms": round(statistics.median(trial.p99_ms for trial in first), 2),
        "failures": sum(trial.failures for each in trials for trial in each),
        "client_limited": any(trial.client_limited for each in trials for trial in each),
    }


def _trial(requests: Sequence[PreparedRequest], load: Load) -> Trial:
    usages: list[Usage] = []

    def read_at_edges(begin: float, end: float) -> None:
        for moment in (begin, end):
            time.sleep(max(0.0, moment - clock()))
            # Servers and clients are processes of this one.
            usages.append(read_usage(os.getpid(), memory=False))

    samples = sample_load(requests, load, read_at_edges)
    cores = usages[1].cpu_cores_since(usages[0], load.seconds)
    result = samples.result()
    check_responses(requests, samples.responses)
    if not result.requests:
        cause = f": {result.failure_messages[0]}" if result.failure_messages else ""
        raise BenchError(f"no request succeeded{cause}", reason="request_failed")
    return Trial(
        images_per_s=result.images_per_s,
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        failures=result.failures,
        client_limited=result.client_limited,
        others_cpus=max(0.0, cores["machine"] + cores["stolen"] - cores["all"]),
    )


def _end(supervisor: Supervisor) -> None:
    """End servers at once: no request is open, or none of interest."""
    supervisor.kill()
    supervisor.stop()


def _pids(supervisor: Supervisor) -> list[int]:
    return [keeper.server.pid for keeper in supervisor.keepers if keeper.server is not None]


def _fault(supervisor: Supervisor) -> str:
    """Return why a server was replaced or ended, empty if all serve as at their start."""
    for keeper in supervisor.keepers:
        if keeper.failure is not None:
            return _shortened(str(keeper.failure))
        if keeper.restarts:
            return f"a server was replaced under load: {', '.join(keeper.restarts)}"
    return ""


def _shortened(text: str) -> str:
    """Return an error on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
