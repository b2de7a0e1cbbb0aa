"""Measures of an evaluation, against brute force, and against numbers of the literature."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_build.evaluate.measures import (
    NO_ANSWER,
    average_precision,
    binomial_p,
    calibration,
    class_counts,
    confusion,
    difference_interval,
    in_top,
    label_counts,
    mcnemar,
    mean_average_precision,
    wilson,
)

CLASSES = 4
ANSWERS = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(NO_ANSWER, CLASSES - 1)), min_size=1, max_size=30)
DECISIONS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)
# Few values, so that scores are equal often.
RANKED = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Two-sided confidence intervals for the single proportion (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_that_of_the_literature(successes, trials, low, high):
    found = wilson(successes, trials)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_holds_the_share_and_mirrors(counts):
    successes, trials = counts
    found, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert 0 <= found.low <= successes / trials <= found.high <= 1
    assert math.isclose(found.low, 1 - mirrored.high, abs_tol=1e-12)


def test_without_photos_everything_is_possible():
    found = wilson(0, 0)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [
        # Fagerland, Lydersen, Laake (2013), table 1: 1 and 7 of the airway hyper-responsiveness data: p = 0.070.
        (1, 7, 0.0703125),
        # 2 * (1 + 10 + 45) / 1024
        (2, 8, 0.109375),
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 6, 0.03125),
    ],
)
def test_mcnemars_p_is_exact(one, other, p):
    assert binomial_p(one, other) == p


@given(st.integers(0, 12), st.integers(0, 12))
def test_mcnemars_p_is_the_part_of_all_tosses_that_are_as_uneven(one, other):
    trials = one + other
    as_uneven = sum(
        math.comb(trials, heads) for heads in range(trials + 1) if abs(2 * heads - trials) >= abs(one - other)
    )
    assert binomial_p(one, other) == pytest.approx(float(Fraction(as_uneven, 2**trials)))


def test_many_discordant_photos_neither_overflow_nor_take_long():
    assert binomial_p(20_000, 20_000) == 1
    assert 0 < binomial_p(19_000, 21_000) < 1e-20
    assert binomial_p(0, 40_000) == 0  # 2^-39999 is below what a float holds


def test_mcnemar_counts_only_what_one_of_them_has_right():
    first = np.array([True, True, True, False, False])
    second = np.array([True, False, False, True, False])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second, found.p) == (2, 1, 1.0)


def test_the_interval_of_a_difference_is_that_of_the_literature():
    # Agresti, Categorical Data Analysis, approval of the prime minister: 150 and 86 of 1600 changed their minds: 0.04
    # plus or minus 0.019. At this size, the half photos of Agresti and Min change the fifth digit.
    found = difference_interval(150, 86, 1600)
    assert (round(found.low, 3), round(found.high, 3)) == (0.021, 0.059)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200))
def test_the_interval_of_a_difference_mirrors(one, other, same):
    photos = one + other + same
    found, mirrored = difference_interval(one, other, photos), difference_interval(other, one, photos)
    assert -1 <= found.low <= found.high <= 1
    assert math.isclose(found.low, -mirrored.high, abs_tol=1e-12)


@given(ANSWERS)
def test_classes_are_counted_as_by_hand(pairs):
    truth, answers = (np.array(each) for each in zip(*pairs, strict=True))
    counts = class_counts(answers, truth, CLASSES)
    f1s = []
    for each in range(CLASSES):
        photos = sum(label == each for label, _ in pairs)
        answered = sum(answer == each for _, answer in pairs)
        right = sum(label == answer == each for label, answer in pairs)
        assert (counts.photos[each], counts.answers[each], counts.right[each]) == (photos, answered, right)
        for value, part, whole in (
            (counts.precision[each], right, answered),
            (counts.recall[each], right, photos),
            (counts.f1[each], 2 * right, answered + photos),
        ):
            assert math.isnan(value) if whole == 0 else value == pytest.approx(part / whole)
        if photos:
            f1s.append(2 * right / (answered + photos))
    assert counts.macro_f1 == pytest.approx(sum(f1s) / len(f1s))
    if NO_ANSWER not in answers:
        # Each photo has one answer.
        assert counts.micro_f1 == pytest.approx((truth == answers).mean())


@given(ANSWERS)
def test_the_confusion_matrix_holds_every_photo_once(pairs):
    truth, answers = (np.array(each) for each in zip(*pairs, strict=True))
    found = confusion(answers, truth)
    assert sum(count for _, _, count in found) == len(pairs)
    for label, answer, count in found:
        assert count == pairs.count((label, answer))


@given(st.lists(st.tuples(st.permutations(range(CLASSES)), st.integers(0, CLASSES - 1)), min_size=1, max_size=10))
def test_top_k_is_membership(rows):
    ranked = np.array([each for each, _ in rows])
    truth = np.array([each for _, each in rows])
    for k in range(1, CLASSES + 1):
        assert in_top(ranked, truth, k).tolist() == [label in order[:k] for order, label in rows]
    assert in_top(ranked, truth, CLASSES).all()


@given(DECISIONS)
def test_the_calibration_error_is_that_of_the_definition(decisions):
    confidence = np.array([each for each, _ in decisions])
    right = np.array([each for _, each in decisions])
    found = calibration(confidence, right)
    assert len(found.bins) == 15
    error, placed = np.float64(0), 0
    for index, each in enumerate(found.bins):
        mine = [
            (score, hit)
            for score, hit in decisions
            if index / 15 < score <= (index + 1) / 15 or (index == 0 and score == 0)
        ]
        assert each.answers == len(mine)
        placed += len(mine)
        if mine:
            confidences, hits = ([float(one[part]) for one in mine] for part in (0, 1))
            assert each.confidence == pytest.approx(np.mean(confidences))
            assert each.accuracy == pytest.approx(np.mean(hits))
            error += len(mine) / len(decisions) * abs(np.mean(hits) - np.mean(confidences))
    assert placed == len(decisions)
    assert found.error == pytest.approx(error)


def test_a_confidence_of_one_that_is_always_right_has_no_error():
    assert calibration(np.ones(5), np.ones(5, bool)).error == 0
    assert calibration(np.ones(5), np.zeros(5, bool)).error == 1
    assert math.isnan(calibration(np.zeros(0), np.zeros(0, bool)).error)


@given(RANKED)
def test_average_precision_sums_over_the_thresholds(rows):
    scores, truth = np.array([float(each) for each, _ in rows]), np.array([each for _, each in rows])
    if not truth.any():
        assert math.isnan(average_precision(scores, truth))
        return
    expected = recall = np.float64(0)
    for threshold in sorted(set(scores), reverse=True):
        above = scores >= threshold
        reached = (truth & above).sum() / truth.sum()
        expected += (reached - recall) * (truth & above).sum() / above.sum()
        recall = reached
    assert average_precision(scores, truth) == pytest.approx(expected)


def test_average_precision_of_a_known_ranking():
    # scikit-learn's example: 0.83.
    assert average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(
        0.8333333
    )


def test_labels_without_photos_do_not_count_in_the_mean():
    scores = np.array([[0.9, 0.1], [0.2, 0.3]])
    each, mean = mean_average_precision(scores, np.array([[True, False], [False, False]]))
    assert each[0] == mean == 1
    assert math.isnan(each[1])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_decisions_of_labels_are_counted_as_by_hand(rows):
    decided, truth = (np.array([[row[part]] for row in rows]) for part in (0, 1))
    counts = label_counts(decided, truth)
    assert counts.right[0] == sum(one and other for one, other in rows)
    assert counts.photos[0] == truth.sum()
    assert counts.answers[0] == decided.sum()


def test_micro_f1_weighs_decisions_and_macro_f1_labels():
    truth = np.array(list(itertools.product([True, False], repeat=2)))
    decided = truth.copy()
    decided[0, 1] = False
    counts = label_counts(decided, truth)
    assert counts.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert counts.micro_f1 == pytest.approx(2 * 3 / (4 + 3))
