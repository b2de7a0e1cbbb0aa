"""The result of an evaluation: what evaluation.json holds, and how it is computed from the answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from jpeg_contract.settings import Head
from numpy.typing import NDArray

from jpeg_build.evaluate.answers import Answers, Timing, collect
from jpeg_build.evaluate.dataset import Photo
from jpeg_build.evaluate.machine import Machine
from jpeg_build.evaluate.measures import (
    Bin,
    ClassCounts,
    Flags,
    Indices,
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
from jpeg_build.evaluate.runs import FRAMEWORK, Gathered, Run

SCHEMA_VERSION = 1
# Of a sigmoid whose recipe has no threshold.
DEFAULT_THRESHOLD = 0.5


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the photos. low, high: Wilson's 95 % interval."""

    value: float
    low: float
    high: float
    photos: int
    of: int


class ClassResult(msgspec.Struct, frozen=True, kw_only=True):
    """One class. precision, recall and f1 are null where nothing defines them; average_precision is a sigmoid's."""

    index: int
    label: str
    photos: int
    precision: float
    recall: float
    f1: float
    average_precision: float | None = None


class BinResult(msgspec.Struct, frozen=True, kw_only=True):
    """Answers whose confidence lies in (low, high]."""

    low: float
    high: float
    answers: int
    confidence: float
    accuracy: float


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Images per second of this run alone; null if nothing was measured.

    Attributes:
        decode: From bytes to pixels, on all threads of the decoder.
        classify: From pixels in host memory to logits, in batches.
        images: How many were measured.
    """

    decode: float | None
    classify: float | None
    images: int


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The measures of one classifier with one decoder.

    Attributes:
        name: "openvino.int8/scaled".
        form: Name of the classifier form; "framework" for the network itself.
        precision: Of the artefact.
        version: Number of the version; null for the framework.
        served: Whether the config of its form serves the version.
        in_use: Whether the ensemble's requests are answered so now: by this form and version, with this decoder.
        decoder: Of JPEGs.
        artefact_sha256: Null for the framework.
        same_weights: Whether the artefact was made from the framework's weights.
        accuracy: top-1; of a sigmoid, photos of which every label is decided right.
        top_k: The class is among the first k; null for a sigmoid.
        k: 5, or the number of classes if that is less.
        no_answer: Photos whose outputs are not finite; they count as wrong.
        below_threshold: Photos for which no label reaches the recipe's threshold.
        macro_f1: Mean F1 of the classes that have photos.
        micro_f1: F1 of all decisions together; of a softmax, it is top-1.
        mean_average_precision: Of a sigmoid.
        ece: Expected calibration error.
        bins: Of it.
        classes: Each class that has photos or answers.
        confusion: [class, answer, photos] of every pair that occurs; answer -1 is none. Empty for a sigmoid.
        speed: Images per second.
    """

    name: str
    form: str
    precision: str
    version: int | None
    served: bool
    in_use: bool
    decoder: str
    artefact_sha256: str | None
    same_weights: bool
    accuracy: Share
    top_k: Share | None
    k: int
    no_answer: int
    below_threshold: int
    macro_f1: float
    micro_f1: float
    mean_average_precision: float | None
    ece: float
    bins: list[BinResult]
    classes: list[ClassResult]
    confusion: list[tuple[int, int, int]]
    speed: Speed


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs on the same photos.

    Attributes:
        first: Name of a run.
        second: Name of the one that it is compared with.
        only_first: Photos that only the first has right.
        only_second: Photos that only the second has right.
        difference: Accuracy of the first minus that of the second.
        low: Of the difference's 95 % interval (Agresti and Min).
        high: Likewise.
        p: Of McNemar's exact test.
        agreement: Part of the photos that both answer alike, right or wrong.
    """

    first: str
    second: str
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float
    agreement: Share


class AnswerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that give a photo one answer. labels: of the answer; empty for none. right: whether it is the truth."""

    labels: list[str]
    right: bool
    score: float
    runs: list[str]


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """A photo that runs answer differently. photo: its name; truth: its labels."""

    photo: str
    truth: list[str]
    answers: list[AnswerGroup]


class UnreadablePhoto(msgspec.Struct, frozen=True, kw_only=True):
    """A photo that is left out of all runs. reason: code."""

    photo: str
    reason: str
    message: str


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """A gate on one run.

    Attributes:
        gate: As it was given.
        run: Name of the run.
        value: Of the measure.
        bound: Number that it is compared with.
        reference: Name of the run that the bound is relative to; null for a plain number.
        passed: Whether it holds for the photos.
        decided: Whether the 95 % interval lies on one side of the bound; null for a measure without an interval.
    """

    gate: str
    run: str
    value: float
    bound: float
    reference: str | None
    passed: bool
    decided: bool | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """evaluation.json. Numbers that nothing defines are null.

    Attributes:
        schema_version: Of this format.
        recipe: Name.
        recipe_sha256: Digest.
        ensemble: Whose forms were evaluated.
        data: File or folder, without the folders above it.
        layout: Of the data.
        reading: How its names of classes are read.
        photos: How many were evaluated.
        unreadable: Those left out.
        output: "softmax" or "sigmoid".
        threshold: From which score on a label counts as decided.
        labels: Of the classes.
        framework: Where the network's weights come from.
        machine: CPU, CPUs, GPUs.
        versions: Of the packages.
        notes: For the reader.
        runs: The framework first.
        comparisons: Pairs of runs.
        disagreements: Photos with different answers: those on which the runs differ in being right come first.
        disagreeing: How many there are; `disagreements` has a part of them.
        gates: Each gate on each run.
    """

    schema_version: int = SCHEMA_VERSION
    recipe: str
    recipe_sha256: str
    ensemble: str
    data: str
    layout: str
    reading: str
    photos: int
    unreadable: list[UnreadablePhoto]
    output: Head
    threshold: float
    labels: list[str]
    framework: str
    machine: Machine
    versions: dict[str, str]
    notes: list[str]
    runs: list[RunResult]
    comparisons: list[Comparison]
    disagreements: list[Disagreement]
    disagreeing: int
    gates: list[GateResult]


@dataclass(frozen=True)
class Outcome:
    """A run's answers beside the truth.

    Attributes:
        run: The run.
        result: Its measures.
        right: (N,) photos that it has right.
        in_top: (N,) photos whose class is among the first k.
        decided: (N, labels) labels that a sigmoid decides for; None for a softmax.
        answers: The answers.
    """

    run: Run
    result: RunResult
    right: Flags
    in_top: Flags
    decided: Flags | None
    answers: Answers

    def same_answers(self, other: Outcome) -> Flags:
        """Find the photos that both answer alike."""
        if self.decided is not None and other.decided is not None:
            return np.asarray((self.decided == other.decided).all(axis=1))
        return np.asarray(self.answers.ranked[:, 0] == other.answers.ranked[:, 0])

    def answer_to(self, photo: int) -> tuple[int, ...]:
        """Return the classes of the answer to a photo."""
        if self.decided is not None:
            return tuple(np.flatnonzero(self.decided[photo]).tolist())
        best = int(self.answers.ranked[photo, 0])
        return () if best < 0 else (best,)


def share(flags: Flags) -> Share:
    """Return a part of the photos with its interval."""
    count, total = int(flags.sum()), len(flags)
    interval = wilson(count, total)
    return Share(
        value=count / total if total else math.nan, low=interval.low, high=interval.high, photos=count, of=total
    )


@dataclass(frozen=True)
class Judge:
    """Measures runs against the truth.

    Attributes:
        labels: Of the classes.
        head: How logits became scores.
        threshold: Of the recipe.
        weights_sha256: Of the framework's network.
    """

    labels: Sequence[str]
    head: Head
    threshold: float
    weights_sha256: str | None

    @property
    def decision(self) -> float:
        """The score from which on a sigmoid's label counts as decided."""
        return self.threshold or DEFAULT_THRESHOLD

    def outcome(self, run: Run, gathered: Gathered) -> Outcome:
        """Measure a run."""
        classes = len(self.labels)
        answers = collect(gathered.answers[run.name], gathered.hashes, classes, self.head)
        timings = gathered.timings[run.name]
        if self.head == "sigmoid":
            return self._labels(run, answers, gathered.photos, timings)
        truth = np.array([photo.classes[0] for photo in gathered.photos], np.int64)
        best = answers.ranked[:, 0]
        right = np.asarray(best == truth)
        top = in_top(answers.ranked, truth, answers.ranked.shape[1])
        found = calibration(answers.confidence, right)
        result = self._result(
            run,
            answers,
            right,
            timings,
            counts=class_counts(best, truth, classes),
            ece=found.error,
            bins=found.bins,
            top=top,
            pairs=confusion(best, truth),
        )
        return Outcome(run, result, right, top, None, answers)

    def _labels(self, run: Run, answers: Answers, photos: Sequence[Photo], timings: Sequence[Timing]) -> Outcome:
        assert answers.scores is not None, "a sigmoid's answers have all scores"
        truth = _truth(photos, len(self.labels))
        answered = answers.ranked[:, 0] >= 0
        decided = np.asarray((answers.scores >= self.decision) & answered[:, None])
        right = np.asarray((decided == truth).all(axis=1) & answered)
        # Each label of each photo is a decision of its own.
        found = calibration(answers.scores.ravel(), truth.ravel())
        each, mean = mean_average_precision(answers.scores, truth)
        result = self._result(
            run,
            answers,
            right,
            timings,
            counts=label_counts(decided, truth),
            ece=found.error,
            bins=found.bins,
            precisions=each,
            mean=mean,
        )
        return Outcome(run, result, right, right, decided, answers)

    def _result(
        self,
        run: Run,
        answers: Answers,
        right: Flags,
        timings: Sequence[Timing],
        *,
        counts: ClassCounts,
        ece: float,
        bins: Sequence[Bin],
        top: Flags | None = None,
        pairs: Sequence[tuple[int, int, int]] = (),
        precisions: Sequence[float] | None = None,
        mean: float | None = None,
    ) -> RunResult:
        candidate = run.candidate
        report = None if candidate is None else candidate.report
        precision, recall, f1 = counts.precision, counts.recall, counts.f1
        return RunResult(
            name=run.name,
            form=FRAMEWORK if candidate is None else candidate.form.name,
            precision="fp32" if report is None else report.precision,
            version=None if candidate is None else candidate.version,
            served=candidate is not None and candidate.served,
            in_use=run.in_use,
            decoder=run.decoder,
            artefact_sha256=None if candidate is None else candidate.sha256,
            same_weights=report is None or report.weights.sha256 == self.weights_sha256,
            accuracy=share(right),
            top_k=None if top is None else share(top),
            k=answers.ranked.shape[1],
            no_answer=int((answers.ranked[:, 0] < 0).sum()),
            below_threshold=int((answers.confidence < self.threshold).sum()),
            macro_f1=counts.macro_f1,
            micro_f1=counts.micro_f1,
            mean_average_precision=mean,
            ece=ece,
            bins=[
                BinResult(
                    low=each.low,
                    high=each.high,
                    answers=each.answers,
                    confidence=each.confidence,
                    accuracy=each.accuracy,
                )
                for each in bins
            ],
            classes=[
                ClassResult(
                    index=index,
                    label=label,
                    photos=int(counts.photos[index]),
                    precision=float(precision[index]),
                    recall=float(recall[index]),
                    f1=float(f1[index]),
                    average_precision=None if precisions is None else precisions[index],
                )
                for index, label in enumerate(self.labels)
                if counts.photos[index] or counts.answers[index]
            ],
            confusion=list(pairs),
            speed=_speed(timings),
        )


def _truth(photos: Sequence[Photo], labels: int) -> Flags:
    truth = np.zeros((len(photos), labels), np.bool_)
    for row, photo in enumerate(photos):
        truth[row, list(photo.classes)] = True
    return truth


def _speed(timings: Sequence[Timing]) -> Speed:
    images = sum(each.images for each in timings)
    decode, classify = (sum(getattr(each, name) for each in timings) for name in ("decode_s", "classify_s"))
    return Speed(
        decode=images / decode if decode else None, classify=images / classify if classify else None, images=images
    )


def compare(first: Outcome, second: Outcome) -> Comparison:
    """Compare two runs on the same photos."""
    test = mcnemar(first.right, second.right)
    photos = len(first.right)
    interval = difference_interval(test.only_first, test.only_second, photos)
    return Comparison(
        first=first.run.name,
        second=second.run.name,
        only_first=test.only_first,
        only_second=test.only_second,
        difference=(test.only_first - test.only_second) / photos if photos else math.nan,
        low=interval.low,
        high=interval.high,
        p=test.p,
        agreement=share(first.same_answers(second)),
    )


def fp32_of(outcome: Outcome, outcomes: Mapping[str, Outcome]) -> Outcome:
    """Return the run of the same form in fp32 with the same decoder; else, and for fp32 itself, the framework's.

    Of several versions in fp32, the served one counts, else the newest.
    """
    mine = outcome.result
    others = [
        each
        for each in outcomes.values()
        if (each.result.form, each.result.decoder, each.result.precision) == (mine.form, mine.decoder, "fp32")
    ]
    if mine.precision == "fp32" or not others:
        return outcomes[FRAMEWORK]
    return max(others, key=lambda each: (each.result.served, each.result.version or 0))


def pairs(outcomes: Mapping[str, Outcome]) -> Iterator[tuple[Outcome, Outcome]]:
    """Yield the pairs that matter: each run and the framework, decoders of one artefact, precisions, versions."""
    built = [each for name, each in outcomes.items() if name != FRAMEWORK]
    for each in built:
        yield each, outcomes[FRAMEWORK]
    for number, each in enumerate(built):
        for other in built[:number]:
            # Decoders of one artefact, or versions of one precision.
            if each.run.candidate is other.run.candidate or _kind(each) == _kind(other):
                yield each, other
        reference = fp32_of(each, outcomes)
        if reference.run.candidate is not None:
            yield each, reference


def _kind(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.result.form, outcome.result.precision, outcome.result.decoder


def disagreements(
    outcomes: Sequence[Outcome], photos: Sequence[Photo], labels: Sequence[str]
) -> tuple[list[int], list[Disagreement]]:
    """Find the photos that runs answer differently; those that some have right and others wrong come first.

    Returns:
        The places of the photos, and what each run answers.
    """
    differs = np.zeros(len(photos), np.bool_)
    for each in outcomes[1:]:
        differs |= ~outcomes[0].same_answers(each)
    rights = np.stack([each.right for each in outcomes]).sum(axis=0)
    torn = (rights > 0) & (rights < len(outcomes))
    places: NDArray[np.int64] = np.flatnonzero(differs)
    ordered: Indices = places[np.argsort(~torn[places], kind="stable")]
    return ordered.tolist(), [_disagreement(outcomes, photos, labels, place) for place in ordered.tolist()]


def _disagreement(
    outcomes: Sequence[Outcome], photos: Sequence[Photo], labels: Sequence[str], place: int
) -> Disagreement:
    groups: dict[tuple[int, ...], list[Outcome]] = {}
    for each in outcomes:
        groups.setdefault(each.answer_to(place), []).append(each)
    return Disagreement(
        photo=photos[place].name,
        truth=[labels[index] for index in photos[place].classes],
        answers=[
            AnswerGroup(
                labels=[labels[index] for index in answer],
                right=bool(members[0].right[place]),
                score=float(members[0].answers.confidence[place]),
                runs=[each.run.name for each in members],
            )
            for answer, members in groups.items()
        ],
    )
