"""A classifier made of the repository's checked ONNX file, without the framework of the network."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from jpeg_build.errors import NetworkError
from jpeg_build.networks.built_network import BuiltNetwork
from jpeg_build.recipe.recipe import load_recipe
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.report import ArtefactFile, read_report, write_report
from support import SMALL_RECIPE, run, run_module, small_network


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a small recipe, and a repository that holds its ONNX file."""
    folder = tmp_path_factory.mktemp("made")
    small_network(folder)
    (folder / "small.toml").write_text(SMALL_RECIPE)
    done = run_module("jpeg_build", "small.toml", "--model-repository", "models", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def build(folder: Path, *options: str):
    return run_module("jpeg_build", "small.toml", "--model-repository", "models", *options, cwd=folder)


def test_it_is_built_checked_and_verified_from_the_onnx_file(folder):
    done = build(folder, "--backend", "openvino", "--from-onnx")
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "models/classifier_openvino/1/model.json").read_text())
    onnx = json.loads((folder / "models/classifier_onnx/1/model.json").read_text())
    assert report["requested"]["from_onnx"] == onnx["artefact"]["sha256"]
    assert report["weights"] == onnx["weights"]
    assert report["recipe_sha256"] == onnx["recipe_sha256"]
    verified = run_module(
        "jpeg_build", "verify", "openvino", "--recipe", "small.toml", "--model-repository", "models", cwd=folder
    )
    assert verified.returncode == 0, verified.stderr
    assert "taking the network from classifier_onnx" in verified.stderr


def test_it_is_built_again_only_for_another_onnx_file(folder):
    assert build(folder, "--backend", "openvino", "--from-onnx").returncode == 0
    again = build(folder, "--backend", "openvino", "--from-onnx", "--if-needed")
    assert "up to date" in again.stderr
    # The same network from the recipe itself is another build.
    assert "up to date" not in build(folder, "--backend", "openvino", "--if-needed").stderr


def test_the_newest_version_in_fp32_is_taken(folder):
    model = folder / "models/classifier_onnx"
    for number in ("2", "10", "11"):
        shutil.copytree(model / "1", model / number)
    report = model / "11/model.json"
    report.write_text(report.read_text().replace('"precision": "fp32"', '"precision": "int8"', 1))
    network = BuiltNetwork(load_recipe(folder / "small.toml"), folder / "models")
    assert network.artefact == model / "10/model.onnx"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"precision": "fp32"', '"precision": "int8"', "not_fp32"),
        ('"recipe_sha256": "', '"recipe_sha256": "0', "recipe_differs"),
        ('"sha256": "', '"sha256": "0', "artefact_differs"),
    ],
)
def test_another_file_than_the_checked_one_is_refused(folder, old, new, reason):
    report = folder / "models/classifier_onnx/1/model.json"
    text = report.read_text()
    report.write_text(text.replace(old, new, 1))
    with pytest.raises(NetworkError) as caught:
        BuiltNetwork(load_recipe(folder / "small.toml"), folder / "models")
    assert caught.value.reason == reason


def test_a_file_that_is_no_network_is_refused(folder):
    model = folder / "models/classifier_onnx/1/model.onnx"
    model.write_bytes(b"no network")
    report = msgspec.structs.replace(
        read_report(model), artefact=ArtefactFile(file="model.onnx", sha256=artefact_sha256(model))
    )
    write_report(report, model)
    with pytest.raises(NetworkError) as caught:
        BuiltNetwork(load_recipe(folder / "small.toml"), folder / "models")
    assert caught.value.reason == "network_not_loaded"


def test_a_missing_file_is_refused_with_the_command(folder):
    shutil.rmtree(folder / "models/classifier_onnx/1")
    done = build(folder, "--backend", "openvino", "--from-onnx")
    assert done.returncode == 1
    assert done.stderr.endswith("[not_built]\n")
    assert "jpeg-build small.toml --backend onnx --model-repository models" in done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "--from-onnx is for openvino and tensorrt, not for onnx"),
        (("--backend", "torch_tensorrt"), "not for torch_tensorrt"),
        (("--backend", "openvino", "--weights", "none"), "--weights"),
        (("--backend", "openvino", "--checkpoint", "a.pth"), "--checkpoint"),
    ],
)
def test_options_that_do_not_go_with_from_onnx_are_refused(folder, options, expected):
    done = build(folder, *options, "--from-onnx")
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.endswith("[invalid_call]\n")


def test_neither_pytorch_nor_tensorflow_is_imported(folder):
    program = (
        "import sys; sys.modules.update(torch=None, torchvision=None, tensorflow=None)\n"
        "from jpeg_build.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run(
        *(sys.executable, "-c", program, "small.toml", "--model-repository", "models", "--backend", "openvino"),
        "--from-onnx",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
