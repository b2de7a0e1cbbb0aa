"""`jpeg-bench tune` on real servers."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from jpeg_bench import cli, tune_settings
from jpeg_bench.photos import read_photos
from jpeg_bench.tune_search import CandidateFailed
from jpeg_bench.tune_servers import LoadPart, Objective, Servers
from jpeg_bench.tune_settings import read_tunable
from jpeg_contract.model_config import parse
from support import copy_committed_repository, started

COPIES = ".jpeg-bench-*"


@pytest.fixture
def repository(small_repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_repository, tmp_path / "model_repository")
    return tmp_path / "model_repository"


def texts(repository: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in repository.glob("*/config.pbtxt")}


def leftovers() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(COPIES))


def test_the_command(repository, capsys):
    before, here = texts(repository), leftovers()
    begun = time.monotonic()
    options = ["--budget-s", "30", "--trial-s", "0.3", "--concurrency", "8", "--photo-size", "64x64"]
    assert cli.main(["tune", "--model-repository", str(repository), *options, "--write", "--json"]) == 0
    # The imports and the photos are not part of the budget.
    assert time.monotonic() - begun < 33
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["before"]["images_per_s"] > 0
    assert result["tried"]
    assert all(each["verdict"] != "failed" for each in result["tried"]), result["tried"]
    assert result["within_limits"]
    assert "the settings as they are" in output.err
    after = texts(repository)
    assert {model for model in after if after[model] != before[model]} == set(result["configs"])
    assert len(result["written"]) == len(result["configs"])
    for model in after:
        assert [line for line in after[model].splitlines() if "#" in line] == [
            line for line in before[model].splitlines() if "#" in line
        ]
    count = parse(after["preprocess"]).instance_group[0].count
    assert count == result["choice"]["settings"]["preprocess.count"]
    assert leftovers() == here


def test_a_repository_that_cannot_be_served(tmp_path, capsys):
    copy_committed_repository(tmp_path / "model_repository")
    assert cli.main(["tune", "--model-repository", str(tmp_path / "model_repository")]) == 1
    error = capsys.readouterr().err
    assert "classifier_onnx" in error
    assert "[candidate_failed]" not in error


def test_a_budget_that_is_too_short_is_refused(capsys):
    assert cli.main(["tune", "--budget-s", "5"]) == 2
    assert "at least 10" in capsys.readouterr().err


def test_ctrl_c_ends_the_servers_and_writes_nothing(repository):
    before, here = texts(repository), leftovers()
    command = [sys.executable, "-m", "jpeg_bench", "tune", "--model-repository", repository, "--write"]
    with started(*command, "--photo-size", "64x64", stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # The second line comes while the first server runs.
        lines = [process.stderr.readline() for _ in range(2)]
        children = psutil.Process(process.pid).children(recursive=True)
        assert any(child.name() == "tritonserver" for child in children), lines
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 1
        assert "[interrupted]" in process.stderr.read()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert texts(repository) == before
    assert leftovers() == here


def test_a_candidate_that_does_not_start_is_reported(repository, monkeypatch):
    monkeypatch.setattr(tune_settings, "_decoders", lambda *_, **__: ("scaled", "gpu"))
    tunable = read_tunable(repository, "jpeg_classifier", 2)
    start = tunable.start
    fails = tunable.space.moved(start, {"preprocess.decoder": 1})
    works = tunable.space.moved(start, {"preprocess.threads": -1})
    assert fails is not None
    assert works is not None
    objective = Objective("throughput", (LoadPart("http", 1, 4),))
    with Servers(tunable, objective, read_photos(size=(64, 64)).data, 0.2, 1, lambda: 60.0) as servers:
        servers.measure_first(start)
        assert servers.side_by_side
        with pytest.raises(CandidateFailed, match=r"gpu|GPU"):
            servers.compare(start, fails)
        assert servers.compare(start, works) > 0
        # Without memory for two, each is started for its turn.
        servers.side_by_side = False
        assert servers.compare(start, works) > 0
        # A pair that other programs disturb is measured again.
        again = servers.disturbed
        assert 3 <= len(servers.trials[start]) <= 3 + again
        assert 2 <= len(servers.trials[works]) <= 2 + again
