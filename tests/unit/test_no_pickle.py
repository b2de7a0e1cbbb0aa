"""Nothing that a server runs unpickles, and `--checkpoint` runs no code that lies in a file."""

from __future__ import annotations

import ast
import os
import pickle
import zipfile
from collections.abc import Iterator

import pytest
import torch
from jpeg_build.cli import main
from jpeg_build.errors import NetworkError
from jpeg_build.networks import torchvision_network
from jpeg_build.networks.checkpoints import read_state_dict
from jpeg_build.networks.torchvision_network import TorchvisionNetwork
from jpeg_build.recipe.recipe import load_recipe
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig
from support import ROOT, classifier_args

SERVING = ["runtime", "preprocess", "postprocess", "contract", "serve", "model_repository", "backends"]
SOURCES = sorted(path for room in SERVING for path in (ROOT / room).rglob("*.py"))

# The builds' own process for a runtime: it and its parent exchange pickles through a pipe.
ISOLATED = ROOT / "runtime" / "jpeg_runtime" / "isolated.py"

UNPICKLING = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "multiprocessing", "pickle", "shelve"}
# Functions that unpickle unless, or if, a keyword has a certain value.
SAFE_ONLY_WITH = {"torch.load": ("weights_only", True)}
UNSAFE = {"np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle", "torch.hub.load"}


def unpickled(source: str) -> Iterator[str]:
    """Find what unpickles in a module, or may."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLING)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            yield str(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module in ("numpy", "torch"):
            yield from (alias.name for alias in node.names if alias.name == "load")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            values = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in UNSAFE or values.get("allow_pickle", "False") != "False":
                yield name
            if name in SAFE_ONLY_WITH:
                keyword, value = SAFE_ONLY_WITH[name]
                if values.get(keyword) != str(value):
                    yield name
            if name.endswith("import_module") and node.args and ast.unparse(node.args[0]).strip("'\"") in UNPICKLING:
                yield name


def test_the_sources_are_found():
    assert len(SOURCES) > 80
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(SERVING)


@pytest.mark.parametrize("path", [path for path in SOURCES if path != ISOLATED], ids=lambda path: str(path.name))
def test_no_process_of_a_server_unpickles(path):
    text = path.read_text()
    assert list(unpickled(text)) == []
    assert "jpeg_runtime.isolated" not in text, "only builds and the bench run it"


@pytest.mark.parametrize("path", sorted((ROOT / "build").rglob("*.py")), ids=lambda path: str(path.name))
def test_builds_load_weights_only(path):
    loads = [name for name in unpickled(path.read_text()) if name not in ("pickle", "multiprocessing")]
    assert loads == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import dill as good",
        "from joblib import load",
        "from multiprocessing.connection import Client",
        "importlib.import_module('shelve')",
        "np.load(path)",
        "from numpy import load",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
    ],
)
def test_the_search_finds(line):
    assert list(unpickled(f"def run():\n    {line}\n"))


@pytest.mark.parametrize("line", ["torch.load(path, weights_only=True)", "torch.jit.load(path)", "np.asarray(values)"])
def test_the_search_accepts(line):
    assert list(unpickled(line)) == []


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


RECIPE = """\
classes = 4
labels = "labels.txt"
[geometry]
resize_size = 256
crop_size = 224
[normalisation]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[source]
kind = "torchvision"
network = "squeezenet1_1"
weights = "IMAGENET1K_V1"
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "mine.toml").write_text(RECIPE)
    return tmp_path / "mine.toml"


def write_pickle(value, path):
    path.write_bytes(pickle.dumps(value))


def write_legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [write_pickle, write_legacy, torch.save])
@pytest.mark.parametrize("around", [lambda bomb: bomb, lambda bomb: {"state_dict": bomb}], ids=["alone", "state dict"])
def test_a_checkpoint_that_runs_code_is_refused(recipe, tmp_path, capsys, write, around):
    write(around(Bomb(tmp_path / "exploded")), tmp_path / "bomb.pt")
    models = tmp_path / "models"
    assert main([str(recipe), "--checkpoint", str(tmp_path / "bomb.pt"), "--model-repository", str(models)]) == 1
    assert capsys.readouterr().err.rstrip().endswith("[invalid_checkpoint]")
    assert not (tmp_path / "exploded").exists()
    data = tmp_path / "bomb.pt"
    pickle.loads(data.read_bytes()) if write is write_pickle else torch.load(data, weights_only=False)
    assert (tmp_path / "exploded").exists(), "it would have run"


def test_weights_in_torchvisions_cache_that_run_code_are_refused(recipe, tmp_path, monkeypatch):
    """torchvision itself lets torch run what is in the file."""
    cached = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir()
    write_legacy(Bomb(tmp_path / "exploded"), cached)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torchvision_network, "_check_digest", lambda *_: None)
    recipe.write_text(RECIPE.replace("classes = 4", "classes = 1000").replace('"labels.txt"', '"weights"'))
    with pytest.raises(NetworkError) as refusal:
        TorchvisionNetwork(load_recipe(recipe))
    assert refusal.value.reason == "invalid_checkpoint"
    assert not (tmp_path / "exploded").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_pickle_in_a_torchscript_file_runs_no_python(tmp_path):
    """Its own reader takes the file: a class outside of TorchScript's is an error."""

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    good, bad = tmp_path / "good.pt", tmp_path / "1" / "model.pt"
    bad.parent.mkdir()
    torch.jit.trace(Network(), torch.zeros(1)).save(str(good))
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            is_data = name.endswith("/data.pkl")
            target.writestr(name, pickle.dumps(Bomb(tmp_path / "exploded"), 2) if is_data else source.read(name))
    with pytest.raises(ModelLoadError) as refusal:
        open_classifier(ServingConfig.from_triton(classifier_args(tmp_path, "pytorch")))
    assert refusal.value.reason == "cannot_be_served"
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def old_pytorch(monkeypatch):
    """Before PyTorch 2.4: nothing lists what a pickle names, and nothing can be added to what is harmless."""
    for name in ("get_unsafe_globals_in_checkpoint", "get_safe_globals", "clear_safe_globals", "safe_globals"):
        monkeypatch.delattr(torch.serialization, name)


@pytest.mark.usefixtures("old_pytorch")
@pytest.mark.parametrize("write", [write_legacy, torch.save])
def test_an_old_pytorch_reads_weights(tmp_path, write):
    write({"state_dict": {"weight": torch.ones(2)}, "epoch": 3}, tmp_path / "weights.pt")
    state, _ = read_state_dict(tmp_path / "weights.pt")
    assert state["weight"].tolist() == [1, 1]


@pytest.mark.usefixtures("old_pytorch")
@pytest.mark.parametrize("write", [write_pickle, write_legacy, torch.save])
def test_an_old_pytorch_refuses_code(tmp_path, write):
    write({"state_dict": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pt")
    with pytest.raises(NetworkError) as refusal:
        read_state_dict(tmp_path / "bomb.pt")
    assert refusal.value.reason == "invalid_checkpoint"
    assert not (tmp_path / "exploded").exists()
