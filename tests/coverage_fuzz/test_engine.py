"""A short run of the engine on each target, and what it sees of faults on purpose."""

from __future__ import annotations

import importlib.util
import json
import os
import sys

import pytest
from debian_tools import REQUIRED
from support import ROOT, run_module

from coverage_fuzz import campaign, findings, targets
from coverage_fuzz.campaign import Budget

SECONDS = 3.0
# By far fewer than a second brings, also on a busy machine.
LEAST_EXECUTIONS = {"decode": 40, "formats": 40, "header": 100, "recipe": 100, "config": 100, "report": 100}


@pytest.fixture(autouse=True)
def engine():
    if importlib.util.find_spec("atheris") is not None:
        return
    reason = "needs atheris, which has wheels for Python 3.11"
    if os.environ.get(REQUIRED) == "1" and sys.version_info[:2] == (3, 11):
        pytest.fail(f"{reason}, and {REQUIRED} is 1")
    pytest.skip(reason)


@pytest.mark.parametrize("name", targets.NAMES)
def test_a_short_run_finds_nothing(name, tmp_path):
    notes: list[str] = []
    outcome = campaign.fuzz(name, Budget(SECONDS), tmp_path, seed=1, note=notes.append)
    assert [each.reason for each in outcome.findings] == []
    assert outcome.executions > LEAST_EXECUTIONS[name]
    assert outcome.features >= outcome.coverage > 20
    assert outcome.starts == 1, notes


def test_the_memory_of_the_tests_counts_for_nothing(tmp_path):
    ballast = b"1" * (campaign.RSS_LIMIT_MB * 2**20)
    notes: list[str] = []
    outcome = campaign.fuzz("header", Budget(SECONDS, 500), tmp_path, seed=1, note=notes.append)
    assert len(ballast) and outcome.starts == 1, notes


def test_faults_on_purpose_are_found_confirmed_and_written_with_a_replay(tmp_path):
    done = run_module(
        "coverage_fuzz",
        *("--target", "planted", "--minutes", "0.05", "--runs", "3000", "--results", tmp_path, "--json"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    assert done.returncode == 1, done.stderr
    (target,) = json.loads(done.stdout)["targets"]
    assert {each["kind"] for each in target["findings"]} == {"exception", "crash"}
    assert target["starts"] > 1
    for finding in findings.read(tmp_path / "findings" / "planted", "planted"):
        wrong = campaign.replay("planted", finding.file)
        assert wrong is not None
        assert "KeyError" in wrong if finding.kind == "exception" else "signal 6" in wrong


def test_a_hang_is_seen_alone(tmp_path):
    (tmp_path / "hang").write_bytes(b"SLEEP")
    wrong = campaign.replay("planted", tmp_path / "hang", timeout_s=3)
    assert wrong is not None
    assert "3 s" in wrong
