"""Networks of torchvision: exports, checkpoints, and the comparison of a recipe with the transforms of the weights."""

import dataclasses
import urllib.request
from urllib.error import URLError

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torchvision
from jpeg_build.errors import NetworkError
from jpeg_build.networks.torchvision_network import TorchvisionNetwork, draft
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from jpeg_build.recipe.sources import TorchvisionSource
from support import MEAN, STD

RECIPE = """\
classes = {classes}
labels = "{labels}"
[geometry]
resize_size = {resize_size}
crop_size = {crop_size}
interpolation = "{interpolation}"
antialias = {antialias}
[normalisation]
mean = {mean}
std = [0.229, 0.224, 0.225]
color = "{color}"
[source]
kind = "torchvision"
network = "{network}"
weights = "{weights}"
{more}
"""

# As the weights of SqueezeNet have it. Line 4 is resize_size.
RIGHT = {"resize_size": 256, "crop_size": 224, "interpolation": "bilinear", "antialias": "true"}


@pytest.fixture
def recipe(tmp_path):
    def make(**changes):
        values = {
            **{"classes": 4, "labels": "labels.txt", "color": "RGB", "more": ""},
            **{"network": "shufflenet_v2_x0_5", "weights": "IMAGENET1K_V1", "mean": [0.485, 0.456, 0.406]},
            **{"resize_size": 64, "crop_size": 64, "interpolation": "bilinear", "antialias": "true", **changes},
        }
        (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(values["classes"])))
        (tmp_path / "mine.toml").write_text(RECIPE.format(**values))
        return load_recipe(tmp_path / "mine.toml")

    return make


def refused(recipe, reason, *facts, **options):
    """Open a network, which fails; check the reason code and facts of the message."""
    with pytest.raises(NetworkError) as caught:
        TorchvisionNetwork(recipe, **options)
    message = str(caught.value)
    assert caught.value.reason == reason, message
    for fact in facts:
        assert fact in message
    return message


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(3)
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    return network.eval(), tmp_path / "mine.pt"


@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_the_export_computes_what_the_network_computes(recipe, checkpoint, tmp_path, color):
    network, file = checkpoint
    made = TorchvisionNetwork(recipe(color=color), checkpoint=file)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    images = pixels[..., ::-1] if color == "BGR" else pixels
    normalised = ((images / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(np.ascontiguousarray(normalised))).numpy()
    assert np.allclose(made.reference(pixels), wanted, atol=1e-5)
    made.export_onnx(tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    for batch in (1, 3):
        (logits,) = session.run(["output__0"], {"input__0": pixels[:batch]})
        assert np.allclose(logits, wanted[:batch], atol=1e-4)
    # Exporters record the source line of each operation.
    assert b".py" not in (tmp_path / "model.onnx").read_bytes()
    assert list(made.labels) == ["class 0", "class 1", "class 2", "class 3"]


@pytest.mark.parametrize("around", [lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_checkpoints_as_training_scripts_write_them(recipe, checkpoint, tmp_path, around):
    network, _ = checkpoint
    torch.save(around(network.state_dict()), tmp_path / "other.pt")
    made = TorchvisionNetwork(recipe(), checkpoint=tmp_path / "other.pt")
    assert made.weights.source == "checkpoint other.pt"


def test_a_checkpoint_that_would_run_code_is_refused(recipe, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    refused(recipe(), "invalid_checkpoint", "evil.pt", "torch.save", checkpoint=tmp_path / "evil.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("network", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_a_checkpoint_of_another_number_of_classes_names_both(recipe, tmp_path, network):
    torch.save(torchvision.models.get_model(network, num_classes=4).state_dict(), tmp_path / "mine.pt")
    five = recipe(classes=5, network=network)
    facts = [f"{five.path}:1: classes: is 5", "mine.pt has 4 classes", "set classes = 4", "4 lines"]
    refused(five, "classes_differ", *facts, checkpoint=tmp_path / "mine.pt")


def test_a_checkpoint_of_another_network_is_refused(recipe, checkpoint, tmp_path):
    _, file = checkpoint
    message = refused(recipe(network="shufflenet_v2_x1_0"), "checkpoint_differs", "mine.pt", checkpoint=file)
    assert "shufflenet_v2_x1_0" in message
    refused(recipe(network="squeezenet1_1"), "checkpoint_differs", checkpoint=file)
    refused(recipe(), "checkpoint_not_found", "gone.pt", checkpoint=tmp_path / "gone.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(recipe(), "invalid_checkpoint", "list.pt", "torch.save", checkpoint=tmp_path / "list.pt")


def test_random_weights_are_the_same_every_time(recipe):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    first, second = (TorchvisionNetwork(recipe(), random=True).reference(pixels) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of weights, and no network."""

    def no_network(*_arguments, **_options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    return tmp_path / "hub" / "checkpoints"


IMAGENET = {"classes": 1000, "labels": "weights", "network": "squeezenet1_1", **RIGHT}


def test_without_a_network_the_error_names_both_ways_out(recipe, hub):
    facts = ["not known", "--checkpoint FILE", "--weights none"]
    refused(recipe(**IMAGENET), "weights_not_downloaded", *facts)


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"resize_size": 232}, ["mine.toml:4: [geometry] resize_size", "is 232, the weights have 256"]),
        ({"resize_size": [256, 256]}, ["resize_size is [256, 256], the weights have 256"]),
        ({"crop_size": 200}, ["[geometry] crop_size is 200, the weights have 224"]),
        ({"crop_size": [224, 200]}, ["crop_size is [224, 200], the weights have 224"]),
        ({"interpolation": "bicubic"}, ['interpolation is "bicubic", the weights have "bilinear"']),
        ({"antialias": "false"}, ["antialias is false, the weights have true"]),
        ({"mean": [0.5, 0.5, 0.5]}, ["mine.toml:9: [normalisation] mean", "0.485"]),
        ({"color": "BGR"}, ['color is "BGR", the weights have "RGB"']),
        ({"resize_size": 230, "mean": [0.5, 0.5, 0.5]}, ["resize_size is 230", "mean is [0.5, 0.5, 0.5]"]),
    ],
)
def test_a_recipe_that_differs_from_the_transforms_of_the_weights_is_refused(recipe, hub, changes, facts):
    wrong = {**IMAGENET, **changes}
    refused(recipe(**wrong), "differs_from_weights", "differs_from_weights = true", *facts)
    # Unless the recipe insists. Then, and with other weights, the next step is reached.
    refused(recipe(**wrong, more="differs_from_weights = true"), "weights_not_downloaded")
    refused(recipe(**wrong), "checkpoint_not_found", checkpoint=hub / "gone.pt")
    TorchvisionNetwork(recipe(**wrong), random=True)


def test_rounded_numbers_do_not_differ(recipe, hub):
    refused(recipe(**IMAGENET, mean=[0.48502, 0.456, 0.406]), "weights_not_downloaded")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_project_recipes_agree_with_the_transforms_of_the_weights(hub, path):
    recipe = load_recipe(path)
    assert isinstance(recipe.source, TorchvisionSource)
    recipe = dataclasses.replace(recipe, source=dataclasses.replace(recipe.source, package=None))
    refused(recipe, "weights_not_downloaded")


def test_the_weights_of_a_package_go_to_torchvisions_cache(hub):
    demo = load_recipe(RECIPES / "mobilenet_v2.toml")
    made = TorchvisionNetwork(demo)
    assert (hub / "mobilenet_v2-b0353104.pth").is_file()
    assert isinstance(demo.source, TorchvisionSource)
    assert made.weights.sha256 == demo.source.sha256
    assert made.labels[285] == "Egyptian cat"

    (hub / "mobilenet_v2-b0353104.pth").write_bytes(b"damaged")
    refused(demo, "weights_differ", "mobilenet_v2-b0353104.pth")


def test_damaged_weights_in_the_cache_are_named(recipe, hub):
    hub.mkdir(parents=True)
    (hub / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"half a file")
    refused(recipe(**IMAGENET), "weights_differ", "squeezenet1_1-b8a52dc0.pth", "delete it")


def test_names_that_torchvision_does_not_have(recipe):
    refused(recipe(network="shufflenet_v2"), "unknown_network", "mine.toml:14: [source] network", "shufflenet_v2_x")
    refused(recipe(weights="V9"), "unknown_weights", "mine.toml:15: [source] weights", "IMAGENET1K_V1")
    refused(recipe(labels="weights"), "classes_differ", "mine.toml:1: classes", "1000 labels")


def test_drafts_take_the_transforms_of_the_weights(hub, recipe):
    made = draft("squeezenet1_1", None)
    assert made.source == {"kind": "torchvision", "network": "squeezenet1_1", "weights": "IMAGENET1K_V1"}
    assert (made.name, made.classes, made.labels) == ("squeezenet1_1", 1000, "weights")
    assert made.geometry == {"resize_size": 256, "crop_size": 224, "interpolation": "bilinear"}
    assert made.normalisation == {"mean": [*MEAN], "std": [*STD]}
    assert draft("resnet50", None).source["weights"] == "IMAGENET1K_V2"
    for arguments, reason in ((("squeezenet", None), "unknown_network"), (("resnet50", "V9"), "unknown_weights")):
        with pytest.raises(NetworkError) as caught:
            draft(*arguments)
        assert caught.value.reason == reason
