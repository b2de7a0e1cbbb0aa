"""Finds the settings with which a model repository is served fastest on this machine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jpeg_contract.command_line import Progress
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.remedies import DEFAULT_REPOSITORY, reload_command
from jpeg_contract.tensors import ENSEMBLE

from jpeg_bench.load import MOST_CLIENT_PROCESSES, Protocol
from jpeg_bench.options import Goal
from jpeg_bench.summary import number, text_table
from jpeg_bench.tune_search import Comparison, Costs, Outcome, Point, search
from jpeg_bench.tune_servers import LoadPart, Objective, Servers, Trial, summary
from jpeg_bench.tune_settings import SERVERS, Tunable, read_tunable, serve_command

# Of images at a time: where the search for a concurrency that saturates the server begins, and its bound.
_FIRST_IMAGES_PER_CPU, _MOST_IMAGES_PER_CPU = 8, 64
_SATURATED = 1.05
# Of the budget: to end the servers.
_END_S = 2.0
# The clients' processes start in about this time.
_CLIENT_START_S = 0.7


@dataclass(frozen=True)
class TuneOptions:
    """What to tune, and for which load.

    Attributes:
        repository: Model repository.
        ensemble: Name of the ensemble.
        goal: What is better.
        protocols: Protocols of the load.
        batch_sizes: Images per request.
        concurrencies: Concurrent requests; empty takes 1 for latency, and for throughput as many as saturate the
            server.
        p99_limit_ms: Bound of the 99th percentile of the latency, in milliseconds; None for none.
        budget_s: Time limit for everything, in seconds.
        seconds: Duration of a trial.
        processes: Client processes; twice as many if they limit the throughput.
    """

    repository: Path = DEFAULT_REPOSITORY
    ensemble: str = ENSEMBLE
    goal: Goal = "throughput"
    protocols: tuple[Protocol, ...] = ("grpc",)
    batch_sizes: tuple[int, ...] = (1,)
    concurrencies: tuple[int, ...] = ()
    p99_limit_ms: float | None = None
    budget_s: float = 300.0
    seconds: float = 1.0
    processes: int = 1


@dataclass(frozen=True)
class Tuned:
    """The result.

    Attributes:
        tunable: The settings that were tuned.
        objective: What was better.
        outcome: The choice, and how it was found.
        trials: Summary of the measurements of each point.
        side_by_side: Whether the servers of incumbent and candidate ran at the same time.
        disturbed: Number of pairs that other programs disturbed.
        elapsed_s: Duration in seconds.
    """

    tunable: Tunable
    objective: Objective
    outcome: Outcome
    trials: Mapping[Point, dict[str, Any]]
    side_by_side: bool
    disturbed: int
    elapsed_s: float

    @property
    def servers(self) -> int:
        """Number of servers of the choice."""
        return self.tunable.servers(self.outcome.choice)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        named, outcome = self.tunable.space.named, self.outcome
        return {
            "model_repository": str(self.tunable.repository),
            "ensemble": self.tunable.ensemble,
            "goal": self.objective.goal,
            "loads": [asdict(part) for part in self.objective.parts],
            "p99_limit_ms": self.objective.p99_limit_ms,
            "elapsed_s": round(self.elapsed_s, 1),
            "is_complete": outcome.is_complete,
            "side_by_side": self.side_by_side,
            "disturbed_pairs": self.disturbed,
            "not_tuned": list(self.tunable.fixed),
            "before": {"settings": named(self.tunable.start), **self.trials.get(self.tunable.start, {})},
            "choice": {"settings": named(outcome.choice), **self.trials.get(outcome.choice, {})},
            "gain": None if outcome.gain is None else round(outcome.gain, 3),
            "within_limits": not self._misses(outcome.choice),
            "tried": [
                {
                    "settings": named(each.candidate),
                    "changed": _changed(self.tunable, each),
                    "ratios": [round(ratio, 3) if ratio < 1e3 else None for ratio in each.ratios],
                    "verdict": each.verdict,
                    "failure": each.failure,
                    **self.trials.get(each.candidate, {}),
                }
                for each in outcome.comparisons
            ],
            "configs": {model: changes.lines() for model, changes in self.tunable.changes(outcome.choice).items()},
            "serve": shlex.join(serve_command(self.tunable.repository, self.servers)),
        }

    def _misses(self, point: Point) -> bool:
        """Whether a point has failures, or a 99th percentile beyond the bound."""
        found = self.trials.get(point)
        limit = self.objective.p99_limit_ms
        return found is not None and bool(found["failures"] or (limit is not None and found["p99_ms"] > limit))


def tune(options: TuneOptions, photos: Sequence[bytes], progress: Progress) -> Tuned:
    """Search the fastest settings within the budget. The repository stays as it is: copies of it are served.

    Args:
        options: What to tune, and for which load.
        photos: Encoded images.
        progress: Called before and after each comparison.

    Raises:
        BenchError: The repository as it is cannot be served or measured.
    """
    begun = time.monotonic()

    def remaining() -> float:
        return options.budget_s - _END_S - (time.monotonic() - begun)

    tunable = read_tunable(options.repository, options.ensemble, usable_cpus())
    concurrencies = options.concurrencies or ((1,) if options.goal == "latency" else (0,))
    parts = tuple(
        LoadPart(protocol, size, concurrency or _first_concurrency(size))
        for protocol in options.protocols
        for size in options.batch_sizes
        for concurrency in concurrencies
    )
    objective = Objective(options.goal, parts, options.p99_limit_ms)
    with Servers(tunable, objective, photos, options.seconds, options.processes, remaining) as servers:
        progress(f"the settings as they are: {_short(tunable.space.named(tunable.start))}")
        trials = servers.measure_first(tunable.start)
        trials = _enough_clients(servers, trials)
        if not options.concurrencies and options.goal == "throughput":
            trials = _saturate(servers, trials, options.budget_s / 8, progress)
        progress(f"the settings as they are: {_measured(trials)}")
        pair_s = 2 * len(servers.objective.parts) * (options.seconds + _CLIENT_START_S)
        costs = Costs(first_s=servers.start_s + pair_s + len(servers.objective.parts), next_s=pair_s)
        if not servers.side_by_side:
            costs = Costs(2 * servers.start_s + costs.first_s, 2 * servers.start_s + pair_s)

        def report(comparison: Comparison) -> None:
            progress(_describe(tunable, comparison))

        outcome = search(
            tunable.space, tunable.start, servers.compare, remaining, costs, seeds=tunable.seeds, progress=report
        )
        summaries = {point: summary(each) for point, each in servers.trials.items() if each}
        found = Tuned(tunable, servers.objective, outcome, summaries, servers.side_by_side, servers.disturbed, 0.0)
    return replace(found, elapsed_s=time.monotonic() - begun)


def _first_concurrency(batch_size: int) -> int:
    return max(2, -(-_FIRST_IMAGES_PER_CPU * usable_cpus() // batch_size))


def _enough_clients(servers: Servers, trials: list[Trial]) -> list[Trial]:
    """Double the client processes until none of them limits the throughput."""
    while any(trial.client_limited for trial in trials) and servers.processes < MOST_CLIENT_PROCESSES:
        servers.processes *= 2
        trials = servers.measure_first(servers.tunable.start)
    return trials


def _saturate(servers: Servers, trials: list[Trial], budget_s: float, progress: Progress) -> list[Trial]:
    """Double the concurrency until the throughput hardly grows; the highest without failures stays.

    Args:
        servers: With the lowest concurrency.
        trials: Measured with it.
        budget_s: When to stop, in seconds.
        progress: Called before each measurement.
    """
    begun, most = time.monotonic(), _MOST_IMAGES_PER_CPU * usable_cpus()
    start = servers.tunable.start
    while time.monotonic() - begun < budget_s:
        parts = servers.objective.parts
        if max(2 * part.concurrency * part.batch_size for part in parts) > most:
            break
        servers.with_parts(tuple(replace(part, concurrency=2 * part.concurrency) for part in parts))
        progress(f"concurrency {', '.join(str(part.concurrency) for part in servers.objective.parts)}")
        more = _enough_clients(servers, servers.measure_first(start))
        if sum(trial.failures for trial in more) > sum(trial.failures for trial in trials):
            servers.with_parts(parts)
            return servers.measure_first(start)
        grown = sum(trial.images_per_s for trial in more) / sum(trial.images_per_s for trial in trials)
        trials = more
        if grown < _SATURATED:
            break
    return trials


def _changed(tunable: Tunable, comparison: Comparison) -> dict[str, Any]:
    """Return the settings in which a candidate differs from the incumbent of its time."""
    before = tunable.space.named(comparison.incumbent)
    return {name: value for name, value in tunable.space.named(comparison.candidate).items() if value != before[name]}


def _short(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _measured(trials: Sequence[Trial]) -> str:
    first = trials[0]
    return f"{first.images_per_s:.1f} images/s, p50 {first.p50_ms:.1f} ms, p99 {first.p99_ms:.1f} ms"


def _describe(tunable: Tunable, comparison: Comparison) -> str:
    changed = _short(_changed(tunable, comparison))
    if comparison.failure:
        return f"{changed}: failed: {comparison.failure}"
    ratios = ", ".join(f"{ratio:.2f}" for ratio in comparison.ratios)
    return f"{changed}: {comparison.verdict} ({ratios})"


def summarize_tuned(result: Mapping[str, Any]) -> str:
    """Return the table of what was tried, the choice, and how to serve with it (`Tuned.to_json`)."""
    rows = [["as it is", *_cells(result["before"]), "", ""]]
    for each in result["tried"]:
        ratios = [ratio for ratio in each["ratios"] if ratio is not None]
        ratio = number(sorted(ratios)[len(ratios) // 2], 2) if ratios else "-"
        rows.append([_short(each["changed"]), *_cells(each), ratio, each["verdict"]])
    header = ("changed", "images/s", "p50 ms", "p99 ms", "failures", "ratio", "verdict")
    lines = [text_table(header, rows)]
    lines += [f"failed: {_short(each['changed'])}: {each['failure']}" for each in result["tried"] if each["failure"]]
    lines += [f"not tuned: {each}" for each in result["not_tuned"]]
    spent = f"{len(result['tried'])} candidates in {result['elapsed_s']:.0f} s"
    end = "no neighbour of the choice is better" if result["is_complete"] else "the time was over before all were tried"
    lines += ["", f"{spent}; {end}", f"choice: {_short(result['choice']['settings'])}"]
    if result["choice"]["settings"] == result["before"]["settings"]:
        lines.append("the settings as they are: none that was tried is clearly better")
    elif result["gain"] is not None:
        lines.append(
            f"{result['gain']:.2f} times as good as the settings as they were, measured alternately at the end"
        )
    if result["disturbed_pairs"]:
        lines.append(f"{result['disturbed_pairs']} pairs were disturbed by other programs: tune again without them")
    if not result["within_limits"]:
        lines.append("no setting that was tried is without failures and within --p99-ms")
    for model, fields in result["configs"].items():
        lines += ["", f"{model}/config.pbtxt:", *(f"  {line}" for line in fields)]
    return "\n".join([*lines, "", *_next_steps(result)])


def _cells(found: Mapping[str, Any]) -> list[str]:
    if "images_per_s" not in found:
        return ["-"] * 4
    return [*(number(found[name]) for name in ("images_per_s", "p50_ms", "p99_ms")), str(found["failures"])]


def _next_steps(result: Mapping[str, Any]) -> list[str]:
    servers = result["choice"]["settings"][SERVERS]
    lines = [f"serve it: {result['serve']}"]
    if servers > 1 and any(part["protocol"] == "grpc" for part in result["loads"]):
        lines.append("over gRPC, open several connections: all requests of one reach one server")
    if result["configs"]:
        if "written" in result:
            lines.insert(0, f"written: {', '.join(result['written'])}")
            lines.append(f"a server that runs: {reload_command(Path(result['model_repository']))}")
        else:
            lines.insert(0, "write it into the repository: the same command with --write")
    return lines
