"""The lane for large requests, shared by processes."""

import json
import subprocess
import sys

import pytest
from jpeg_runtime.large_lane import LargeLane, count_workers


@pytest.mark.parametrize("workers", [2, 3])
def test_all_workers_but_one_are_in_the_lane(tmp_path, workers):
    lanes = [LargeLane(tmp_path, "preprocess", workers) for _ in range(workers)]
    assert [lane.enter() for lane in lanes] == [True] * (workers - 1) + [False]
    lanes[0].leave()
    assert lanes[-1].enter()
    assert not lanes[0].enter()
    for lane in lanes:
        lane.close()


def test_a_worker_that_ends_gives_its_place_back(tmp_path):
    script = "import sys; from pathlib import Path; from jpeg_runtime.large_lane import LargeLane; "
    script += "print(LargeLane(Path(sys.argv[1]), 'preprocess', 2).enter(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        lane = LargeLane(tmp_path, "preprocess", 2)
        assert not lane.enter()
        other.kill()
        other.wait()
    assert lane.enter()
    lane.close()


def test_a_single_worker_and_one_without_a_run_folder_take_everything(tmp_path):
    for lane in (LargeLane(tmp_path, "preprocess", 1), LargeLane(None, "preprocess", 3)):
        assert lane.enter()
        assert lane.enter()
        lane.leave()
        lane.close()


@pytest.mark.parametrize(
    ("groups", "workers"),
    [
        ([{"count": 1}], 1),
        ([{"count": 3}], 3),
        ([{"count": 2, "gpus": [0, 1]}], 4),
        ([{"count": 1}, {"count": 2}], 3),
        ([], 1),
    ],
)
def test_workers_are_counted_as_triton_starts_them(groups, workers):
    assert count_workers(json.dumps({"instance_group": groups})) == workers
