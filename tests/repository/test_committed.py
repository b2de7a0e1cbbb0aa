"""The committed model repository is what the build makes of the default recipe."""

import ast
import subprocess
from pathlib import Path

import pytest
from jpeg_build import configs
from support import ROOT

COMMITTED = ROOT / "model_repository"
RENEW = "rm model_repository/*/config.pbtxt && .venv/bin/jpeg-build mobilenet_v2"


def committed_files():
    listed = subprocess.run(
        ["git", "ls-files", "model_repository"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(Path(line) for line in listed.stdout.splitlines())


def test_a_build_into_an_empty_folder_gives_the_committed_files(tmp_path, built_repository):
    # built_repository began with the committed configs; this one begins with nothing.
    from jpeg_build import build, repository
    from jpeg_build.recipe import RECIPES, load_recipe

    recipe = load_recipe(RECIPES / "mobilenet_v2.toml")
    labels = (built_repository / "postprocess" / "labels.txt").read_text().splitlines()
    target = tmp_path / "model_repository"
    with repository.staging(target) as folder:
        build.stage_repository(build.Request(recipe=recipe, repository=target), folder, labels)
        repository.place(folder, target)
    made = {path.relative_to(tmp_path): path for path in target.rglob("*") if path.is_file() and path.name[0] != "."}
    committed = [path for path in committed_files() if path.name != ".gitkeep"]
    assert sorted(made) == committed
    for path in committed:
        assert made[path].read_text() == (ROOT / path).read_text(), f"{path} is not what the build makes: {RENEW}"


def test_the_demos_labels_are_torchvisions(built_repository):
    from torchvision.models import MobileNet_V2_Weights

    categories = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    for repository in (COMMITTED, built_repository):
        assert (repository / "postprocess" / "labels.txt").read_text().splitlines() == categories


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/config.pbtxt")), ids=lambda path: path.parent.name)
def test_every_config_is_parsed_by_tritons_own_protobuf(path):
    config = configs.parse(path.read_text())
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
    allowed = {"jpeg_backend"} if "backends" in path.parts else {"jpeg_preprocess"}
    assert ours == allowed
    assert len(path.read_text().splitlines()) < 80
