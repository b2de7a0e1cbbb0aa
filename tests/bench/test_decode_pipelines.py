"""bench/decode_pipelines.py: its ways make the same pixels, and are measured."""

import json
import subprocess
import sys

import pytest
from support import ROOT

WAYS = ("full", "pillow", "torchvision-cpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    results = tmp_path_factory.mktemp("decode_pipelines") / "results.json"
    command = [sys.executable, str(ROOT / "bench" / "decode_pipelines.py"), "--results", str(results)]
    short = ["--seconds", "0.2", "--rounds", "2", "--instances", "1,2", "--batch-size", "4"]
    ended = subprocess.run(
        [*command, "--ways", ",".join(WAYS), *short], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return {each["way"]: each for each in json.loads(results.read_text())["found"]}


def test_every_way_is_measured(found):
    assert tuple(found) == WAYS
    for each in found.values():
        assert 0 < each["least"] <= each["images_per_s"] <= each["most"]
        assert each["instances"] in (1, 2)


def test_all_make_the_same_pixels_within_a_count(found):
    assert found["full"]["most_counts"] == 0
    assert max(each["most_counts"] for each in found.values()) <= 1


def test_a_way_without_its_package_says_which(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "decode_pipelines.py"), "--results", str(tmp_path / "results.json")]
    ended = subprocess.run([*command, "--ways", "dali-cpu"], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1
    assert "pip install nvidia-dali-cuda120" in ended.stderr
    assert "[package_missing]" in ended.stderr
    assert not (tmp_path / "results.json").exists()
