"""Runs the engine for a while, as often as it ends, and collects what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import ROOT

from coverage_fuzz import findings, kept, targets
from coverage_fuzz.findings import Finding

# The kernel of a busy machine may starve a process for seconds.
TIMEOUT_S = 25
# A few times what the engine takes with these targets: decoding has 4 MiB in them.
RSS_LIMIT_MB = 512
# libFuzzer checks the time between two inputs, and Python starts in seconds.
_STARTING_S = 120
_STATUS = re.compile(r"^#\d+\s+\w+\s+(?:cov: (\d+) )?ft: (\d+) corp: (\d+)/", re.MULTILINE)
_EXECUTED = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)
_WRITTEN = "Test unit written to"
_ARTEFACTS = ("crash", "timeout", "oom", "leak")
_MOST_ENDS = 50
_TESTS = ROOT / "tests"


class FuzzError(Exception):
    """The engine does not run; the message says why."""


@dataclass
class Outcome:
    """What became of one target.

    Attributes:
        target: Name.
        seconds: Of fuzzing, by the clock on the wall.
        executions: Inputs that were run.
        coverage: Edges of instrumented code; features: also how often each was passed.
        features: See `coverage`.
        corpus: Inputs that libFuzzer keeps since they reached something new.
        starts: Of the engine: more than one, if an input ended it.
        findings: That were confirmed.
        unconfirmed: Reasons of those that did not happen again alone.
    """

    target: str
    seconds: float = 0.0
    executions: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0
    starts: int = 0
    findings: list[Finding] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Budget:
    """How long a target is fuzzed: until one of both is used up.

    Attributes:
        seconds: By the clock on the wall.
        runs: Inputs; None for any number.
    """

    seconds: float
    runs: int | None = None

    def less(self, outcome: Outcome) -> Budget | None:
        """Return what is left of it after a part; None if nothing is."""
        seconds = self.seconds - outcome.seconds
        runs = None if self.runs is None else self.runs - outcome.executions
        return Budget(seconds, runs) if seconds > 0 and (runs is None or runs > 0) else None

    def options(self) -> list[str]:
        """Return libFuzzer's options; to it, 0 seconds are any number."""
        runs = [] if self.runs is None else [f"-runs={self.runs}"]
        return [f"-max_total_time={max(1, round(self.seconds))}", *runs]


def fuzz(target: str, budget: Budget, results: Path, *, seed: int, note: Callable[[str], None]) -> Outcome:
    """Fuzz one target; the corpus and the findings of earlier runs in the same folder are continued.

    Args:
        target: Name.
        budget: How long.
        results: Gets `corpus/TARGET`, `findings/TARGET` and `TARGET.log`.
        seed: Of libFuzzer.
        note: Takes a line of progress.

    Raises:
        FuzzError: The engine does not start.
    """
    corpus, found = results / "corpus" / target, results / "findings" / target
    found.mkdir(parents=True, exist_ok=True)
    log = results / f"{target}.log"
    log.write_bytes(b"")
    # The kept corpus reaches what the seeds do, with fewer inputs.
    needs_seeds = not kept.archive(target).is_file() or not targets.load(target).is_seen
    kept.unpack(target, corpus, targets.load(target).seeds() if needs_seeds else ())
    outcome = Outcome(target)
    with tempfile.TemporaryDirectory(prefix="coverage-fuzz-") as folder:
        words = _write_dictionary(Path(folder) / "words", target)
        while (left := budget.less(outcome)) is not None and outcome.starts < _MOST_ENDS:
            options = (
                *left.options(),
                *([f"-dict={words}"] if words else []),
                f"-seed={seed + outcome.starts}",
                *_limits(target, found),
                "-print_final_stats=1",
                "-reload=0",
                str(corpus),
            )
            begun = time.monotonic()
            ended = _run_engine(target, Path(folder), found, options, log, left.seconds + _STARTING_S)
            outcome.seconds += time.monotonic() - begun
            outcome.starts += 1
            text = log.read_text(encoding="utf-8", errors="replace")
            _read_status(outcome, text)
            # Each start that an input ended names the file of the input.
            if ended and text.count(_WRITTEN) < outcome.starts:
                raise FuzzError(f"the engine of {target} ends with {ended}, see {log}")
            for artefact in _new_artefacts(found):
                _confirm(outcome, artefact, note)
            if not ended:
                break
    outcome.findings = findings.read(found, target)
    return outcome


def merge(target: str, results: Path) -> tuple[int, int]:
    """Keep the fewest and shortest inputs that reach what the corpus of a run and the kept one reach.

    Returns:
        How many inputs, and the bytes of their archive.
    """
    with tempfile.TemporaryDirectory(prefix="coverage-fuzz-") as folder:
        everything, fewest = Path(folder) / "everything", Path(folder) / "fewest"
        files = Path(folder) / "files"
        for each in (fewest, files):
            each.mkdir()
        kept.unpack(target, everything, targets.load(target).seeds())
        options = (
            "-merge=1",
            *_limits(target, Path(folder)),
            str(fewest),
            str(everything),
            *([str(results / "corpus" / target)] if (results / "corpus" / target).is_dir() else []),
        )
        log = Path(folder) / "log"
        ended = _run_engine(target, files, Path(folder), options, log, 3600)
        if ended:
            raise FuzzError(f"the engine of {target} ends with {ended}: {log.read_text(errors='replace')[-2000:]}")
        chosen = [path.read_bytes() for path in sorted(fewest.iterdir())]
    return len(chosen), kept.write(target, chosen)


def replay(target: str, data: Path, *, timeout_s: float = 4 * TIMEOUT_S) -> str | None:
    """Run one input in a process of its own, without the engine; return what is wrong, or None."""
    command = [sys.executable, "-m", "coverage_fuzz.replaying", target, str(data)]
    try:
        done = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end within {timeout_s:.0f} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-300:]


def _limits(target: str, artefacts: Path) -> list[str]:
    """Return libFuzzer's options that bound an input, and where it writes one that is beyond a bound."""
    return [
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-max_len={targets.load(target).max_bytes}",
        f"-artifact_prefix={artefacts}/",
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_TESTS)}


def _run_engine(target: str, files: Path, found: Path, options: Sequence[str], log: Path, limit_s: float) -> int:
    """Run the engine to its end, and return its exit status: 0, or what a finding or a fault ended it with."""
    engine = [sys.executable, "-m", "coverage_fuzz.engine", target, str(files), str(found)]
    # What libFuzzer starts for a merge is its first argument with other options.
    again = files / "engine.sh"
    again.write_text(f'#!/bin/sh\nexec {shlex.join(engine)} "$0" "$@"\n', encoding="utf-8")
    again.chmod(0o755)
    with log.open("ab") as sink:
        try:
            return subprocess.run(
                [*engine, str(again), *options],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                timeout=limit_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise FuzzError(f"the engine of {target} does not end within {limit_s:.0f} s, see {log}") from error


def _write_dictionary(path: Path, target: str) -> Path | None:
    words = targets.load(target).dictionary
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in words)
    path.write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")
    return path if words else None


def _read_status(outcome: Outcome, log: str) -> None:
    """Take libFuzzer's numbers: the executions of all starts, and the rest of the last one."""
    outcome.executions = sum(int(found[1]) for found in _EXECUTED.finditer(log))
    for found in _STATUS.finditer(log):
        outcome.coverage, outcome.features, outcome.corpus = int(found[1] or 0), int(found[2]), int(found[3])


def _new_artefacts(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.name.split("-")[0] in _ARTEFACTS and not path.with_name(f"{path.name}.txt").exists()
        if path.suffix != ".txt"
    ]


def _confirm(outcome: Outcome, artefact: Path, note: Callable[[str], None]) -> None:
    """Replay what ended the engine alone: a machine that stands still looks like a hang."""
    kind = artefact.name.split("-")[0]
    wrong = replay(outcome.target, artefact)
    if wrong is None:
        note(f"{outcome.target}: a {kind} that does not happen again alone")
        outcome.unconfirmed.append(f"{kind}: {artefact.name}")
        artefact.rename(artefact.with_name(f"unconfirmed-{artefact.name}"))
    else:
        findings.write_reason(Finding(outcome.target, kind, wrong, artefact), "The process ended: no traceback.")
