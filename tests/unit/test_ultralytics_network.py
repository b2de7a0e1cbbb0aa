"""Classifiers of Ultralytics: their checkpoints are pickles, of which nothing is run."""

import contextlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from framework_support import check_onnx, check_torchscript, pixels, recipe_of, write_recipe
from jpeg_build.errors import NetworkError
from jpeg_build.networks.load import load_network
from jpeg_build.networks.ultralytics_network import UltralyticsNetwork, draft
from jpeg_contract.forms import ONNX
from support import noise

# In a process of its own: Ultralytics changes functions of PyTorch and of the standard library.
TRAIN = """\
import warnings
warnings.simplefilter("ignore")
from pathlib import Path
from ultralytics import YOLO
model = YOLO("yolov8n-cls.yaml")
options = {"imgsz": 32, "device": "cpu", "workers": 0, "plots": False, "batch": 8}
model.train(data="data", epochs=1, project=str(Path("runs").resolve()), **options)
best = YOLO(str(model.trainer.best))
best.export(format="onnx", dynamic=True, imgsz=32, simplify=False)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a checkpoint and its ONNX export."""
    folder = tmp_path_factory.mktemp("ultralytics")
    for split in ("train", "val"):
        for label in ("cat", "dog", "eel"):
            (folder / "data" / split / label).mkdir(parents=True)
            for number in range(4):
                noise(32, 32, number).save(folder / "data" / split / label / f"{number}.jpg")
    config = folder / "config"
    config.mkdir()
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(config), "YOLO_OFFLINE": "true", "HOME": str(folder)}
    del environment["PYTEST_CURRENT_TEST"]  # Ultralytics would write into its own package.
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    found = next(iter(folder.rglob("best.pt")), None)
    assert found is not None, done.stderr[-2000:]
    return found.parent


@pytest.fixture
def file(trained, tmp_path):
    (tmp_path / "best.pt").write_bytes((trained / "best.pt").read_bytes())
    return tmp_path / "best.pt"


def refused(call, reason, *facts):
    with pytest.raises(NetworkError) as caught:
        call()
    assert caught.value.reason == reason, str(caught.value)
    for fact in facts:
        assert fact in str(caught.value)


def test_a_checkpoint_computes_what_its_export_computes(trained, file, tmp_path):
    made = draft(file)
    assert made.source == {"kind": "ultralytics", "file": str(file)}
    assert (made.name, made.classes, made.labels) == ("best", 3, "weights")
    assert made.geometry == {"resize_size": 32, "crop_size": 32, "interpolation": "bilinear"}
    assert made.normalisation == {"scale": "0..1"}
    assert "AGPL" in made.notes[0]
    recipe = recipe_of(made, tmp_path)
    home, load = os.environ.get("YOLO_CONFIG_DIR"), torch.load
    network = load_network(recipe, ONNX, progress=lambda message: None)
    assert isinstance(network, UltralyticsNetwork)
    assert (os.environ.get("YOLO_CONFIG_DIR"), torch.load) == (home, load)
    assert network.labels == ["cat", "dog", "eel"]
    images = pixels(recipe)
    session = ort.InferenceSession(str(trained / "best.onnx"))
    (wanted,) = session.run(None, {"images": (images / 255).astype(np.float32).transpose(0, 3, 1, 2)})
    logits = network.reference(images)
    scores = np.exp(logits - logits.max(1, keepdims=True))
    # The checkpoint is in float16.
    assert np.abs(scores / scores.sum(1, keepdims=True) - wanted).max() < 1e-2
    check_onnx(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path)


def test_another_normalisation_than_the_checkpoints_is_refused(file, tmp_path):
    recipe = recipe_of(draft(file), tmp_path, normalisation={"scale": "-1..1"})
    refused(lambda: UltralyticsNetwork(recipe), "differs_from_weights", "[normalisation] mean", "best.pt")


def test_another_geometry_than_the_checkpoints_is_refused_but_for_its_size(file, tmp_path):
    made = draft(file)

    def network(**geometry):
        source = {**made.source, "differs_from_weights": True} if geometry.pop("accepted", False) else made.source
        changed = {**(made.geometry or {}), **geometry}
        return UltralyticsNetwork(recipe_of(replace(made, source=source), tmp_path, geometry=changed))

    assert network(crop_size=64, resize_size=64).labels == ["cat", "dog", "eel"]
    assert network(crop_size=[64, 32], resize_size=[64, 32]).labels == ["cat", "dog", "eel"]
    for wrong in ({"resize_size": 40}, {"interpolation": "bicubic"}, {"antialias": False}):
        refused(lambda wrong=wrong: network(**wrong), "differs_from_weights", *wrong, "differs_from_weights = true")
        network(**wrong, accepted=True)


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


class Build:
    """Calls a constructor of Ultralytics, which evaluates text in its argument."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        from ultralytics.nn.tasks import ClassificationModel

        config = {
            "nc": 3,
            "activation": f"__import__('os').mkdir({str(self.folder)!r})",
            "backbone": [[-1, 1, "Conv", [16, 3, 2]]],
            "head": [[-1, 1, "Classify", ["nc"]]],
        }
        return ClassificationModel, (config,)


@pytest.mark.parametrize("around", [lambda bomb: bomb, lambda bomb: {"model": bomb}], ids=["alone", "as the model"])
@pytest.mark.parametrize("bomb", [Bomb, Build])
def test_a_checkpoint_that_runs_code_is_refused(file, tmp_path, bomb, around):
    UltralyticsNetwork(recipe_of(draft(file), tmp_path))  # imports Ultralytics, in silence
    torch.save(around(bomb(tmp_path / "exploded")), tmp_path / "best.pt")
    source = {"kind": "ultralytics", "file": "best.pt"}
    recipe = write_recipe(tmp_path, source, classes=3, normalisation={"scale": "0..1"})
    refused(lambda: UltralyticsNetwork(recipe), "invalid_checkpoint", "best.pt")
    assert not (tmp_path / "exploded").exists()
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "best.pt", weights_only=False)
    assert (tmp_path / "exploded").exists(), "it would have run"


def test_other_checkpoints_are_named(tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "best.pt")
    refused(lambda: draft(tmp_path / "best.pt"), "invalid_checkpoint", 'kind = "torchvision"')
    refused(lambda: draft(tmp_path / "gone.pt"), "checkpoint_not_found")
