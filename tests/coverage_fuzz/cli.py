"""The command `python -m coverage_fuzz`."""

from __future__ import annotations

import importlib.util
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from jpeg_contract.command_line import (
    FAILED,
    OK,
    WRONG_CALL,
    Integer,
    Parameter,
    make_app,
    note,
    positive,
    print_json,
    run_app,
)

from coverage_fuzz import campaign, kept, targets
from coverage_fuzz.campaign import Budget, FuzzError, Outcome

COMMAND = "coverage_fuzz"
app = make_app(
    COMMAND,
    "Fuzz what reads images, recipes, configs and reports, guided by the branches that each input takes.",
    "The summary goes to stdout; progress goes to stderr. Needs atheris, which has wheels for Python 3.11; replaying "
    "does not.\n\nExit status: 0 no finding; 1 there are findings; 2 the call is invalid.",
)


class UnknownTarget(Exception):
    """There is no such target."""


def _known(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in targets.MODULES and name not in targets.PLANTED:
            raise UnknownTarget(f"there is no target {name}; there are {', '.join(targets.NAMES)} [unknown_target]")
    return names


@app.default
def fuzz(
    *,
    target: tuple[str, ...] = targets.NAMES,
    minutes: Annotated[float, Parameter(validator=positive)] = 10.0,
    runs: Integer | None = None,
    seed: Integer = 1,
    results: Path = Path("coverage-fuzz-results"),
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Fuzz targets one after the other, each in a process of its own.

    Args:
        target: decode, formats, header, recipe, config or report; may be repeated. Without it, all of them.
        minutes: Duration for each target.
        runs: Inputs for each target, if they take less time.
        seed: Of libFuzzer.
        results: Folder of the corpus, of each finding with its reason, of libFuzzer's logs, and of the summaries. A
            further run in the same folder goes on with its corpus.
        as_json: Print the summary as JSON.
    """
    if importlib.util.find_spec("atheris") is None:
        here = platform.python_version()
        raise FuzzError(f"atheris is not installed; its wheels are for Python 3.11, this is {here}")
    results.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in _known(target):
        note(COMMAND, f"{name}, for {minutes:g} minutes")
        outcome = campaign.fuzz(
            name,
            Budget(minutes * 60, runs),
            results.absolute(),
            seed=seed,
            note=lambda line: note(COMMAND, line),
        )
        outcomes.append(outcome)
        (results / f"{name}.json").write_text(json.dumps(_plain(outcome), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json({"environment": _environment(), "targets": [_plain(outcome) for outcome in outcomes]})
    else:
        print(_markdown(outcomes))
    return FAILED if any(outcome.findings for outcome in outcomes) else OK


@app.command
def replay(target: str, *files: Path) -> int:
    """Run inputs of a target alone, each in a process of its own, without atheris.

    Args:
        target: Name.
        files: Inputs, such as those of findings.
    """
    _known([target])
    found = False
    for file in files:
        file.stat()
        wrong = campaign.replay(target, file.absolute())
        found |= wrong is not None
        print(f"{file.name}: {wrong or 'as it should be'}", flush=True)
    return FAILED if found else OK


@app.command
def keep(*, target: tuple[str, ...] = targets.NAMES, results: Path = Path("coverage-fuzz-results")) -> int:
    """Keep the fewest inputs that reach what the kept corpus and that of a run reach, in the checkout.

    Args:
        target: See above.
        results: Of the run.
    """
    for name in _known(target):
        inputs, size = campaign.merge(name, results.absolute())
        print(f"{name}: {inputs} inputs, {size:,} bytes in {kept.archive(name).name}", flush=True)
    return OK


def _plain(outcome: Outcome) -> dict[str, Any]:
    plain = asdict(outcome)
    plain["seconds"] = round(outcome.seconds, 1)
    plain["executions_per_second"] = round(outcome.executions / max(outcome.seconds, 1e-9), 1)
    for finding in plain["findings"]:
        finding["file"] = finding["file"].name
        del finding["target"]
    return plain


def _environment() -> dict[str, str]:
    packages = {package: version(package) for package in ("pillow", "atheris", "msgspec", "protobuf")}
    return {"python": platform.python_version(), **packages}


def _markdown(outcomes: Sequence[Outcome]) -> str:
    names = ("target", "seconds", "executions", "a second", "edges", "features", "corpus", "starts", "findings")
    lines = [
        ", ".join(f"{name} {number}" for name, number in _environment().items()),
        "",
        f"| {' | '.join(names)} |",
        "|---" * len(names) + "|",
    ]
    for each in outcomes:
        rate = each.executions / max(each.seconds, 1e-9)
        cells = (f"{each.seconds:.0f}", f"{each.executions:,}", f"{rate:.0f}", each.coverage, each.features)
        counts = (each.corpus, each.starts, len(each.findings))
        lines.append(f"| {' | '.join(map(str, (each.target, *cells, *counts)))} |")
    for outcome in outcomes:
        lines += [f"\n{outcome.target}: {each.kind}: {each.reason}: {each.file.name}" for each in outcome.findings]
        lines += [f"\n{outcome.target}: did not happen again alone: {each}" for each in outcome.unconfirmed]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_app(app, arguments, extra="build", statuses={FuzzError: FAILED, UnknownTarget: WRONG_CALL})
