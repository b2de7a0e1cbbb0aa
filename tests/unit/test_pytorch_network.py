"""What every network of PyTorch can do: gray images, sigmoid heads, one output for two classes, probabilities."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from framework_support import check_onnx, check_torchscript, pixels, write_recipe
from jpeg_build.errors import NetworkError
from jpeg_build.networks.network import Weights
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.quiet import quiet
from jpeg_build.recipe.outputs import to_scores
from torch import nn

SOURCE = {"kind": "torchvision", "network": "resnet18", "weights": "IMAGENET1K_V1"}
GRAY = {"mean": 0.25, "std": 0.5, "color": "GRAY"}


class Net(nn.Module):
    """Means of the channels, mixed; they spread over both sides of zero."""

    def __init__(self, channels, values, end=None):
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.head, self.end = nn.Conv2d(channels, 8, 5, stride=3), nn.Linear(8, values), end or nn.Identity()

    def forward(self, images):
        # A view needs planes of channels that lie one after the other, as networks are trained with.
        features = self.conv(images)
        return self.end(4 * self.head(features.view(features.size(0), 8, -1).amax(-1)))


def made(recipe, module, output="logits"):
    return PyTorchNetwork(
        recipe, module, labels=["x"] * recipe.classes, weights=Weights("made", "0" * 64), title="made", output=output
    )


def own(module, images, recipe):
    """Run a module on images that are normalised by hand."""
    values = images.astype(np.float64) / 255
    if recipe.normalisation.color == "GRAY":
        values = (0.299 * values[..., 0] + 0.587 * values[..., 1] + 0.114 * values[..., 2])[..., None]
    values = (values - np.array(recipe.normalisation.mean)) / np.array(recipe.normalisation.std)
    with torch.inference_mode():
        return module(torch.from_numpy(values.transpose(0, 3, 1, 2).astype(np.float32).copy())).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_networks_of_one_and_of_three_channels(tmp_path, channels):
    recipe = write_recipe(tmp_path, SOURCE, normalisation={**GRAY, "mean": [0.25] * channels})
    module = Net(channels, 4)
    network = made(recipe, module)
    images = pixels(recipe)
    assert np.abs(network.reference(images) - own(module, images, recipe)).max() < 1e-4
    check_onnx(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path, "fp16")


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_one_output_for_two_classes(tmp_path, output):
    recipe = write_recipe(tmp_path, SOURCE, classes=2)
    module = Net(3, 1, nn.Sigmoid() if output == "probabilities" else None)
    network = made(recipe, module, output)
    assert network.kind.single
    images = pixels(recipe)
    second = own(module, images, recipe)[:, 0]
    second = second if output == "probabilities" else 1 / (1 + np.exp(-second))
    scores = to_scores(network.reference(images), "softmax")
    assert np.abs(scores - np.stack([1 - second, second], 1)).max() < 1e-5
    check_onnx(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path)


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_one_score_for_each_label(tmp_path, output, classes):
    recipe = write_recipe(tmp_path, SOURCE, classes=classes, output="sigmoid")
    module = Net(3, classes, nn.Sigmoid() if output == "probabilities" else None)
    network = made(recipe, module, output)
    images = pixels(recipe)
    wanted = own(module, images, recipe)
    wanted = wanted if output == "probabilities" else 1 / (1 + np.exp(-wanted))
    network.export_onnx(tmp_path / "model.onnx")
    (logits,) = ort.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"input__0": images})
    for values in (network.reference(images), logits):
        assert np.abs(to_scores(values, "sigmoid") - wanted).max() < 1e-5


def test_probabilities_of_a_softmax(tmp_path):
    recipe = write_recipe(tmp_path, SOURCE)
    module = Net(3, 4, nn.Softmax(1))
    network = made(recipe, module, "probabilities")
    images = pixels(recipe)
    assert np.abs(to_scores(network.reference(images), "softmax") - own(module, images, recipe)).max() < 1e-5
    check_onnx(network, recipe, tmp_path)
    with pytest.raises(NetworkError) as caught:
        made(recipe, module)
    assert caught.value.reason == "output_differs"


class Faint(nn.Module):
    """One value for each image, which always lies in [0, 1]."""

    def __init__(self, last=None):
        super().__init__()
        self.last = nn.Identity() if last is None else last

    def forward(self, images):
        return self.last(images.mean((1, 2, 3), keepdim=True) / 1000 + 0.4).flatten(1)


def scripted(network):
    with quiet():
        return torch.jit.script(network)


@pytest.mark.parametrize("kind", ["module", "script"])
@pytest.mark.parametrize("facts", [{"classes": 2}, {"classes": 1, "output": "sigmoid"}])
def test_a_sigmoid_of_one_value_is_no_logit(tmp_path, facts, kind):
    recipe = write_recipe(tmp_path, SOURCE, **facts)
    logit, probability = (scripted(each) if kind == "script" else each for each in (Faint(), Faint(nn.Sigmoid())))
    assert made(recipe, logit).kind.values == "logits"
    assert made(recipe, probability, "probabilities").kind.values == "probabilities"
    with pytest.raises(NetworkError) as caught:
        made(recipe, probability)
    assert caught.value.reason == "output_differs"


def test_outputs_of_another_kind_are_named(tmp_path):
    class Several(nn.Module):
        def forward(self, images):
            return {"logits": images.mean((2, 3))}

    recipe = write_recipe(tmp_path, SOURCE)
    with pytest.raises(NetworkError) as caught:
        made(recipe, Several())
    assert caught.value.reason == "output_type"
    with pytest.raises(NetworkError) as caught:
        made(recipe, Net(5, 4))
    assert caught.value.reason == "network_failed"
    with pytest.raises(NetworkError) as caught:
        made(recipe, Net(3, 6))
    assert caught.value.reason == "classes_differ"
