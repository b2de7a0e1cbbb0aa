"""What a report says, before it is Markdown or HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jpeg_build.evaluate.gate import count, describe
from jpeg_build.evaluate.measures import CONFIDENCE
from jpeg_build.evaluate.results import (
    Comparison,
    Disagreement,
    Evaluation,
    GateResult,
    RunResult,
    Share,
)
from jpeg_build.evaluate.runs import FRAMEWORK

_SURE = f"{100 * CONFIDENCE:.0f} %"
_MOST_PAIRS = 10
_MOST_CLASSES = 10
_MOST_UNREADABLE = 50


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of lines."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Photos:
    """Photos that are answered differently."""

    photos: Sequence[Disagreement]


Block = Text | Bullets | Table | Photos


@dataclass(frozen=True)
class Section:
    """A headed part. folded: closed at first, where that is possible."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False


def title(found: Evaluation) -> str:
    """Return the title of a report."""
    return f"Accuracy of {found.recipe} on {found.data}"


def sections(found: Evaluation) -> list[Section]:
    """Return the parts of a report."""
    parts = [Section("Summary", _summary(found))]
    if found.gates:
        parts.append(Section("Gates", [_gates(found.gates)]))
    parts.append(Section("Accuracy", _accuracy(found)))
    if found.comparisons:
        parts.append(Section("Differences", _differences(found.comparisons)))
    parts.append(Section("Throughput", _throughput(found)))
    if found.disagreements:
        parts.append(Section("Photos that are answered differently", _disagreeing(found)))
    if found.unreadable:
        parts.append(Section("Photos that could not be read", _unreadable(found)))
    parts += [Section(run.name, _details(run, found), folded=True) for run in found.runs]
    return parts


def _summary(found: Evaluation) -> list[Block]:
    lines = [
        f"Recipe {found.recipe}, {len(found.labels)} labels, scores of a {found.output}.",
        f"{found.photos} photos of {found.data} ({found.layout}; names are read as {found.reading}).",
        f"The framework's network: {found.framework}.",
        f"Machine: {found.machine}.",
    ]
    if found.unreadable:
        lines.append(f"{len(found.unreadable)} photos could not be read and are left out of every number.")
    return [Bullets([*lines, *(f"Note: {note}." for note in found.notes)])]


def _gates(gates: Sequence[GateResult]) -> Table:
    verdicts = {True: "passed", False: "FAILED"}
    doubts = {True: "yes", False: "no: too few photos", None: "no interval"}
    return Table(
        f"Gates. Decided: whether the {_SURE} interval lies on one side of the bound",
        ("run", "gate", "value", "bound", "result", "decided"),
        [
            (
                each.run,
                each.gate,
                _percent(each.value),
                _percent(each.bound) + ("" if each.reference is None else f" (from {each.reference})"),
                verdicts[each.passed],
                doubts[each.decided],
            )
            for each in gates
        ],
    )


def _accuracy(found: Evaluation) -> list[Block]:
    several = found.output == "sigmoid"
    k = found.runs[0].k
    head = ["run", "all labels right" if several else "top-1", "mAP" if several else f"top-{k}", "macro F1"]
    head += ["micro F1"] if several else []
    rows = []
    for run in found.runs:
        second = _percent(run.mean_average_precision) if run.top_k is None else _interval(run.top_k)
        row = [run.name, _interval(run.accuracy), second, _percent(run.macro_f1)]
        rows.append([*row, *([_percent(run.micro_f1)] if several else []), _percent(run.ece), _remarks(run)])
    return [
        Table(
            f"Accuracy, with Wilson's {_SURE} interval in brackets",
            (*head, "calibration error", "remarks"),
            rows,
        )
    ]


def _remarks(run: RunResult) -> str:
    found = ["in use: answers the requests"] if run.in_use else []
    if not run.same_weights:
        found.append("from other weights than the framework's")
    if run.no_answer:
        found.append(f"{run.no_answer} photos without a finite answer, which count as wrong")
    if run.below_threshold:
        found.append(f"{run.below_threshold} photos without a label above the recipe's threshold")
    return "; ".join(found)


def _differences(pairs: Sequence[Comparison]) -> list[Block]:
    return [
        Text(
            "p (McNemar) is the probability that two equally good classifiers have photos alone right at least as "
            "unevenly as these two have: a small one speaks for a difference, and a large one for nothing. With many "
            "rows, some p below 5 % are to be expected."
        ),
        Table(
            f"Difference of accuracy in percentage points, with its {_SURE} interval (Agresti and Min), and "
            "McNemar's exact test",
            ("run", "compared with", "difference", "only the first right", "only the second right", "p", "same answer"),
            [
                (
                    each.first,
                    each.second,
                    f"{_points(each.difference)} [{_points(each.low)}, {_points(each.high)}]",
                    str(each.only_first),
                    str(each.only_second),
                    f"{each.p:.3g}",
                    _percent(each.agreement.value),
                )
                for each in pairs
            ],
        ),
    ]


def _throughput(found: Evaluation) -> list[Block]:
    return [
        Text(
            "Each number is of this step alone, measured in this run on this machine: decoding from bytes to pixels "
            "on all threads, classifying from pixels in host memory to logits in batches of up to 32, in a process of "
            "its own (the framework: in this process). A server does both at once: jpeg-bench measures that."
        ),
        Table(
            "Images per second",
            ("run", "decoding", "classifying", "images measured"),
            [
                (run.name, _rate(run.speed.decode), _rate(run.speed.classify), str(run.speed.images))
                for run in found.runs
            ],
        ),
    ]


def _disagreeing(found: Evaluation) -> list[Block]:
    shown = len(found.disagreements)
    part = "" if shown == found.disagreeing else f" The first {shown} are shown."
    return [
        Text(
            f"{found.disagreeing} of {found.photos} photos are answered differently by two runs; those that some have "
            f"right come first.{part} Each picture is what the network sees."
        ),
        Photos(found.disagreements),
    ]


def _unreadable(found: Evaluation) -> list[Block]:
    shown = found.unreadable[:_MOST_UNREADABLE]
    rest = len(found.unreadable) - len(shown)
    blocks: list[Block] = [
        Table(
            "Left out of every run, since the server refuses them",
            ("photo", "reason", "message"),
            [(each.photo, each.reason, each.message) for each in shown],
        )
    ]
    return [*blocks, *([Text(f"{rest} more are in evaluation.json.")] if rest else [])]


def _details(run: RunResult, found: Evaluation) -> list[Block]:
    blocks: list[Block] = []
    confused = sorted((each for each in run.confusion if each[0] != each[1]), key=lambda each: -each[2])
    if confused:
        blocks.append(
            Table(
                f"Most confused: {min(_MOST_PAIRS, len(confused))} of {len(confused)} pairs; all are in "
                "evaluation.json",
                ("truth", "answer", "photos"),
                [
                    (found.labels[truth], found.labels[answer] if answer >= 0 else "none", str(count))
                    for truth, answer, count in confused[:_MOST_PAIRS]
                ],
            )
        )
    present = [each for each in run.classes if each.photos]
    weakest = sorted(present, key=lambda each: (each.f1, -each.photos))[:_MOST_CLASSES]
    blocks.append(
        Table(
            f"Classes with the lowest F1: {len(weakest)} of {len(present)} that have photos",
            ("class", "photos", "precision", "recall", "F1"),
            [
                (each.label, str(each.photos), _percent(each.precision), _percent(each.recall), _percent(each.f1))
                for each in weakest
            ],
        )
    )
    blocks.append(
        Table(
            f"Calibration: expected error {_percent(run.ece)}",
            ("confidence", "answers", "mean confidence", "right"),
            [
                (
                    f"{_percent(each.low)} to {_percent(each.high)}",
                    str(each.answers),
                    _percent(each.confidence),
                    _percent(each.accuracy),
                )
                for each in run.bins
                if each.answers
            ],
        )
    )
    return blocks


def summary_lines(found: Evaluation) -> list[str]:
    """Return the lines that the command prints."""
    lines = [f"{found.recipe} on {found.photos} photos of {found.data}"]
    width = max(len(run.name) for run in found.runs)
    against = {each.first: each for each in found.comparisons if each.second == FRAMEWORK}
    for run in found.runs:
        line = f"  {run.name:{width}}  {_interval(run.accuracy)}"
        if run.top_k is not None:
            line += f"  top-{run.k} {_percent(run.top_k.value)}"
        if run.mean_average_precision is not None:
            line += f"  mAP {_percent(run.mean_average_precision)}"
        if run.name in against:
            pair = against[run.name]
            line += f"  {_points(pair.difference)} points to the framework (p {pair.p:.2g})"
        lines.append(line + ("  in use" if run.in_use else ""))
    if found.gates:
        lines += [f"gates: {count(found.gates)}", *(f"  {describe(each)}" for each in found.gates)]
    return lines


def _interval(found: Share) -> str:
    return f"{_percent(found.value)} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.1f}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
