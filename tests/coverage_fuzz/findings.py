"""Inputs that broke a rule, each as a file with the reason beside it."""

from __future__ import annotations

import hashlib
import re
import traceback
from dataclasses import dataclass
from pathlib import Path

_FRAMES_OF_A_SIGNATURE = 3


@dataclass(frozen=True)
class Finding:
    """One kind of failure of a target.

    Attributes:
        target: Name.
        kind: "exception", or what libFuzzer calls it: "crash", "timeout", "oom".
        reason: One line.
        file: The input.
    """

    target: str
    kind: str
    reason: str
    file: Path


class Recorder:
    """Writes the shortest input for each kind of exception that a target raises.

    Args:
        folder: Of the findings of one target.
        target: Its name.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._folder, self._target = folder, target
        self._shortest: dict[str, int] = {}

    def record(self, data: bytes, error: Exception) -> None:
        """Write an input with what it raised, unless a shorter one raises the same."""
        signature = signature_of(error)
        if len(data) >= self._shortest.get(signature, len(data) + 1):
            return
        self._shortest[signature] = len(data)
        file = self._folder / f"exception-{signature}"
        file.write_bytes(data)
        write_reason(Finding(self._target, "exception", reason_of(error), file), traceback_of(error))


def reason_of(error: BaseException) -> str:
    """Describe an exception in one line."""
    cause = f", from {type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}".replace("\n", " ")[:300]


def traceback_of(error: BaseException) -> str:
    """Return the traceback; of a deep recursion, its ends."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(lines if len(lines) < 60 else [*lines[:30], "...", *lines[-30:]])


def signature_of(error: BaseException) -> str:
    """Return the same digits for exceptions of one type from one place."""
    innermost = error.__cause__ or error
    frames = list(traceback.extract_tb(innermost.__traceback__))
    # A recursion is too deep somewhere.
    frames = [] if isinstance(innermost, RecursionError) else frames[-_FRAMES_OF_A_SIGNATURE:]
    places = [f"{Path(each.filename).name}:{each.name}" for each in frames]
    words = re.sub(r"\d+", "N", str(error).split(":")[0]) if isinstance(error, AssertionError) else ""
    return hashlib.sha256("|".join([type(innermost).__name__, words, *places]).encode()).hexdigest()[:10]


def write_reason(finding: Finding, details: str) -> None:
    """Write why an input is a finding, and how to see it again."""
    text = (
        f"{finding.target}: {finding.kind}: {finding.reason}\n\n"
        f"Replay: PYTHONPATH=tests python -m coverage_fuzz replay {finding.target} {finding.file.name}\n\n{details}\n"
    )
    finding.file.with_name(f"{finding.file.name}.txt").write_text(text, encoding="utf-8")


def read(folder: Path, target: str) -> list[Finding]:
    """Read the findings of a target from their files."""
    found = []
    for path in sorted(folder.glob("*.txt")):
        _, kind, reason = path.read_text(encoding="utf-8").splitlines()[0].split(": ", 2)
        found.append(Finding(target, kind, reason, path.with_suffix("")))
    return found
