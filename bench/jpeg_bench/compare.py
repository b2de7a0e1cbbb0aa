"""Our server, the ceiling and the peers, in turn, several rounds, and the ratios between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jpeg_bench.ceiling import Ceiling, measure_ceiling
from jpeg_bench.ceiling_work import Arrangement
from jpeg_bench.machine import machine, versions
from jpeg_bench.photos import Photos
from jpeg_bench.ratios import all_ratios, spread
from jpeg_bench.steps import Steps, read_steps
from jpeg_bench.turns import Loads, Tell, ceiling_turn, our_turn, peer_turn

# How many of the fastest arrangements are measured again in each round; which of them is ahead may be noise.
_CANDIDATES = 2
# Plain numbers at the top of the result.
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


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    own_choice: another model repository of ours, whose speed is compared with the peers' documented defaults; None
    takes the first for it. peers: (name, configuration) of each. explore_s: for each arrangement of the ceiling that
    is tried before the rounds.
    """

    repository: Path
    own_choice: Path | None
    photos: Photos
    loads: Loads
    rounds: int = 3
    explore_s: float = 2.0
    peers: Sequence[tuple[str, str]] = ()


def compare(asked: Comparison, tell: Tell) -> dict[str, Any]:
    """Measure all of it. Raises BenchError if the ceiling or our server cannot be measured; a peer's failure is in
    the result."""
    steps = read_steps(asked.repository)
    photos = asked.photos.data
    tell(f"the ceiling: what is the best arrangement here? {asked.explore_s:g} s each")
    explored = measure_ceiling(steps, photos, asked.explore_s, tell=tell)
    candidates = _candidates(explored, steps)
    rounds: list[dict[str, Any]] = []
    for number in range(asked.rounds):
        tell(f"round {number + 1} of {asked.rounds}")
        rounds.append(_round(asked, steps, candidates, number, tell))
    return _result(asked, steps, explored, rounds)


def _candidates(explored: Ceiling, steps: Steps) -> list[Arrangement]:
    """The fastest arrangements of what counts as the ceiling."""
    found = []
    for what in ("decode", "classifier") if steps.on_gpu else ("both",):
        rates = [each for each in explored.rates if each.arrangement.what == what and not each.failure]
        rates.sort(key=lambda each: each.images_per_s, reverse=True)
        found += [each.arrangement for each in rates[:_CANDIDATES]]
    return found


def _round(
    asked: Comparison, steps: Steps, candidates: Sequence[Arrangement], number: int, tell: Tell
) -> dict[str, Any]:
    photos, loads = asked.photos.data, asked.loads
    found: dict[str, Any] = {"peers": {}}

    def ceiling() -> None:
        found["ceiling"] = ceiling_turn(steps, photos, candidates, loads.seconds, tell)

    def ours() -> None:
        found["ours"] = our_turn(asked.repository, photos, loads, tell, "ours")

    def own_choice() -> None:
        if asked.own_choice is not None:
            found["own choice"] = our_turn(asked.own_choice, photos, loads, tell, "our own choice")

    def peer(name: str, configuration: str) -> Callable[[], None]:
        def turn() -> None:
            said = peer_turn((name, configuration), asked.repository, photos, loads, tell)
            found["peers"][f"{name} {configuration}"] = said

        return turn

    turns = [ceiling, ours, own_choice, *(peer(*each) for each in asked.peers)]
    # Each round begins with another one, so that none is always the one on a machine that has just rested.
    first = number % len(turns)
    for turn in turns[first:] + turns[:first]:
        turn()
    if asked.own_choice is None:
        found["own choice"] = found["ours"]
    return found


def _result(asked: Comparison, steps: Steps, explored: Ceiling, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = all_ratios(rounds)
    headlines = {name: None if (found := ratios[name]) is None else found["median"] for name in HEADLINES}
    if asked.loads.batch == 8:
        headlines["served_over_ceiling_batches_of_8"] = headlines["served_over_ceiling_batches"]
    starts = spread([each["ours"]["start_s"] for each in rounds])
    idle = spread([each["ours"]["idle"]["pss_mib"] for each in rounds])
    return {
        **headlines,
        "start_s": starts and starts["median"],
        "idle_mib": idle and idle["median"],
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "photos": asked.photos.to_json(),
        "classifier": steps.classifier,
        "decoder": steps.preprocess.decoder,
        "own_choice": None if asked.own_choice is None else read_steps(asked.own_choice).classifier,
        "loads": asdict(asked.loads),
        "ratios": ratios,
        "start": starts,
        "idle": idle,
        "summary": _summary(rounds),
        "ceiling": explored.to_json(),
        "rounds": list(rounds),
    }


def _summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For each who was measured and each of its points, images/s and latencies with their spread."""
    found: dict[str, Any] = {"ceiling": {"images_per_s": spread([each["ceiling"]["images_per_s"] for each in rounds])}}
    found["ceiling"]["p50_ms"] = spread([each["ceiling"]["p50_ms"] for each in rounds])
    whos = {"ours": [each["ours"] for each in rounds]}
    if rounds and rounds[0]["own choice"] is not rounds[0]["ours"]:
        whos["own choice"] = [each["own choice"] for each in rounds]
    for name in rounds[0]["peers"] if rounds else ():
        whos[name] = [each["peers"][name] for each in rounds]
    for who, turns in whos.items():
        keys = dict.fromkeys(key for turn in turns for key in turn["points"])
        found[who] = {
            key: {
                value: spread([turn["points"].get(key, {}).get(value) for turn in turns])
                for value in ("images_per_s", "p50_ms", "p99_ms", "failures")
            }
            for key in keys
        }
        if failures := [turn["failure"] for turn in turns if "failure" in turn]:
            found[who]["failure"] = failures[0]
    return found
