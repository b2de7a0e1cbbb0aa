import urllib.request
from urllib.error import URLError

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torchvision
from jpeg_build.errors import NetworkError
from jpeg_build.recipe import load_recipe
from jpeg_build.torchvision_network import TorchvisionNetwork
from support import MEAN, STD

RECIPE = """\
classes = {classes}
labels = "{labels}"
[geometry]
resize_size = 64
crop_size = 64
[normalisation]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
color = "{color}"
[source]
kind = "torchvision"
network = "{network}"
weights = "{weights}"
"""


@pytest.fixture
def recipe(tmp_path):
    def make(*, classes=4, labels="labels.txt", color="RGB", network="shufflenet_v2_x0_5", weights="IMAGENET1K_V1"):
        (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(classes)))
        text = RECIPE.format(classes=classes, labels=labels, color=color, network=network, weights=weights)
        (tmp_path / "mine.toml").write_text(text)
        return load_recipe(tmp_path / "mine.toml")

    return make


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
    # Exporters write down where each operation was called.
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
    with pytest.raises(NetworkError, match="is not a file of weights alone: save one with"):
        TorchvisionNetwork(recipe(), checkpoint=tmp_path / "evil.pt")
    assert not (tmp_path / "evil").exists()


def test_a_checkpoint_that_does_not_fit_is_refused(recipe, checkpoint, tmp_path):
    _, file = checkpoint
    with pytest.raises(NetworkError, match="does not fit shufflenet_v2_x0_5 with 5 classes: size mismatch"):
        TorchvisionNetwork(recipe(classes=5), checkpoint=file)
    with pytest.raises(NetworkError, match="no such file"):
        TorchvisionNetwork(recipe(), checkpoint=tmp_path / "gone.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(NetworkError, match="holds no state dict"):
        TorchvisionNetwork(recipe(), checkpoint=tmp_path / "list.pt")


def test_random_weights_are_the_same_every_time(recipe):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    first, second = (TorchvisionNetwork(recipe(), random=True).reference(pixels) for _ in range(2))
    assert np.array_equal(first, second)


def test_without_a_network_the_error_names_both_ways_out(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def no_network(*_arguments, **_options):
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(NetworkError, match=r"not known.*--checkpoint FILE.*--weights none"):
        TorchvisionNetwork(recipe(classes=1000, labels="weights"))


def test_the_packages_weights_go_where_torchvision_looks_for_them(tmp_path, monkeypatch):
    from jpeg_build.recipe import RECIPES

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    demo = load_recipe(RECIPES / "mobilenet_v2.toml")
    made = TorchvisionNetwork(demo)
    assert (tmp_path / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth").is_file()
    assert made.weights.sha256 == demo.source.sha256
    assert made.labels[285] == "Egyptian cat"

    (tmp_path / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth").write_bytes(b"damaged")
    with pytest.raises(NetworkError, match="sha256 differs"):
        TorchvisionNetwork(demo)


def test_damaged_weights_in_the_cache_are_named(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    cached = tmp_path / "hub" / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a file")
    with pytest.raises(NetworkError, match=r"shufflenetv2_x0\.5-f707e7126e\.pth is damaged or another file.*delete it"):
        TorchvisionNetwork(recipe(classes=1000, labels="weights"))


def test_names_that_torchvision_does_not_know(recipe):
    with pytest.raises(NetworkError, match="has no network 'shuffle'"):
        TorchvisionNetwork(recipe(network="shuffle"))
    with pytest.raises(NetworkError, match="with weights 'V9'"):
        TorchvisionNetwork(recipe(weights="V9"))
    with pytest.raises(NetworkError, match="the weights name 1000 labels"):
        TorchvisionNetwork(recipe(labels="weights"))
