"""Measures the ceiling, this project's server and the peers in several rounds, and computes their ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jpeg_bench.ceiling import Ceiling, measure_ceiling
from jpeg_bench.ceiling_worker import Arrangement, Part
from jpeg_bench.machine import describe_machine, package_versions
from jpeg_bench.photos import Photos
from jpeg_bench.pipeline import Pipeline, read_pipeline
from jpeg_contract.command_line import Progress

from comparison.peer_settings import Configuration
from comparison.ratios import all_ratios, spread
from comparison.trials import Loads, measure_ceiling_trial, measure_peer_trial, measure_server_trial

# Each round measures several of the fastest arrangements again: noise may decide their order.
_CANDIDATES = 2

HEADLINES = (
    "served_over_ceiling",
    "served_over_ceiling_http",
    "served_over_ceiling_batches",
    "p50_over_one_process",
    "p99_over_p50",
    "over_best_peer",
    "over_best_peer_grpc",
    "p99_over_best_peer",
    "own_choice_over_best_peer_default",
)
"""Ratios whose medians are at the top of the result."""


@dataclass(frozen=True)
class Comparison:
    """Systems, loads and rounds of a comparison.

    Attributes:
        repository: Model repository.
        own_choice: Model repository with the project's own choice of classifier, compared with the default
            configurations of the peers; None takes `repository`.
        photos: Photos.
        loads: Loads.
        rounds: Number of rounds.
        explore_s: Duration of each measurement before the rounds, which finds the fastest arrangements of the ceiling.
        peers: Names and configurations of the peers.
    """

    repository: Path
    own_choice: Path | None
    photos: Photos
    loads: Loads
    rounds: int = 3
    explore_s: float = 2.0
    peers: Sequence[tuple[str, Configuration]] = ()


def run_comparison(
    comparison: Comparison, progress: Progress, after_round: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all rounds.

    Args:
        comparison: Systems, loads and rounds.
        progress: Called before each measurement.
        after_round: Called with the result so far after each round, so that an interruption loses one round.

    Raises:
        BenchError: The ceiling or this project's server cannot be measured. A failure of a peer is part of the result.
    """
    pipeline = read_pipeline(comparison.repository)
    explored = measure_ceiling(pipeline, comparison.photos.data, comparison.explore_s, progress=progress)
    candidates = _candidates(explored, pipeline)
    rounds: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for number in range(comparison.rounds):
        progress(f"round {number + 1} of {comparison.rounds}")
        rounds.append(_measure_round(comparison, pipeline, candidates, number, progress))
        result = _result(comparison, pipeline, explored, rounds)
        after_round(result)
    return result


def _candidates(explored: Ceiling, pipeline: Pipeline) -> list[Arrangement]:
    """Return the fastest arrangements of the parts that define the ceiling."""
    # Decoder and classifier share the CPUs. On a GPU they do not, so the slower of the two is the limit.
    parts: tuple[Part, ...] = ("decode", "classifier") if pipeline.on_gpu else ("both",)
    candidates = []
    for part in parts:
        throughputs = [each for each in explored.throughputs if each.arrangement.part == part and not each.failure]
        throughputs.sort(key=lambda each: each.images_per_s, reverse=True)
        candidates += [each.arrangement for each in throughputs[:_CANDIDATES]]
    return candidates


def _measure_round(
    comparison: Comparison, pipeline: Pipeline, candidates: Sequence[Arrangement], number: int, progress: Progress
) -> dict[str, Any]:
    photos, loads = comparison.photos.data, comparison.loads
    found: dict[str, Any] = {"peers": {}}

    def ceiling() -> None:
        found["ceiling"] = measure_ceiling_trial(pipeline, photos, candidates, loads.seconds, progress)

    def ours() -> None:
        found["ours"] = measure_server_trial("ours", comparison.repository, photos, loads, progress)

    def own_choice() -> None:
        if comparison.own_choice is not None:
            found["own choice"] = measure_server_trial("own choice", comparison.own_choice, photos, loads, progress)

    def peer(name: str, configuration: Configuration) -> Callable[[], None]:
        def measure() -> None:
            found["peers"][f"{name} {configuration}"] = measure_peer_trial(
                name,
                configuration,
                repository=comparison.repository,
                photos=photos,
                loads=loads,
                progress=progress,
            )

        return measure

    trials = [ceiling, ours, own_choice, *(peer(*each) for each in comparison.peers)]
    # Rotated: no system is always first, on a machine that was idle before.
    first = number % len(trials)
    for measure in trials[first:] + trials[:first]:
        measure()
    if comparison.own_choice is None:
        found["own choice"] = found["ours"]
    return found


def _result(
    comparison: Comparison, pipeline: Pipeline, explored: Ceiling, rounds: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    ratios = all_ratios(rounds)
    headlines = {name: None if (found := ratios[name]) is None else found["median"] for name in HEADLINES}
    if comparison.loads.batch_size == 8:
        headlines["served_over_ceiling_batches_of_8"] = headlines["served_over_ceiling_batches"]
    starts = spread([each["ours"]["start_s"] for each in rounds])
    idle = spread([each["ours"]["idle"]["pss_mib"] for each in rounds])
    return {
        **headlines,
        "start_s": starts and starts["median"],
        "idle_mib": idle and idle["median"],
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": package_versions(),
        "photos": comparison.photos.to_json(),
        "classifier": pipeline.classifier,
        "decoder": pipeline.preprocess.decoder,
        "own_choice": None if comparison.own_choice is None else read_pipeline(comparison.own_choice).classifier,
        "loads": asdict(comparison.loads),
        "ratios": ratios,
        "start": starts,
        "idle": idle,
        "summary": _summary(rounds),
        "ceiling": explored.to_json(),
        "rounds": list(rounds),
    }


def _summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the spread of throughput and latency for each system and load."""
    ceilings = [each["ceiling"] for each in rounds]
    found: dict[str, Any] = {
        "ceiling": {name: spread([ceiling[name] for ceiling in ceilings]) for name in ("images_per_s", "p50_ms")}
    }
    systems = {"ours": [each["ours"] for each in rounds]}
    if rounds[0]["own choice"] is not rounds[0]["ours"]:
        systems["own choice"] = [each["own choice"] for each in rounds]
    for name in rounds[0]["peers"]:
        systems[name] = [each["peers"][name] for each in rounds]
    for name, trials in systems.items():
        keys = dict.fromkeys(key for trial in trials for key in trial["points"])
        found[name] = {
            key: {
                value: spread([trial["points"].get(key, {}).get(value) for trial in trials])
                for value in ("images_per_s", "p50_ms", "p99_ms", "failures")
            }
            for key in keys
        }
        if failures := [trial["failure"] for trial in trials if "failure" in trial]:
            found[name]["failure"] = failures[0]
    return found
