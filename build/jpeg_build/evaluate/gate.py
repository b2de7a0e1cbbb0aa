"""Gates: conditions that an accuracy must meet, such as "openvino.int8: top1 >= fp32 - 0.5%"."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jpeg_contract.forms import FORMS
from jpeg_contract.settings import Head

from jpeg_build.errors import CallError
from jpeg_build.evaluate.measures import Interval, difference_interval
from jpeg_build.evaluate.results import GateResult, Outcome, Share, compare, fp32_of
from jpeg_build.evaluate.runs import FRAMEWORK, Run

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)\s*%?"
_GATE = re.compile(
    rf"""\s*(?:(?P<scope>[^:<>=]*?)\s*:)?
         \s*(?P<measure>[A-Za-z0-9_-]+)\s*(?P<relation>>=|<=|>|<)
         \s*(?:(?P<reference>fp32|framework)\s*(?:(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?|(?P<number>{_NUMBER}))\s*""",
    re.VERBOSE,
)
_SCOPE = re.compile(
    r"(?P<form>[a-z0-9_]+)(?:\.(?P<precision>[a-z0-9]+))?(?:@(?P<version>\d+))?(?:/(?P<decoder>[a-z]+))?"
)

# By head: what a gate may name.
MEASURES: Mapping[Head, tuple[str, ...]] = {
    "softmax": ("top1", "top5", "macro_f1", "ece", "agreement"),
    "sigmoid": ("exact_match", "map", "macro_f1", "micro_f1", "ece", "agreement"),
}

# Bounds such as 0.9 - 0.005 are not exact.
_ROUNDING = 1e-9

_HELP = (
    'write MEASURE >= BOUND, such as "top1 >= fp32 - 0.5%", "top5 >= 0.9", "ece <= 5%" or "openvino.int8: top1 >= '
    'framework - 1%"'
)


@dataclass(frozen=True)
class Gate:
    """A condition.

    Attributes:
        text: As it was given.
        scope: FORM[.PRECISION][@VERSION][/DECODER] whose runs it is for; empty for all that are built.
        measure: One of MEASURES.
        relation: ">=", "<=", ">" or "<".
        reference: "fp32" or "framework", whose value is added to the number; None for the number alone.
        number: Of 1: 0.5 % is 0.005.
    """

    text: str
    scope: str
    measure: str
    relation: str
    reference: str | None
    number: float

    @property
    def form(self) -> str | None:
        """The form whose runs it is for; None for those of all forms, and for the framework's."""
        found = _SCOPE.fullmatch(self.scope)
        return found["form"] if found is not None and found["form"] != FRAMEWORK else None


def read_gate(text: str, head: Head) -> Gate:
    """Read a gate.

    Args:
        text: See the module.
        head: It decides which measures there are.

    Raises:
        CallError: It is none (invalid_gate).
    """
    found = _GATE.fullmatch(text)
    if found is None:
        raise _invalid(text, _HELP)
    measure = found["measure"].lower().replace("-", "_")
    if measure not in MEASURES[head]:
        raise _invalid(text, f"a {head} recipe has the measures {', '.join(MEASURES[head])}, not {found['measure']}")
    scope = (found["scope"] or "").strip()
    found_scope = _SCOPE.fullmatch(scope)
    if scope and found_scope is None:
        raise _invalid(text, f"{scope!r} is not FORM, FORM.PRECISION, FORM.PRECISION@VERSION, with /DECODER or without")
    if found_scope is not None and found_scope["form"] not in (*FORMS, FRAMEWORK):
        raise _invalid(text, f"there is no form {found_scope['form']}; there are {', '.join(FORMS)}, and {FRAMEWORK}")
    reference = found["reference"]
    if reference is not None and measure == "agreement":
        raise _invalid(text, "agreement is with the framework: give it a number, such as agreement >= 99%")
    stated = found["number"] or found["offset"] or "0"
    number = _number(stated)
    if number > 1:
        remedy = "a bound is at most 100%" if stated.endswith("%") or number > 100 else f"write {stated}%"
        raise _invalid(text, f"all measures lie between 0 and 1: {remedy}")
    return Gate(text, scope, measure, found["relation"], reference, -number if found["sign"] == "-" else number)


def _invalid(text: str, why: str) -> CallError:
    return CallError(f"--gate {text!r}: {why}", reason="invalid_gate")


def _number(text: str) -> float:
    stripped = text.strip()
    return float(stripped.removesuffix("%").strip()) / (100 if stripped.endswith("%") else 1)


def require_scope(gate: Gate, runs: Collection[Run]) -> None:
    """Check that a gate is for one run at least.

    Raises:
        CallError: It is for none (invalid_gate).
    """
    if not any(_in_scope(gate.scope, run) for run in runs):
        there = ", ".join(run.name for run in runs if run.candidate is not None) or "none is built"
        raise _invalid(gate.text, f"no run is in its scope; there are: {there}")


def check_gate(gate: Gate, outcomes: Mapping[str, Outcome]) -> list[GateResult]:
    """Apply a gate to the runs of its scope.

    Raises:
        CallError: There is no such run (invalid_gate).
    """
    require_scope(gate, [each.run for each in outcomes.values()])
    return [_check(gate, each, outcomes) for each in outcomes.values() if _in_scope(gate.scope, each.run)]


def _in_scope(scope: str, run: Run) -> bool:
    candidate = run.candidate
    if not scope:
        return candidate is not None
    found = _SCOPE.fullmatch(scope)
    assert found is not None, "read_gate has checked it"
    has = {"form": FRAMEWORK, "precision": "fp32", "version": "", "decoder": run.decoder}
    if candidate is not None:
        has |= {"form": candidate.form.name, "precision": candidate.report.precision, "version": str(candidate.version)}
    return all(wanted is None or has[key] == wanted for key, wanted in found.groupdict().items())


def _check(gate: Gate, outcome: Outcome, outcomes: Mapping[str, Outcome]) -> GateResult:
    framework = outcomes[FRAMEWORK]
    reference = None
    if gate.reference is not None:
        reference = framework if gate.reference == FRAMEWORK else fp32_of(outcome, outcomes)
    value = _value(gate.measure, outcome, framework)
    bound = gate.number + (_value(gate.measure, reference, framework) if reference is not None else 0.0)
    interval = _interval(gate.measure, outcome, reference, framework)
    # Of a relative gate, the interval is that of the difference.
    compared = gate.number if reference is not None else bound
    return GateResult(
        gate=gate.text,
        run=outcome.run.name,
        value=value,
        bound=bound,
        reference=None if reference is None else reference.run.name,
        passed=_holds(gate.relation, value, bound),
        decided=None if interval is None else compared not in interval,
    )


def _holds(relation: str, value: float, bound: float) -> bool:
    if math.isnan(value) or math.isnan(bound):
        return False
    match relation:
        case ">=":
            return value >= bound - _ROUNDING
        case "<=":
            return value <= bound + _ROUNDING
        case ">":
            return value > bound + _ROUNDING
    return value < bound - _ROUNDING


def _value(measure: str, outcome: Outcome, framework: Outcome) -> float:
    result = outcome.result
    match measure:
        case "macro_f1":
            return result.macro_f1
        case "micro_f1":
            return result.micro_f1
        case "map":
            return math.nan if result.mean_average_precision is None else result.mean_average_precision
        case "ece":
            return result.ece
    found = _share(measure, outcome, framework)
    assert found is not None, measure
    return found.value


def _share(measure: str, outcome: Outcome, framework: Outcome) -> Share | None:
    """Return a measure that is a part of the photos; None for another one."""
    match measure:
        case "top1" | "exact_match":
            return outcome.result.accuracy
        case "top5":
            return outcome.result.top_k
        case "agreement":
            return compare(outcome, framework).agreement
    return None


def _interval(measure: str, outcome: Outcome, reference: Outcome | None, framework: Outcome) -> Interval | None:
    """Return the 95 % interval of a measure, or of its difference from the reference; None if there is none."""
    found = _share(measure, outcome, framework)
    if found is None:
        return None
    if reference is None:
        return Interval(found.low, found.high)
    mine, theirs = (each.in_top if measure == "top5" else each.right for each in (outcome, reference))
    return difference_interval(int((mine & ~theirs).sum()), int((theirs & ~mine).sum()), len(mine))


def describe(result: GateResult) -> str:
    """Return a gate on a run with its numbers, as one line."""
    bound = f"{result.bound:.4f}"
    if result.reference is not None:
        bound += f" (from {result.reference})"
    verdict = "passed" if result.passed else "FAILED"
    doubt = "; the photos are too few to decide it: the 95 % interval contains the bound"
    return (
        f"{result.run}: {result.gate!r} {verdict}: {result.value:.4f}, bound {bound}"
        f"{doubt if result.decided is False else ''}"
    )


def count(results: Sequence[GateResult]) -> str:
    """Return how many gates passed and failed, and how many of them the photos do not decide."""
    failed = sum(not each.passed for each in results)
    open_ = sum(each.decided is False for each in results)
    doubt = f"; too few photos to decide {open_} of them" if open_ else ""
    return f"{len(results) - failed} passed, {failed} failed{doubt}"
