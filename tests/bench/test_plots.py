"""Tables and pictures of results."""

from __future__ import annotations

import json

import numpy as np
import pytest
from jpeg_bench import cli
from jpeg_bench.ratios import spread
from jpeg_bench.report import table
from jpeg_bench.results import read, write
from PIL import Image


def point(images_per_s, p50_ms, failures=0):
    values = {"images_per_s": images_per_s, "p50_ms": p50_ms, "p99_ms": 2 * p50_ms}
    return {**{name: spread([value, value * 1.1]) for name, value in values.items()}, "failures": spread([0, failures])}


@pytest.fixture
def comparison():
    return {
        "measured": "2026-11-23T17:35:35+00:00",
        "machine": {"cores": 2, "cpu": "A CPU", "gpus": []},
        "classifier": "classifier_onnx",
        "decoder": "scaled",
        "photos": {"count": 4, "mean_bytes": 121154},
        "loads": {"many": 32, "batch": 8, "batches": 8, "seconds": 5.0},
        "ratios": {"served_over_ceiling": spread([0.95, 0.97]), "over_best_peer": None},
        "start": spread([2.0, 2.1]),
        "idle": spread([198.1, 198.1]),
        "summary": {
            "ceiling": {"images_per_s": spread([150.0, 152.0]), "p50_ms": spread([9.0])},
            "ours": {"grpc many": point(140, 200), "http one": point(60, 12)},
            "litserve tuned": {"many": point(120, 250, failures=2)},
            "other tuned": {"failure": "does not start\nits log"},
        },
        "rounds": [{}, {}],
    }


@pytest.fixture
def sweep():
    def at(**more):
        return {"protocol": "grpc", "images_per_s": 100.0, "p50_ms": 10.0, "p99_ms": 20.0, **more}

    return {
        "in_flight": [at(protocol=protocol, in_flight=count) for protocol in ("grpc", "http") for count in (1, 2, 4)],
        "batch": [at(images_a_request=count) for count in (1, 8)],
        "image_size": [at(megapixels=size) for size in (0.2, 0.8)],
        "instances": [{"instances": count, "one": at(), "many": at()} for count in (1, 2)],
    }


def test_a_table(comparison):
    lines = table(comparison).splitlines()
    assert "| served over the ceiling, gRPC, 32 in flight | 0.96 (0.95 to 0.97) |" in lines
    assert "| idle server, MiB (PSS of all its processes) | 198 |" in lines
    assert (
        "| ours | grpc, 32 in flight | 147.0 (140.0 to 154.0) | 210.0 (200.0 to 220.0) | 420.0 (400.0 to 440.0) |"
        in lines
    )
    assert any(
        line.startswith("| litserve tuned | http, 32 in flight | 126.0 (120.0 to 132.0) (2 failed)") for line in lines
    )
    assert "| other tuned | | failed: does not start | | |" in lines
    assert not any("best peer" in line for line in lines)


def test_a_result_is_written_and_read(tmp_path, comparison):
    file = tmp_path / "new" / "latest.json"
    write(file, comparison, "text")
    assert read(file) == json.loads(json.dumps(comparison))
    assert file.with_suffix(".md").read_text() == "text"
    assert sorted(path.name for path in file.parent.iterdir()) == ["latest.json", "latest.md"]


@pytest.mark.parametrize("kind", ["comparison", "sweep"])
def test_a_picture(tmp_path, kind, request, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "result.json"
    write(file, request.getfixturevalue(kind))
    assert cli.main(["plot", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": str(tmp_path / "result.png")}
    with Image.open(tmp_path / "result.png") as picture:
        assert picture.width > 500
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "result.png"]
