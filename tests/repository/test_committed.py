"""The committed model repository is the one that the build makes of the default recipe."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from jpeg_contract import model_config
from support import ROOT, run

COMMITTED = ROOT / "model_repository"


def committed_files():
    listed = subprocess.run(
        ["git", "ls-files", "model_repository"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(Path(line) for line in listed.stdout.splitlines())


def test_builds_into_an_empty_folder_make_the_committed_files(tmp_path):
    target = tmp_path / "model_repository"
    done = run(sys.executable, ROOT / "scripts" / "renew_configs.py", target)
    assert done.returncode == 0, done.stderr
    made = {path.relative_to(tmp_path): path for path in target.rglob("*") if path.is_file() and path.name[0] != "."}
    committed = [path for path in committed_files() if path.name != ".gitkeep"]
    assert sorted(made) == committed
    for path in committed:
        assert made[path].read_text() == (ROOT / path).read_text(), f"{path} differs from the build: make configs"


def test_a_real_build_changes_no_committed_file(built_repository):
    for path in committed_files():
        assert (built_repository.parent / path).read_text() == (ROOT / path).read_text(), path


def test_the_demos_labels_are_torchvisions(built_repository):
    from torchvision.models import MobileNet_V2_Weights

    categories = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    for file in (*COMMITTED.glob("*/labels.txt"), *built_repository.glob("*/labels.txt")):
        assert file.read_text().splitlines() == categories, file
    assert len(list(COMMITTED.glob("*/labels.txt"))) == 6


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/config.pbtxt")), ids=lambda path: path.parent.name)
def test_every_config_is_parsed_by_tritons_own_protobuf(path):
    config = model_config.parse(path.read_text())
    assert config.name == path.parent.name
    assert config.max_batch_size == 64


MODELS = [*COMMITTED.glob("*/1/model.py"), *(ROOT / "backends").glob("*/model.py")]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(ROOT)))
def test_models_are_thin_and_know_only_the_rooms_that_the_design_lets_them_know(path):
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    ours = {name for name in names if name.startswith("jpeg_")}
    rooms = {"jpeg_contract", "jpeg_runtime"}
    if "backends" not in path.parts:
        rooms.add(f"jpeg_{path.parts[-3]}")
    assert ours <= rooms
    assert len(path.read_text().splitlines()) < 125
