"""Plain TorchScript, as Triton's PyTorch backend loads it, and the errors where engines cannot be made."""

import importlib.util
import json
import zipfile

import numpy as np
import onnx
import pytest
import torch
from jpeg_build.emitters import Job, Options, torch_tensorrt
from jpeg_build.errors import BuildError
from jpeg_build.networks.onnx_network import OnnxNetwork
from jpeg_build.networks.pixels_to_logits import PixelsToLogits
from jpeg_build.networks.torchvision_network import TorchvisionNetwork
from jpeg_build.photos import load_photos
from jpeg_build.recipe.normalisation import Normalisation
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from jpeg_contract.forms import TORCH_TENSORRT
from jpeg_contract.report import Requirements
from jpeg_contract.resources import PHOTOS
from onnx import TensorProto, helper
from support import opened
from torch import nn

RECIPE = """\
classes = 7
labels = "labels.txt"
[geometry]
resize_size = 64
crop_size = [64, 48]
[normalisation]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
color = "{color}"
[source]
kind = "torchvision"
network = "{network}"
weights = "IMAGENET1K_V1"
"""


@pytest.fixture
def network(tmp_path):
    def make(name="shufflenet_v2_x0_5", *, color="RGB"):
        (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(7)))
        (tmp_path / "mine.toml").write_text(RECIPE.format(network=name, color=color))
        return TorchvisionNetwork(load_recipe(tmp_path / "mine.toml"), random=True)

    return make


def job(network, recipe, folder, precision="fp32", **options):
    folder.mkdir(exist_ok=True)
    return Job(
        recipe=recipe,
        network=network,
        precision=precision,
        folder=folder,
        photos=np.zeros((1, 1, 1, 3), np.uint8),
        calibration=lambda: pytest.fail("nothing here is calibrated"),
        options=Options(**{"trt": False, **options}),
        progress=lambda message: None,
    )


def emit(network, tmp_path, precision="fp32", **options):
    return torch_tensorrt.emit(
        job(network, load_recipe(tmp_path / "mine.toml"), tmp_path / "made", precision, **options)
    )


def relative(logits, reference):
    return np.abs(logits - reference).max() / np.abs(reference).max()


def pixels(batch):
    return np.random.default_rng(batch).integers(0, 256, (batch, 64, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "color"),
    [("shufflenet_v2_x0_5", "BGR"), ("resnet18", "RGB"), ("swin_t", "RGB")],
)
def test_a_batch_of_any_size_gives_the_logits_of_the_network(network, tmp_path, name, color):
    made = network(name, color=color)
    emitted = emit(made, tmp_path)
    assert emitted.artefact == tmp_path / "made" / "model.pt"
    assert emitted.details["form"] == "plain"
    assert emitted.requires == Requirements()
    with opened(load_recipe(tmp_path / "mine.toml"), TORCH_TENSORRT, emitted, on_cpu=True) as run:
        for batch in (1, 3, 64) if name == "shufflenet_v2_x0_5" else (1, 3, 5):
            logits = run(pixels(batch))
            assert logits.dtype == np.float32
            assert logits.shape == (batch, 7)
            assert relative(logits, made.reference(pixels(batch))) < 1e-5


def test_the_demo_network_gives_the_same_logits_in_both_precisions(tmp_path):
    recipe = load_recipe(RECIPES / "mobilenet_v2.toml")
    made = TorchvisionNetwork(recipe)
    photos = load_photos(PHOTOS, recipe)
    reference = made.reference(photos)
    with opened(recipe, TORCH_TENSORRT, torch_tensorrt.emit(job(made, recipe, tmp_path / "fp32")), on_cpu=True) as run:
        assert relative(run(photos), reference) < 1e-5

    # On a CPU without instructions for float16 an image takes seconds.
    emitted = torch_tensorrt.emit(job(made, recipe, tmp_path / "fp16", "fp16", opt_batch=1, max_batch=1))
    assert "float16 is slow on CPUs" in emitted.notes[0]
    with opened(recipe, TORCH_TENSORRT, emitted, on_cpu=True) as run:
        one = run(photos[:1])
    assert one.dtype == np.float32
    assert 1e-5 < relative(one, reference[:1]) < 0.02
    assert one.argmax() == reference[:1].argmax()
    # The copy that was made float16 is not the network that later builds are compared with.
    assert (
        np.array_equal(made.reference(photos[:1]), reference[:1])
        or relative(made.reference(photos[:1]), reference[:1]) < 1e-6
    )
    sizes = [(tmp_path / name / "model.pt").stat().st_size for name in ("fp32", "fp16")]
    assert sizes[1] < 0.6 * sizes[0]


def test_inspect_describes_tensors_and_operators(network, tmp_path):
    emitted = emit(network("resnet18"), tmp_path)
    found = torch_tensorrt.inspect(emitted.artefact)
    assert found["inputs"] == {"input__0": "uint8[N,64,48,3]"}
    assert found["outputs"] == {"output__0": "float32[N,7]"}
    assert found["form"] == "plain"
    assert found["operators"]["aten::_convolution"] == 20
    assert "aten::batch_norm" not in found["operators"]  # folded into the convolutions
    assert found["operators"] == emitted.details["operations_in_pytorch"]
    assert json.loads(json.dumps(found)) == found


def test_a_users_own_torchscript_can_be_inspected(tmp_path):
    class Mine(nn.Module):
        def forward(self, images):
            return images.float().mean((1, 2))

    with torch_tensorrt._quiet():
        torch.jit.save(torch.jit.trace(Mine(), torch.zeros((2, 4, 4, 3), dtype=torch.uint8)), tmp_path / "m.pt")
    assert torch_tensorrt.inspect(tmp_path / "m.pt")["operators"] == {"aten::to": 1, "aten::mean": 1}


def test_files_that_are_not_torchscript_are_named(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"no zip")
    with pytest.raises(BuildError, match=r"model\.pt is not a TorchScript file"):
        torch_tensorrt.inspect(tmp_path / "model.pt")
    with pytest.raises(BuildError, match=r"gone\.pt is missing") as caught:
        torch_tensorrt.inspect(tmp_path / "gone.pt")
    assert caught.value.reason == "artefact_missing"
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/readme", "a zip, but of something else")
    with pytest.raises(BuildError, match=r"model\.pt holds no TorchScript"):
        torch_tensorrt.inspect(tmp_path / "model.pt")


def test_a_network_whose_batch_is_not_dynamic_is_refused(network, tmp_path):
    class Fixed(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :7].reshape(int(images.shape[0]), 7)

    made = network()
    made.pixels_to_logits = lambda fp16: PixelsToLogits(Fixed(), Normalisation((0, 0, 0), (1, 1, 1)), fp16=fp16)
    emitted = emit(made, tmp_path)
    with (
        pytest.raises(BuildError, match="float32 \\[1, 7\\]") as caught,
        opened(load_recipe(tmp_path / "mine.toml"), TORCH_TENSORRT, emitted, on_cpu=True),
    ):
        pass
    assert caught.value.reason == "cannot_be_served"


def test_the_wrapper_around_engines_is_scripted_without_idle_operations():
    class Double(nn.Module):
        def forward(self, images):
            return (2 * images.mean((2, 3)),)

    normalisation = Normalisation((0.1, 0.2, 0.3), (0.5, 0.25, 0.125), "BGR")
    with torch_tensorrt._quiet():
        network = torch_tensorrt._one_output(torch.jit.trace(Double(), torch.zeros(2, 3, 4, 5)))
        scripted = torch.jit.script(PixelsToLogits(network, normalisation).eval())
    inside = torch_tensorrt._operations(scripted.network)
    assert inside == {"aten::mean": 1, "aten::mul": 1}
    around = torch_tensorrt._operations(scripted) - inside
    assert around == {
        "aten::flip": 1,
        "aten::to": 1,
        "aten::sub": 1,
        "aten::mul": 1,
        "aten::permute": 1,
        "aten::contiguous": 1,
    }
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    wanted = 2 * ((images[..., ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.125]).mean((1, 2))
    assert np.allclose(scripted(torch.from_numpy(images)).numpy(), wanted, atol=1e-5)


def test_a_recipe_without_a_pytorch_network_is_refused_with_its_backends(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["images"], ["logits"])],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 64, 48])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3, 1, 1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "n.onnx")
    (tmp_path / "labels.txt").write_text("".join(f"class {i}\n" for i in range(3)))
    text = RECIPE.format(network="", color="RGB").split("[source]")[0].replace("classes = 7", "classes = 3")
    (tmp_path / "mine.toml").write_text(f'{text}[source]\nkind = "onnx"\nfile = "n.onnx"\noutput = "logits"\n')
    recipe = load_recipe(tmp_path / "mine.toml")
    with pytest.raises(BuildError, match=r"onnx, openvino and tensorrt") as caught:
        torch_tensorrt.emit(job(OnnxNetwork(recipe), recipe, tmp_path / "made"))
    assert caught.value.reason == "not_pytorch"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_engines_without_a_gpu_are_refused(network, tmp_path):
    with pytest.raises(BuildError, match=r"driver.*nvcr\.io/nvidia/pytorch:.*for torch_tensorrt") as caught:
        emit(network(), tmp_path, trt=True)
    assert caught.value.reason == "gpu_missing"
    assert not list((tmp_path / "made").iterdir())


@pytest.mark.skipif(
    importlib.util.find_spec("torch_tensorrt") is not None, reason="the package torch_tensorrt is installed here"
)
def test_without_torch_tensorrt_the_error_names_the_package_and_the_image():
    with pytest.raises(BuildError, match=r"torch_tensorrt is not installed.*\[torch-tensorrt\].*pytorch:YY\.MM-py3"):
        torch_tensorrt._torch_tensorrt()
