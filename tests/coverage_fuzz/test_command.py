"""The command, where it needs no engine."""

from __future__ import annotations

import pytest

from coverage_fuzz import kept
from coverage_fuzz.cli import main


def test_a_replay_says_which_input_breaks_a_rule(tmp_path, capsys):
    (tmp_path / "good").write_bytes(kept.regressions("report")["nested-too-deep"])
    (tmp_path / "bad").write_bytes(b"RAISE")
    assert main(["replay", "report", str(tmp_path / "good")]) == 0
    assert main(["replay", "planted", str(tmp_path / "good"), str(tmp_path / "bad")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("good: ")
    assert lines[2].startswith("bad: KeyError")


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["--target", "nothing"], 2, "unknown_target"),
        (["replay", "nothing", "file"], 2, "unknown_target"),
        (["--minutes", "0"], 2, "invalid_call"),
        (["replay", "report", "no-such-file"], 1, "no-such-file"),
    ],
)
def test_a_wrong_call_is_refused_with_its_reason(arguments, status, reason, capsys):
    assert main(arguments) == status
    assert reason in capsys.readouterr().err
