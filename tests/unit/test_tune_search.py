"""The search of `jpeg-bench tune` on machines that are made up: their speed drifts, and each measurement scatters."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_bench.tune_search import CandidateFailed, Costs, Knob, Point, Space, judge, search

COUNTS = (1, 2, 3, 4, 6, 8)
KNOBS = (
    Knob("decode", COUNTS),
    Knob("classify", COUNTS),
    Knob("label", COUNTS),
    Knob("servers", (1, 2, 4)),
    Knob("delay", (0, 500, 2000, 5000)),
)
MOVES = (
    {"decode": 1, "classify": 1, "label": 1},
    {"decode": -1, "classify": -1, "label": -1},
    {"servers": 1, "decode": -2, "classify": -2, "label": -2},
    {"servers": -1, "decode": 2, "classify": 2, "label": 2},
)
SPACE = Space(KNOBS, MOVES, coupled=frozenset({"decode", "classify", "label", "servers"}))
START = (2, 1, 1, 1, 0)
BUDGET_S = 300.0


class Machine:
    """A pipeline on some cores: the slowest step limits it, and processes beyond the cores cost time.

    Args:
        seed: Of everything about it.
        scatter: Standard deviation of a measurement, as a fraction.
    """

    def __init__(self, seed: int, scatter: float = 0.025) -> None:
        self.random = random.Random(seed)
        draw = self.random.uniform
        self.cores = self.random.choice([2, 4, 16])
        self.scatter = scatter
        self.rates = [draw(50, 400) for _ in range(3)]
        self.front = draw(100, 2000)
        self.crowd = draw(0.005, 0.05)
        self.delay = draw(-0.03, 0.06)
        self.now = 0.0
        self.phase = draw(0, 6)
        self.running: set[Point] = {START}
        self.start_s = draw(1, 4)
        self.fails: set[Point] = set()

    def speed(self, point) -> float:
        *counts, servers, delay = point
        steps = [rate * min(count * servers, self.cores) for rate, count in zip(self.rates, counts, strict=True)]
        limit = 1 / sum(step**-4 for step in [*steps, self.front * servers]) ** 0.25
        crowd = 1 + self.crowd * max(0, servers * (sum(counts) + 1) - self.cores)
        waited = 1 + self.delay * math.log2(1 + delay / 500) - 0.0001 * delay
        return float(limit / crowd * waited)

    def measure(self, point) -> float:
        self.now += 1.7
        drift = 1 + 0.1 * math.sin(self.now / 10 + self.phase)
        # Now and then, another program takes a core.
        disturbed = 0.7 if self.scatter and self.random.random() < 0.03 else 1.0
        return self.speed(point) * drift * disturbed * math.exp(self.random.gauss(0, self.scatter))

    def compare(self, incumbent, candidate) -> float:
        for point in (incumbent, candidate):
            if point not in self.running:
                self.now += self.start_s * self.random.uniform(0.9, 1.1)
        self.running = {incumbent, candidate}
        if candidate in self.fails:
            raise CandidateFailed("out of memory")
        before = self.measure(incumbent)
        return self.measure(candidate) / before

    def search(self, budget_s: float = BUDGET_S, space: Space = SPACE, seeds=()):
        costs = Costs(self.start_s + 4, 4)
        return search(space, START, self.compare, lambda: budget_s - self.now, costs, seeds=seeds)

    def best(self) -> float:
        return max(self.speed(point) for point in itertools.product(*(knob.values for knob in KNOBS)))


def seeds(cores: int):
    """What the cores let expect, as the command does."""
    counts = (max(each for each in COUNTS if each <= max(1, wanted)) for wanted in (cores // 2, cores // 4, cores // 3))
    return [(*counts, 1, 0)]


def reached(seed: int, scatter: float = 0.025) -> float:
    machine = Machine(seed, scatter)
    return machine.speed(machine.search(seeds=seeds(machine.cores)).choice) / machine.best()


def test_it_reaches_most_of_the_best():
    found = sorted(reached(seed) for seed in range(300))
    assert sum(each >= 0.95 for each in found) >= 0.95 * len(found), found[:30]
    assert found[0] > 0.85


@given(seed=st.integers(0, 10_000), budget_s=st.floats(10, 400), scatter=st.floats(0, 0.2))
def test_it_ends_within_the_budget(seed, budget_s, scatter):
    machine = Machine(seed, scatter)
    outcome = machine.search(budget_s, seeds=seeds(machine.cores))
    assert machine.now <= budget_s
    assert outcome.choice == START or machine.speed(outcome.choice) > 0


@given(seed=st.integers(0, 10_000))
def test_the_choice_is_hardly_slower_than_the_start(seed):
    machine = Machine(seed)
    assert machine.speed(machine.search().choice) >= 0.95 * machine.speed(START)


@given(seed=st.integers(0, 10_000))
def test_what_fails_is_not_chosen(seed):
    machine = Machine(seed)
    points = list(itertools.product(*(knob.values for knob in KNOBS)))
    machine.fails = set(random.Random(seed).sample(points, len(points) // 2)) - {START}
    outcome = machine.search(seeds=seeds(machine.cores))
    assert outcome.choice not in machine.fails
    for each in outcome.comparisons:
        assert (each.verdict == "failed") == (each.candidate in machine.fails)
        assert bool(each.failure) == (each.candidate in machine.fails)


def test_without_scatter_it_is_complete_and_near_the_best():
    found = []
    for seed in range(60):
        machine = Machine(seed, 0.0)
        outcome = machine.search(1e6, seeds=seeds(machine.cores))
        assert outcome.is_complete
        found.append(machine.speed(outcome.choice) / machine.best())
    assert sorted(found)[3] >= 0.95


def test_a_budget_that_is_too_short_changes_nothing():
    machine = Machine(1)
    outcome = machine.search(1.0)
    assert (outcome.choice, outcome.comparisons, outcome.is_complete, outcome.gain) == (START, (), False, None)


def test_a_choice_that_loses_at_the_end_is_given_up():
    """The first candidate was better only by chance."""
    space = Space((Knob("count", (1, 2)),))
    calls = itertools.count()

    def compare(incumbent, candidate):
        return 1.3 if next(calls) < 2 else 0.9

    outcome = search(space, (1,), compare, lambda: 100.0, Costs(1, 1))
    assert outcome.comparisons[0].verdict == "better"
    assert (outcome.choice, outcome.gain) == ((1,), None)


def test_an_interruption_passes():
    def compare(incumbent, candidate):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(SPACE, START, compare, lambda: 100.0, Costs(1, 1))


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([], "undecided"),
        ([1.2], "undecided"),
        ([math.inf, math.inf], "better"),
        ([1.1], "undecided"),
        ([0.98], "not better"),
        ([0.0], "not better"),
        ([1.1, 1.1], "better"),
        ([0.99, 0.99], "not better"),
        ([1.0, 1.005], "not better"),
        ([1.03, 1.05], "undecided"),
        ([1.03, 1.05, 1.0], "better"),
        ([1.03, 1.05, 0.99], "undecided"),
        ([1.005, 1.05, 0.99], "not better"),
        ([1.03, 1.05, 0.99, 1.02], "undecided"),
        ([1.03, 1.05, 0.99, 1.02, 1.01], "better"),
        ([1.03, 1.05, 0.99, 1.02, 0.99], "not better"),
    ],
)
def test_the_rule(ratios, verdict):
    assert judge(ratios) == verdict


def test_moves_end_at_the_ends():
    space = Space((Knob("a", (1, 2)), Knob("b", ("x", "y"))), ({"a": 1, "b": 1},))
    assert space.moved((1, "x"), {"a": 1}) == (2, "x")
    assert space.moved((2, "x"), {"a": 1}) is None
    assert space.moved((2, "x"), {"a": 1, "b": 1}) == (2, "y")
    assert space.moved((1, "x"), {"b": -1}) is None
    assert space.near_moves()[0] == {"a": 1, "b": 1}
    assert space.far_moves() == []


def test_points_that_serve_alike_are_one():
    space = Space((Knob("a", (1, 2)), Knob("b", ("x", "y"))), normalise=lambda p: (1, p[1]) if p[1] == "y" else p)
    assert space.moved((1, "y"), {"a": 1}) is None
    assert space.moved((2, "x"), {"b": 1}) == (1, "y")
