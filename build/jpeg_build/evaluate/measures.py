"""Measures of classification on labelled photos. Pure functions of arrays; each names the source of its formula."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]

NO_ANSWER = -1
"""Class of a photo that a classifier has no answer for: its outputs are not finite. It is never right."""

BINS = 15
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Compute the score interval of a proportion.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).

    Args:
        successes: 0 to `trials`.
        trials: 0 leaves everything possible: [0, 1].
        confidence: Of the two-sided interval, in (0, 1).
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, z2 = successes / trials, z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # At the ends, rounding would leave the exact bound by one bit.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low, high)


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same photos.

    Attributes:
        only_first: Photos that only the first one has right.
        only_second: Photos that only the second one has right.
        p: Probability of a split at least as uneven as this one, if both are equally good.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: Flags, second: Flags) -> McNemar:
    """Test whether two classifiers are equally good, by the photos that one of them has right.

    The exact, two-sided test: under the hypothesis, `only_first` is binomial with n = only_first + only_second and 1/2.
    Source: McNemar, Psychometrika 12 (1947); exact form: Fagerland, Lydersen, Laake, BMC Medical Research Methodology
    13:91 (2013), section "The McNemar exact conditional test".

    Args:
        first: (N,) bool: which photos the first one has right.
        second: (N,) bool, of the same photos.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(only_first, only_second, binomial_p(only_first, only_second))


def binomial_p(one: int, other: int) -> float:
    """Compute the exact two-sided p of a split of `one + other` fair tosses, in integers up to the last division."""
    trials = one + other
    term = tail = 1
    for taken in range(min(one, other)):
        term = term * (trials - taken) // (taken + 1)
        tail += term
    p: float = 2 * tail / 2**trials
    return min(1.0, p)


def difference_interval(only_first: int, only_second: int, photos: int, confidence: float = CONFIDENCE) -> Interval:
    """Compute an interval of the difference (first minus second) of two proportions on the same photos.

    Wald's interval after half a photo is added to each of the four cells. Source: Agresti and Min, Simple improved
    confidence intervals for comparing matched proportions, Statistics in Medicine 24 (2005).

    Args:
        only_first: Photos that only the first classifier has right.
        only_second: Photos that only the second one has right.
        photos: All of them.
        confidence: Of the two-sided interval.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    total, one, other = photos + 2, only_first + 0.5, only_second + 0.5
    difference = (one - other) / total
    half = z * math.sqrt(max(0.0, one + other - (one - other) ** 2 / total)) / total
    return Interval(max(-1.0, difference - half), min(1.0, difference + half))


def in_top(ranked: Indices, truth: Indices, k: int) -> Flags:
    """Find the photos whose class is among the first k.

    Args:
        ranked: (N, at least k) classes, best first.
        truth: (N,) classes.
        k: From 1 on.
    """
    return np.asarray((ranked[:, :k] == truth[:, None]).any(axis=1))


@dataclass(frozen=True)
class ClassCounts:
    """Counts of each class, (classes,) int64.

    Attributes:
        photos: Photos of the class.
        answers: Photos that are answered with it.
        right: Photos of the class that are answered with it.
    """

    photos: Indices
    answers: Indices
    right: Indices

    @property
    def precision(self) -> Scores:
        """Part of the answers that are right; NaN without answers."""
        return _quotient(self.right, self.answers)

    @property
    def recall(self) -> Scores:
        """Part of the photos that are answered right; NaN without photos."""
        return _quotient(self.right, self.photos)

    @property
    def f1(self) -> Scores:
        """Harmonic mean of both, 2 right / (photos + answers); NaN without either."""
        return _quotient(2 * self.right, self.photos + self.answers)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have photos; NaN if none has."""
        values = self.f1[self.photos > 0]
        return float(values.mean()) if len(values) else math.nan

    @property
    def micro_f1(self) -> float:
        """F1 of all decisions together; NaN without any."""
        total = int(self.photos.sum() + self.answers.sum())
        return 2 * int(self.right.sum()) / total if total else math.nan


def class_counts(answers: Indices, truth: Indices, classes: int) -> ClassCounts:
    """Count photos, answers and right answers of each class.

    Args:
        answers: (N,) classes, or NO_ANSWER.
        truth: (N,) classes.
        classes: How many there are.
    """
    answered = answers[answers != NO_ANSWER]
    return ClassCounts(
        np.bincount(truth, minlength=classes),
        np.bincount(answered, minlength=classes),
        np.bincount(truth[answers == truth], minlength=classes),
    )


def label_counts(decided: Flags, truth: Flags) -> ClassCounts:
    """Count the same where each label is decided by itself: both (N, labels) bool."""
    return ClassCounts(
        truth.sum(axis=0).astype(np.int64),
        decided.sum(axis=0).astype(np.int64),
        (truth & decided).sum(axis=0).astype(np.int64),
    )


def confusion(answers: Indices, truth: Indices) -> list[tuple[int, int, int]]:
    """Count each pair (class, answer) that occurs, as (class, answer, photos), in the order of the classes."""
    pairs, counts = np.unique(np.stack([truth, answers], axis=1), axis=0, return_counts=True)
    return [(int(one), int(other), int(count)) for (one, other), count in zip(pairs, counts, strict=True)]


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence lies in (low, high]; a confidence of 0 belongs to the first bin.

    Attributes:
        low: Bound.
        high: Bound.
        answers: How many.
        confidence: Their mean confidence; NaN without answers.
        accuracy: Part of them that is right; NaN without answers.
    """

    low: float
    high: float
    answers: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether confidences are the parts of the answers that are right.

    Attributes:
        error: Expected calibration error, the mean of |accuracy - confidence| over the bins, weighted by their answers;
            NaN without answers.
        bins: Of equal width.
    """

    error: float
    bins: tuple[Bin, ...]


def calibration(confidence: Scores, right: Flags, bins: int = BINS) -> Calibration:
    """Compute the expected calibration error in bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equations 2 and 3.

    Args:
        confidence: (N,) in [0, 1].
        right: (N,) bool.
        bins: How many.
    """
    edges = np.arange(bins + 1) / bins
    # The bin i is (edges[i], edges[i + 1]].
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    sums = np.bincount(places, weights=confidence, minlength=bins)
    hits = np.bincount(places, weights=right.astype(np.float64), minlength=bins)
    means, shares = _quotient(sums, counts), _quotient(hits, counts)
    error = float(np.abs(hits - sums).sum() / len(confidence)) if len(confidence) else math.nan
    return Calibration(
        error,
        tuple(
            Bin(float(edges[i]), float(edges[i + 1]), int(counts[i]), float(means[i]), float(shares[i]))
            for i in range(bins)
        ),
    )


def _quotient(sums: NDArray[Any], counts: NDArray[Any]) -> Scores:
    """Divide; NaN where a count is 0."""
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def average_precision(scores: Scores, truth: Flags) -> float:
    """Compute the average precision of one label: the sum of (R_n - R_(n-1)) P_n over falling thresholds.

    Equal scores are one threshold, so that their order does not count. Source: Manning, Raghavan, Schütze,
    Introduction to Information Retrieval (2008), section 8.4; no interpolation.

    Args:
        scores: (N,) of the label.
        truth: (N,) bool: which photos have the label.

    Returns:
        In [0, 1]; NaN if no photo has the label.
    """
    positive = int(truth.sum())
    if positive == 0:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    falling, found = scores[order], np.cumsum(truth[order])
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    precision = found[last] / (last + 1)
    recall = found[last] / positive
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def mean_average_precision(scores: Scores, truth: Flags) -> tuple[list[float], float]:
    """Compute the average precision of each label, and the mean over the labels that a photo has.

    Args:
        scores: (N, labels).
        truth: (N, labels) bool.
    """
    each = [average_precision(scores[:, label], truth[:, label]) for label in range(truth.shape[1])]
    known = [value for value in each if not math.isnan(value)]
    return each, sum(known) / len(known) if known else math.nan
