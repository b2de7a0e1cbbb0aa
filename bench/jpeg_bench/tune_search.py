"""Searches settings for the fastest ones by comparing two at a time. It starts nothing: what compares is given.

The speed of a machine changes while it is measured, and two numbers that were measured minutes apart say little. So
nothing here looks at a number of images per second, only at ratios of two settings that were measured alternately.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jpeg_bench.errors import BenchError

Value = int | str
Point = tuple[Value, ...]
"""A value for each knob of a space, in their order."""

Move = Mapping[str, int]
"""How many steps each of some knobs goes, up or down, by their names."""

Compare = Callable[[Point, Point], float]
"""Measures an incumbent and a candidate alternately, once each, starting what does not run yet; returns how much better
the candidate is, as a ratio: above 1 is better, 0 if it must not be chosen. Raises CandidateFailed."""

Verdict = Literal["better", "not better", "failed", "undecided"]

# See `judge`.
_OBVIOUS, _CLEAR, _LIKELY = 1.1, 1.03, 1.02
_HOPELESS, _FLAT, _UNLIKELY = 0.985, 1.005, 1.01
_SECOND, _MOST = 3, 5

# A comparison may take so much longer than the longest before it.
_MARGIN = 1.25


class CandidateFailed(BenchError):
    """A candidate cannot be served or measured. The search goes on without it."""

    reason = "candidate_failed"


@dataclass(frozen=True)
class Knob:
    """A setting.

    Attributes:
        name: Its name.
        values: What it can be, in an order in which neighbours are alike.
    """

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Space:
    """The settings to choose.

    Attributes:
        knobs: The single ones.
        moves: Several knobs at a time that are worth a try, before the single ones: what limits two of them is not seen
            by changing either.
        coupled: Names of the knobs that limit each other.
        normalise: Returns the same for points that serve alike.
    """

    knobs: tuple[Knob, ...]
    moves: tuple[Move, ...] = ()
    coupled: frozenset[str] = frozenset()
    normalise: Callable[[Point], Point] = lambda point: point

    def near_moves(self) -> list[Move]:
        """Return the joint moves, and each knob alone, up and down."""
        return [*self.moves, *({knob.name: step} for knob in self.knobs for step in (1, -1))]

    def far_moves(self) -> list[Move]:
        """Return what may help where no near move does: two steps at once, and two coupled knobs at a time."""
        names = [knob.name for knob in self.knobs if knob.name in self.coupled]
        signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
        return [
            *({name: step} for name in names for step in (2, -2)),
            *({one: up, other: down} for one, other in itertools.combinations(names, 2) for up, down in signs),
        ]

    def moved(self, point: Point, move: Move) -> Point | None:
        """Return the point that a move leads to, None if all of its knobs are at their ends."""
        values = list(point)
        for index, knob in enumerate(self.knobs):
            place = knob.values.index(point[index]) + move.get(knob.name, 0)
            values[index] = knob.values[max(0, min(place, len(knob.values) - 1))]
        found = self.normalise(tuple(values))
        return None if found == point else found

    def named(self, point: Point) -> dict[str, Value]:
        """Return the values by the names of their knobs."""
        return {knob.name: value for knob, value in zip(self.knobs, point, strict=True)}


@dataclass(frozen=True)
class Comparison:
    """A candidate against the incumbent of its time.

    Attributes:
        candidate: The candidate.
        incumbent: The best point until then.
        ratios: How much better the candidate was, of each pair of measurements.
        verdict: The outcome.
        failure: Why it failed; empty if it did not.
    """

    candidate: Point
    incumbent: Point
    ratios: tuple[float, ...]
    verdict: Verdict
    failure: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        choice: The best point.
        comparisons: All of them, in their order.
        is_complete: Whether every neighbour of the choice was tried; otherwise the time was over.
        gain: Median ratio of the choice to the start, measured at the end; None if they are the same or the time was
            over.
    """

    choice: Point
    comparisons: tuple[Comparison, ...]
    is_complete: bool
    gain: float | None


@dataclass
class Costs:
    """How long comparisons take, in seconds: at first an estimate, then the longest so far.

    Attributes:
        first_s: The first pair of a candidate, with its start.
        next_s: Each further pair.
    """

    first_s: float
    next_s: float


def judge(ratios: Sequence[float]) -> Verdict:
    """Decide from the ratios of the pairs measured so far.

    A candidate is better if the median of its ratios is clearly above 1. Nothing is accepted from one pair: another
    program may have disturbed the incumbent.

    1. One pair below 0.985 drops it.
    2. Two pairs of at least 1.1 each accept it. Two that are both below 1, or below 1.005 on average, drop it.
    3. Three pairs accept it if their median is at least 1.03 and none is below 1; a median below 1.01 drops it.
    4. Five pairs accept it if their median is at least 1.02 and at least four are above 1; otherwise it is dropped.

    With ratios that scatter by 4 %, this accepts four in five candidates that are 5 % faster than the incumbent, one in
    ten that is as fast, which does no harm, and one of some thousand that is 5 % slower. Gains below 2 % are not looked
    for.

    Returns:
        "undecided" asks for another pair.
    """
    count = len(ratios)
    median = statistics.median(ratios) if ratios else 0.0
    if count == 1:
        return "not better" if median < _HOPELESS else "undecided"
    if count == 2:
        if max(ratios) < 1 or statistics.mean(ratios) < _FLAT:
            return "not better"
        return "better" if min(ratios) >= _OBVIOUS else "undecided"
    if count == _SECOND:
        if median < _UNLIKELY:
            return "not better"
        return "better" if median >= _CLEAR and min(ratios) >= 1 else "undecided"
    if count >= _MOST:
        above = sum(ratio > 1 for ratio in ratios)
        return "better" if median >= _LIKELY and above >= count - 1 else "not better"
    return "undecided"


def search(
    space: Space,
    start: Point,
    compare: Compare,
    remaining: Callable[[], float],
    costs: Costs,
    *,
    seeds: Sequence[Point] = (),
    progress: Callable[[Comparison], None] = lambda _: None,
) -> Outcome:
    """Look for the best point by coordinate descent from the start, or from a seed that is better.

    Each move is repeated as long as it helps. The search ends when no move from the best point helps, or when the time
    that is left is less than the next comparison may take. At the end, the choice is compared with the start once more:
    it is the start itself unless the choice is at least as good.

    Args:
        space: The settings.
        start: Where to begin: the settings as they are.
        compare: Measures one pair.
        remaining: Returns the seconds that are left.
        costs: Estimate of a comparison.
        seeds: Other points that may be better than the start; tried first.
        progress: Gets each comparison when it is over.
    """
    return _Search(space, start, compare, remaining, costs, progress).run(seeds)


class _OutOfTime(Exception):
    """The next comparison may not end in time."""


@dataclass
class _Search:
    space: Space
    start: Point
    compare: Compare
    remaining: Callable[[], float]
    costs: Costs
    progress: Callable[[Comparison], None]
    comparisons: list[Comparison] = field(default_factory=list)
    # What lost against an incumbent: the present one is better than all before it.
    lost: set[Point] = field(default_factory=set)
    # The last median ratio of each move.
    promise: dict[tuple[tuple[str, int], ...], float] = field(default_factory=dict)
    best: Point = field(init=False)

    def __post_init__(self) -> None:
        self.best = self.start

    def run(self, seeds: Sequence[Point]) -> Outcome:
        is_complete = True
        try:
            for seed in map(self.space.normalise, seeds):
                self._challenge(seed)
            while self._descend(self.space.near_moves()) or self._descend(self.space.far_moves()):
                pass
        except _OutOfTime:
            is_complete = False
        gain = self._gain()
        if gain is not None and gain < 1:
            self.best, gain = self.start, None
        return Outcome(self.best, tuple(self.comparisons), is_complete, gain)

    def _descend(self, moves: Sequence[Move]) -> bool:
        """Make each move as long as it helps, first those that did best before; return whether one helped."""
        order = sorted(range(len(moves)), key=lambda place: -self.promise.get(_key(moves[place]), 1.0))
        # All of them are made, also after one that helped.
        helped = [self._repeat(moves[place]) for place in order]
        return any(helped)

    def _repeat(self, move: Move) -> bool:
        """Make a move as long as it helps; return whether it did."""
        helped = False
        while (candidate := self.space.moved(self.best, move)) is not None and candidate not in self.lost:
            better = self._challenge(candidate)
            self.promise[_key(move)] = statistics.median(self.comparisons[-1].ratios or [0.0])
            if not better:
                break
            helped = True
        return helped

    def _challenge(self, candidate: Point) -> bool:
        """Compare a candidate with the best point, and make it the best if it is better."""
        if candidate == self.best or candidate in self.lost:
            return False
        verdict: Verdict = "undecided"
        ratios: list[float] = []
        failure = ""
        incumbent = self.best
        try:
            while verdict == "undecided":
                # Against the start itself, the comparison at the end would be the same one again.
                ratios.append(self._pair(candidate, is_first=not ratios, is_last=self.best == self.start))
                verdict = judge(ratios)
        except CandidateFailed as error:
            verdict, failure = "failed", str(error)
        finally:
            if ratios or failure:
                done = Comparison(candidate, incumbent, tuple(ratios), verdict, failure)
                self.comparisons.append(done)
                self.progress(done)
        self.lost.add(incumbent if verdict == "better" else candidate)
        if verdict == "better":
            self.best = candidate
        return verdict == "better"

    def _gain(self) -> float | None:
        """Compare the best point with the start; None if they are the same, or too little time is left."""
        ratios: list[float] = []
        best = self.best
        if best == self.start:
            return None
        self.best = self.start
        try:
            while len(ratios) < _SECOND:
                ratios.append(self._pair(best, is_first=not ratios, is_last=True))
        except (_OutOfTime, CandidateFailed):
            pass
        self.best = best
        return statistics.median(ratios) if ratios else None

    def _pair(self, candidate: Point, *, is_first: bool, is_last: bool) -> float:
        """Compare a candidate with the best point once, if there is time.

        Args:
            candidate: The candidate.
            is_first: Whether the candidate has to be started.
            is_last: Whether no comparison has to follow.
        """
        costs = self.costs
        needed = costs.first_s if is_first else costs.next_s
        if not is_last:
            needed += costs.first_s + (_SECOND - 1) * costs.next_s
        before = self.remaining()
        if before < _MARGIN * needed:
            raise _OutOfTime
        ratio = self.compare(self.best, candidate)
        took = before - self.remaining()
        if is_first:
            costs.first_s = max(costs.first_s, took)
        else:
            costs.next_s = max(costs.next_s, took)
        return ratio


def _key(move: Move) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(move.items()))
