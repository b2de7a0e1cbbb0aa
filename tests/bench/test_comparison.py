"""Ratios, tables, plots and options of results."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from comparison import cli as comparison_cli
from comparison.ratios import all_ratios, ratio, spread
from comparison.report import markdown_report
from jpeg_bench import cli
from jpeg_bench.errors import BenchError
from jpeg_bench.results import read_result, write_result
from jpeg_bench.summary import summarize_points
from jpeg_bench.sweep import sweep_points
from PIL import Image


def test_ratio_and_spread():
    assert ratio(3, 2) == 1.5
    assert ratio(None, 2) is ratio(3, None) is ratio(3, 0) is None
    found = spread([3.0, None, 1.0, 2.0])
    assert found == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, None, 1.0, 2.0]}
    assert spread([None]) is None


def values(images_per_s, p50_ms=10.0, p99_ms=20.0, failures=0):
    return {"images_per_s": images_per_s, "p50_ms": p50_ms, "p99_ms": p99_ms, "failures": failures}


def round_on(speed, *, failures=0):
    """A round on a machine whose speed differs by a factor."""
    ours = {
        "grpc concurrent": values(95 * speed),
        "http concurrent": values(90 * speed, failures=failures),
        "grpc single": values(50, 12),
    }
    return {
        "ceiling": {"images_per_s": 100 * speed, "p50_ms": 10.0},
        "ours": {"points": ours},
        "own choice": {"points": ours},
        "peers": {
            "slow tuned": {"points": {"concurrent": values(30 * speed, p99_ms=5)}},
            "fast tuned": {"points": {"concurrent": values(60 * speed, p99_ms=40)}},
            "failing tuned": {"points": {"concurrent": values(900 * speed, failures=1)}},
            "fast default": {"points": {"concurrent": values(45 * speed)}},
            "broken default": {"points": {}, "failure": "does not start"},
        },
    }


def test_ratios_are_within_a_round():
    found: Any = all_ratios([round_on(speed) for speed in (1.0, 0.5, 2.0)])
    assert found["served_over_ceiling"] == {"median": 0.95, "min": 0.95, "max": 0.95, "rounds": [0.95] * 3}
    assert found["p50_over_one_process"]["median"] == 1.2
    assert found["over_best_peer"]["median"] == 1.5
    assert found["over_best_peer_grpc"]["median"] == pytest.approx(95 / 60, abs=1e-4)
    # Of the fastest peer, not the lowest of all.
    assert found["p99_over_best_peer"]["median"] == 0.5
    assert found["own_choice_over_best_peer_default"]["median"] == 2
    assert found["served_over_ceiling_batches"] is None


def test_a_load_with_failures_has_no_ratio():
    found: Any = all_ratios([round_on(1.0, failures=1)])
    assert found["over_best_peer"] is None
    assert found["over_best_peer_grpc"]["median"] > 1


def spreads(images_per_s, p50_ms, failures=0):
    found = {"images_per_s": images_per_s, "p50_ms": p50_ms, "p99_ms": 2 * p50_ms}
    return {**{name: spread([each, each * 1.1]) for name, each in found.items()}, "failures": spread([0, failures])}


@pytest.fixture
def comparison():
    return {
        "measured": "2026-11-23T17:35:35+00:00",
        "machine": {"cores": 2, "cpu": "A CPU", "gpus": []},
        "classifier": "classifier_onnx",
        "decoder": "scaled",
        "photos": {"count": 4, "mean_bytes": 121154},
        "loads": {"concurrency": 32, "batch_size": 8, "batch_concurrency": 8, "seconds": 5.0},
        "ratios": {"served_over_ceiling": spread([0.95, 0.97]), "over_best_peer": None},
        "start": spread([2.0, 2.1]),
        "idle": spread([198.1, 198.1]),
        "summary": {
            "ceiling": {"images_per_s": spread([150.0, 152.0]), "p50_ms": spread([9.0])},
            "ours": {"grpc concurrent": spreads(140, 200), "http single": spreads(60, 12)},
            "litserve tuned": {"concurrent": spreads(120, 250, failures=2)},
            "other tuned": {"failure": "does not start\nits log"},
        },
        "rounds": [{}, {}],
    }


@pytest.fixture
def sweep():
    def point(**more):
        return {"protocol": "grpc", "images_per_s": 100.0, "p50_ms": 10.0, "p99_ms": 20.0, **more}

    return {
        "concurrency": [
            point(protocol=protocol, concurrency=count) for protocol in ("grpc", "http") for count in (1, 2, 4)
        ],
        "batch_size": [point(batch_size=count) for count in (1, 8)],
        "image_size": [point(megapixels=size) for size in (0.2, 0.8)],
        "instances": [{"instances": count, "single": point(), "concurrent": point()} for count in (1, 2)],
    }


def test_a_report(comparison):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown_report(comparison).splitlines()]
    first = {row[0]: row[1:] for row in rows if row}
    assert ["0.96 (0.95 to 0.97)"] in [row[1:] for row in rows]
    assert ["198"] in [row[1:] for row in rows]
    loads = [row for row in rows if row and row[0] == "this project"]
    assert loads[0][1:] == [
        "grpc, concurrency 32",
        "147.0 (140.0 to 154.0)",
        "210.0 (200.0 to 220.0)",
        "420.0 (400.0 to 440.0)",
    ]
    assert loads[1][1] == "http, concurrency 1"
    assert first["litserve tuned"][:2] == ["http, concurrency 32", "126.0 (120.0 to 132.0) (2 failures)"]
    assert "does not start" in first["other tuned"][1]
    assert "its log" not in markdown_report(comparison)
    assert not any("best peer" in name for name in first)


def test_a_result_file(tmp_path, comparison):
    file = tmp_path / "new" / "latest.json"
    write_result(file, comparison)
    assert read_result(file, "rounds") == json.loads(json.dumps(comparison))
    assert [path.name for path in file.parent.iterdir()] == ["latest.json"]
    with pytest.raises(BenchError) as raised:
        read_result(file, "concurrency")
    assert raised.value.reason == "invalid_result_file"


def test_the_summary_of_a_sweep_names_each_variant(sweep):
    for point in sweep["image_size"]:
        point["size"] = "100x75"
    points = [
        {"batch_size": 1, "concurrency": 1, "failures": 0, "client_limited": False, **point}
        for point in sweep_points(sweep)
    ]
    lines = summarize_points(points).splitlines()
    assert len(lines) == 1 + 6 + 2 + 2 + 4
    assert sum("100x75" in line for line in lines) == 2
    assert sum("2 instances" in line for line in lines) == 2


@pytest.mark.parametrize(("kind", "main"), [("comparison", comparison_cli.main), ("sweep", cli.main)])
def test_a_plot(tmp_path, kind, main, request):
    pytest.importorskip("matplotlib")
    file = tmp_path / "result.json"
    write_result(file, request.getfixturevalue(kind))
    assert main(["plot", str(file)]) == 0
    with Image.open(tmp_path / "result.png") as picture:
        assert picture.width > 500
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "result.png"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["peers", "--peer", "flask"], "unknown_peer"),
        (["run", "--peer", "litserve,flask"], "unknown_peer"),
        (["run", "--configuration", "fast"], "invalid_call"),
        (["run", "--rounds", "0"], "invalid_call"),
    ],
)
def test_an_invalid_call(arguments, reason, capsys):
    pytest.importorskip("matplotlib")
    assert comparison_cli.main(arguments) == 2
    assert f"[{reason}]" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "peers", "plot"])
def test_the_help_of_each_command(command, capsys):
    assert comparison_cli.main([command, "--help"]) == 0
    assert f"comparison {command}" in capsys.readouterr().out
