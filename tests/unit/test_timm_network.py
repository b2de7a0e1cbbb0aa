"""Networks of timm: its own geometry, checkpoints as training scripts write them, labels, and errors offline."""

import argparse
import datetime
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from framework_support import (
    check_onnx,
    check_torchscript,
    efficientnet_lite0,
    emit_torchscript,
    pixels,
    recipe_of,
    right_of_twenty,
    write_recipe,
)
from jpeg_build.errors import BuildError, NetworkError
from jpeg_build.networks import timm_network
from jpeg_build.networks.load import load_network
from jpeg_build.networks.preparation import Preparation
from jpeg_build.networks.timm_network import TimmNetwork, draft, preparation
from jpeg_contract.forms import ONNX
from safetensors.torch import save_file

SMALL = {"kind": "timm", "network": "test_resnet"}


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(3)
    return timm.create_model("test_resnet", num_classes=4).eval()


@pytest.fixture
def checkpoint(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def refused(recipe, reason, *facts, **options):
    with pytest.raises(NetworkError) as caught:
        TimmNetwork(recipe, **options)
    assert caught.value.reason == reason, str(caught.value)
    for fact in facts:
        assert fact in str(caught.value)


def test_a_fine_tuned_checkpoint_is_exported(trained, checkpoint, tmp_path):
    recipe = write_recipe(tmp_path, {**SMALL, "checkpoint": "mine.pth"})
    network = load_network(recipe, ONNX, progress=lambda message: None)
    assert isinstance(network, TimmNetwork)
    images = pixels(recipe)
    with torch.inference_mode():
        wanted = trained(torch.from_numpy((images / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy()))
    assert np.abs(network.reference(images) - wanted.numpy()).max() < 1e-4
    assert network.weights.source == "state dict mine.pth"
    assert network.labels[3] == "class 3"
    check_onnx(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path)


def test_a_transformer_in_another_size_and_in_both_precisions(tmp_path):
    """Its position embeddings are those of the recipe's size."""
    recipe = write_recipe(tmp_path, {"kind": "timm", "network": "test_vit"})
    network = TimmNetwork(recipe, random=True)
    assert network.weights.sha256 is None
    check_onnx(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path, "fp16")
    # The copy that was made float16 is not the network that later builds are compared with.
    assert next(network.network.parameters()).dtype == torch.float32


class Member:
    """Pickled as Python 3.11.2 pickles the members of an enumeration."""

    def __reduce__(self):
        return getattr, (datetime.timezone, "utc")


@pytest.mark.parametrize(
    ("around", "name"),
    [
        (lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1), "epoch": 3, "best": np.float64(0.5)}, "m.pth"),
        (lambda s: {"state_dict": s, "zone": Member()}, "m.pth"),
        (lambda s: {"state_dict": {k: v * 0 for k, v in s.items()}, "state_dict_ema": s}, "m.pth, state_dict_ema"),
        (lambda s: {"model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}}}, None),
        (lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()}, "m.pth"),
        (lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}}, "m.pth"),
        (lambda s: {"state_dict": {"loss.weight": torch.ones(4), **{f"net.{k}": v for k, v in s.items()}}}, None),
    ],
    ids=["timm", "an enumeration", "timm ema", "torchvision ema", "compiled", "lightning", "lightning with a loss"],
)
def test_checkpoints_as_training_scripts_write_them(trained, checkpoint, tmp_path, around, name):
    recipe = write_recipe(tmp_path, {**SMALL, "checkpoint": "mine.pth"})
    torch.save(around(trained.state_dict()), tmp_path / "m.pth")
    if name is None and "state_dict" in around(trained.state_dict()):
        refused(recipe, "checkpoint_differs", "m.pth", checkpoint=tmp_path / "m.pth")
        return
    network = TimmNetwork(recipe, checkpoint=tmp_path / "m.pth")
    assert name is None or network.weights.source == f"checkpoint {name}"
    images = pixels(recipe)
    assert np.array_equal(network.reference(images), TimmNetwork(recipe).reference(images))


def test_safetensors_are_told_by_their_content(trained, tmp_path):
    save_file(trained.state_dict(), tmp_path / "mine.bin")
    recipe = write_recipe(tmp_path, {**SMALL, "checkpoint": "mine.bin"})
    assert TimmNetwork(recipe).weights.source == "state dict mine.bin"
    data = (tmp_path / "mine.bin").read_bytes()
    (tmp_path / "mine.bin").write_bytes(data[:5000])
    refused(write_recipe(tmp_path, {**SMALL, "checkpoint": "mine.bin"}), "invalid_checkpoint", "mine.bin")


def test_a_checkpoint_of_another_number_of_classes_names_both(checkpoint, tmp_path):
    recipe = write_recipe(tmp_path, {**SMALL, "checkpoint": "mine.pth"}, classes=5)
    refused(recipe, "classes_differ", "mine.toml:1: classes: is 5", "set classes = 4")


def test_a_gray_recipe_makes_a_network_of_one_channel(tmp_path):
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=4, in_chans=1).state_dict(), tmp_path / "gray.pth")
    gray = {"mean": 0.5, "std": 0.5, "color": "GRAY"}
    recipe = write_recipe(tmp_path, {**SMALL, "checkpoint": "gray.pth"}, normalisation=gray)
    check_onnx(TimmNetwork(recipe), recipe, tmp_path)


def test_names_that_timm_does_not_have(tmp_path):
    refused(write_recipe(tmp_path, {**SMALL, "network": "test_resnett"}), "unknown_network", "did you mean test_resnet")
    refused(write_recipe(tmp_path, {**SMALL, "network": "test_resnet.x"}), "unknown_network")
    refused(write_recipe(tmp_path, {**SMALL, "network": "local-dir:/etc"}), "unknown_network", "hugging_face")


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere")


IMAGENET: dict[str, Any] = {"classes": 1000, "labels": "weights"}


def test_without_a_network_the_error_names_the_ways_out(offline, tmp_path):
    recipe = recipe_of(draft("test_resnet.r160_in1k", None), tmp_path)
    refused(recipe, "weights_not_downloaded", "--checkpoint FILE", "--weights none", "HF_HOME")
    refused(write_recipe(tmp_path, {**SMALL, "network": "hf-hub:a/b"}), "weights_not_downloaded")


@pytest.mark.parametrize(
    ("table", "change", "facts"),
    [
        ("geometry", {"resize_size": 160}, ["[geometry] resize_size", "is 160, the weights have 168"]),
        ("geometry", {"interpolation": "bicubic"}, ['is "bicubic", the weights have "bilinear"']),
        ("normalisation", {"mean": [0.485, 0.456, 0.406]}, ["[normalisation] mean"]),
    ],
)
def test_a_recipe_that_differs_from_timms_configuration_is_refused(offline, tmp_path, table, change, facts):
    made = draft("test_resnet.r160_in1k", None)
    changed: dict[str, Any] = {table: {**getattr(made, table), **change}}
    refused(recipe_of(made, tmp_path, **changed), "differs_from_weights", "differs_from_weights = true", *facts)
    insisting = write_recipe(
        tmp_path,
        {**made.source, "differs_from_weights": True},
        **{**IMAGENET, "geometry": made.geometry, "normalisation": made.normalisation, **changed},
    )
    refused(insisting, "weights_not_downloaded")
    # Random weights, and those of the user, belong to no configuration.
    assert TimmNetwork(insisting, random=True).labels[1].startswith("goldfish")


def test_other_classes_than_those_of_timms_weights_would_be_random(tmp_path):
    refused(write_recipe(tmp_path, SMALL), "classes_differ", "[source] checkpoint", "set classes = 1000")


def test_labels_of_timms_own_weights_only(tmp_path, checkpoint):
    recipe = write_recipe(tmp_path, {**SMALL, "checkpoint": "mine.pth"}, labels="weights")
    refused(recipe, "classes_differ", "1000 labels")
    clip = {"kind": "timm", "network": "vit_base_patch16_clip_224.openai"}
    refused(write_recipe(tmp_path, clip, labels="weights"), "no_labels", "mine.toml:2: labels")


def test_timms_ways_to_crop():
    base = {"input_size": (3, 224, 200), "crop_pct": 0.9, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert preparation({**base, "input_size": (3, 224, 224), "crop_mode": "center"}) == Preparation(
        248, (224, 224), (0.5,) * 3, (0.25,) * 3, "bicubic"
    )
    squashed = preparation({**base, "crop_mode": "squash", "interpolation": "bilinear"})
    assert (squashed.resize_size, squashed.crop_size, squashed.interpolation) == ((248, 222), (224, 200), "bilinear")
    border = preparation({**base, "input_size": (3, 224, 224), "crop_mode": "border", "crop_pct": 1.0})
    assert (border.resize_size, border.resize_side, border.fill) == (224, "longer", (128, 128, 128))
    assert border.geometry.fill == (128, 128, 128)
    wide = preparation({**base, "crop_mode": "border", "crop_pct": 1.0})
    assert (wide.resize_size, wide.crop_size, wide.resize_side) == ((224, 200), (224, 200), "longer")


def test_drafts(checkpoint, tmp_path):
    made = draft("test_vit.r160_in1k", None)
    assert made.source == {"kind": "timm", "network": "test_vit.r160_in1k"}
    assert (made.name, made.classes, made.labels) == ("test_vit_r160_in1k", 1000, "weights")
    assert made.geometry == {"resize_size": 168, "crop_size": 160, "interpolation": "bicubic"}
    assert made.normalisation == {"mean": [0.5] * 3, "std": [0.5] * 3}
    own = draft("test_resnet", checkpoint)
    assert own.source["checkpoint"] == str(checkpoint)
    assert (own.name, own.classes, own.labels) == ("mine", 4, None)
    assert len(own.notes) == 1


def test_real_weights_classify_photos(tmp_path):
    torch.save(efficientnet_lite0().state_dict(), tmp_path / "lite0.pth")
    made = draft("tf_efficientnet_lite0", tmp_path / "lite0.pth")
    assert made.labels == "weights"
    recipe = recipe_of(made, tmp_path)
    network = TimmNetwork(recipe)
    assert right_of_twenty(network, recipe) >= 17
    assert network.labels[285].startswith("Egyptian cat")
    check_onnx(network, recipe, tmp_path)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jpeg_build.networks.timm_network", None)
    monkeypatch.delattr("jpeg_build.networks.timm_network", raising=False)
    error = ModuleNotFoundError("no timm", name="timm")

    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr("jpeg_build.networks.load._load", fail)
    with pytest.raises(BuildError, match=r"\[timm\]") as caught:
        load_network(write_recipe(tmp_path, SMALL), ONNX, progress=lambda message: None)
    assert caught.value.reason == "package_missing"


def test_a_network_that_cannot_be_traced_is_an_error_of_the_build(checkpoint, tmp_path):
    class Fails(torch.nn.Module):
        def forward(self, images):
            raise RuntimeError("no half")

    recipe = write_recipe(tmp_path, {**SMALL, "checkpoint": "mine.pth"})
    network = TimmNetwork(recipe)
    network._network = Fails()
    with pytest.raises(BuildError, match=r"no half.*--backend onnx") as caught:
        emit_torchscript(network, recipe, tmp_path)
    assert caught.value.reason == "not_traced"


def test_the_seed_is_fixed(tmp_path):
    recipe = write_recipe(tmp_path, SMALL)
    first, second = (TimmNetwork(recipe, random=True) for _ in range(2))
    assert np.array_equal(first.reference(pixels(recipe)), second.reference(pixels(recipe)))
    assert first.weights.source == f"random, seed {timm_network.SEED}"
