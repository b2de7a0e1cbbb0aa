"""Files of TorchScript and of torch.export: recognised by their content, loaded without code, exported."""

import json
import zipfile

import numpy as np
import pytest
import timm
import torch
from framework_support import check_onnx, check_torchscript, emit_torchscript, pixels, write_recipe
from jpeg_build.errors import BuildError, NetworkError
from jpeg_build.networks.load import load_network
from jpeg_build.networks.torch_program_network import TorchProgramNetwork, draft
from jpeg_build.quiet import quiet
from jpeg_contract.forms import ONNX

SOURCE = {"kind": "torch", "file": "network.bin"}
GEOMETRY = {"resize_size": 160, "crop_size": 160}


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(3)
    return timm.create_model("test_vit", num_classes=4).eval()


IMAGES = torch.zeros((2, 3, 160, 160))


def save_script(network, path, *, freeze=False):
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(network, IMAGES, check_trace=False)
        torch.jit.save(torch.jit.freeze(traced) if freeze else traced, str(path))


def save_program(network, path, *, dynamic=True):
    shapes = ({0: torch.export.Dim("batch", min=1, max=8)},) if dynamic else None
    with quiet("torch.export"):
        torch.export.save(torch.export.export(network, (IMAGES,), dynamic_shapes=shapes), str(path) + ".pt2")
    path.with_name(path.name + ".pt2").rename(path)


def wanted(network, images):
    with torch.inference_mode():
        return network(torch.from_numpy((images / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2).copy())).numpy()


def refused(call, reason, *facts):
    with pytest.raises(NetworkError) as caught:
        call()
    assert caught.value.reason == reason, str(caught.value)
    for fact in facts:
        assert fact in str(caught.value)


@pytest.mark.parametrize("save", [save_script, save_program])
def test_both_kinds_are_told_by_their_content(vit, tmp_path, save):
    save(vit, tmp_path / "network.bin")
    recipe = write_recipe(tmp_path, SOURCE, geometry=GEOMETRY)
    network = load_network(recipe, ONNX, progress=lambda message: None)
    assert isinstance(network, TorchProgramNetwork)
    images = pixels(recipe, 11)  # more than the program was exported for
    assert np.abs(network.reference(images) - wanted(vit, images)).max() < 1e-4
    check_onnx(network, recipe, tmp_path)
    check_torchscript(network, recipe, tmp_path)


@pytest.mark.parametrize("save", [save_script, save_program])
def test_both_kinds_in_float16(tmp_path, save):
    torch.manual_seed(3)
    save(timm.create_model("test_resnet", num_classes=4).eval(), tmp_path / "network.bin")
    recipe = write_recipe(tmp_path, SOURCE, geometry=GEOMETRY)
    check_torchscript(TorchProgramNetwork(recipe), recipe, tmp_path, "fp16")


def test_frozen_torchscript_has_one_precision(vit, tmp_path):
    save_script(vit, tmp_path / "network.bin", freeze=True)
    recipe = write_recipe(tmp_path, SOURCE, geometry=GEOMETRY)
    network = TorchProgramNetwork(recipe)
    check_onnx(network, recipe, tmp_path)
    with pytest.raises(BuildError, match="fp32") as caught:
        emit_torchscript(network, recipe, tmp_path, "fp16")
    assert caught.value.reason == "not_traced"


def test_a_program_for_one_size_of_batches_is_refused(vit, tmp_path):
    save_program(vit, tmp_path / "network.bin", dynamic=False)
    recipe = write_recipe(tmp_path, SOURCE, geometry=GEOMETRY)
    refused(lambda: TorchProgramNetwork(recipe), "static_batch", "batches of 2", "dynamic_shapes")


def test_other_files_are_named(vit, tmp_path):
    torch.save(vit.state_dict(), tmp_path / "network.bin")
    recipe = write_recipe(tmp_path, SOURCE, geometry=GEOMETRY)
    refused(lambda: TorchProgramNetwork(recipe), "invalid_program", "checkpoint")
    (tmp_path / "network.bin").write_bytes(b"no zip")
    refused(lambda: TorchProgramNetwork(recipe), "invalid_program", "network.bin")
    refused(lambda: draft(tmp_path / "gone.pt"), "invalid_program", "gone.pt")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"torch.ops.aten.mul.Tensor"', '"torch.os.system"'),
        lambda text: text.replace('"torch.ops.aten.mul.Tensor"', '"_operator.attrgetter"'),
        lambda text: text.replace("Symbol(", "__import__('os').mkdir('ran') or Symbol("),
        lambda text: text.replace("Symbol(", "().a.b or Symbol("),
    ],
)
def test_a_program_that_would_run_code_is_refused(tmp_path, change):
    class Net(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3)) * 2

    save_program(Net(), tmp_path / "good.bin")
    changed = False
    with (
        zipfile.ZipFile(tmp_path / "good.bin") as source,
        zipfile.ZipFile(tmp_path / "network.bin", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("model.json"):
                # Exports write spaces as they like.
                text = json.dumps(json.loads(data))
                changed = change(text) != text
                data = change(text).encode()
            target.writestr(name, data)
    assert changed
    recipe = write_recipe(tmp_path, SOURCE, classes=3, geometry=GEOMETRY)
    refused(lambda: TorchProgramNetwork(recipe), "invalid_checkpoint", "could run code")


def test_drafts(vit, tmp_path):
    save_program(vit, tmp_path / "My Net.pt2")
    made = draft(tmp_path / "My Net.pt2")
    assert made.name == "my_net"
    assert made.source == {"kind": "torch", "file": str(tmp_path / "My Net.pt2"), "output": "logits"}
    assert made.geometry == {"resize_size": 160, "crop_size": 160}
    save_script(vit, tmp_path / "script.pt")
    assert draft(tmp_path / "script.pt").geometry is None
