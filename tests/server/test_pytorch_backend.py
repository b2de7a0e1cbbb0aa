"""The Python-based pytorch backend: plain TorchScript on the CPU, served from the native backend's config."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.http as httpclient
from conftest import serve
from jpeg_serve.errors import ServerDied
from PIL import Image
from repository.static_repository import make_report
from support import photo, reference_pixels

NAME = "classifier_torch_tensorrt"

# As the native libtorch backend takes it, too. Batches wait until they are full, or for a second.
CONFIG = """
name: "%(name)s"
platform: "pytorch_libtorch"
backend: "pytorch"
max_batch_size: 8
input { name: "input__0" data_type: TYPE_UINT8 dims: [224, 224, 3] }
output { name: "output__0" data_type: TYPE_FP32 dims: [%(classes)d] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 1000000 }
parameters { key: "INTRA_OP_THREAD_COUNT" value { string_value: "1" } }
parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }
"""


@pytest.fixture(scope="module")
def network():
    """torchvision's MobileNetV2 in the common contract, with random weights."""
    import torch
    import torchvision
    from jpeg_build.networks.pixels_to_logits import PixelsToLogits
    from jpeg_build.recipe.normalisation import Normalisation

    torch.manual_seed(0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return PixelsToLogits(torchvision.models.mobilenet_v2(weights=None), Normalisation(mean, std, "RGB")).eval()


def save(network, path, *, frozen):
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # PyTorch advises against TorchScript
        traced = torch.jit.trace(network, torch.zeros((2, 224, 224, 3), dtype=torch.uint8), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced) if frozen else traced, str(path))


def repository_with(folder, *, classes=1000):
    model = folder / "model_repository" / NAME
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG % {"name": NAME, "classes": classes})
    return model


def write_report(artefact, *, classes=1000):
    """The report that jpeg-serve compares an artefact with."""
    make_report(artefact, "torch_tensorrt", recipe="", recipe_sha256="", classes=classes)


@pytest.fixture(scope="module", params=["traced", "frozen"])
def torch_server(request, network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pytorch")
    model = repository_with(folder)
    save(network, model / "1" / "model.pt", frozen=request.param == "frozen")
    write_report(model / "1" / "model.pt")
    yield from serve(model.parent, folder / "triton.log", load=[NAME])


def infer(server, pixels):
    client = httpclient.InferenceServerClient(server.http_address)
    tensor = httpclient.InferInput("input__0", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    logits = client.infer(NAME, [tensor]).as_numpy("output__0")
    client.close()
    return logits


def test_requests_of_all_sizes_get_the_networks_own_logits(torch_server, network):
    import torch

    photos = [reference_pixels(Image.open(io.BytesIO(photo(name))).convert("RGB")) for name in ("coffee", "china")]
    rng = np.random.default_rng(0)
    batches = [np.stack(photos), *(rng.integers(0, 256, (size, 224, 224, 3), np.uint8) for size in (1, 1, 3, 8, 1))]
    with ThreadPoolExecutor(len(batches)) as pool:
        responses = list(pool.map(lambda pixels: infer(torch_server, pixels), batches))
    for pixels, logits in zip(batches, responses, strict=True):
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels)).numpy()
        assert logits.shape == expected.shape
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def fails_to_load(folder, log):
    with pytest.raises(ServerDied):
        next(serve(folder, log, load=[NAME]))
    return log.read_text()


def test_a_network_that_is_not_the_configs_keeps_the_model_from_loading(network, tmp_path):
    model = repository_with(tmp_path, classes=10)
    save(network, model / "1" / "model.pt", frozen=False)
    write_report(model / "1" / "model.pt", classes=10)
    log = fails_to_load(model.parent, tmp_path / "triton.log")
    assert "float32 [1, 10], as the config says" in log
    assert "float32 [1, 1000]" in log
    assert "jpeg-build RECIPE --backend torch_tensorrt" in log


def test_a_file_that_is_not_torchscript_keeps_the_model_from_loading(tmp_path):
    model = repository_with(tmp_path)
    (model / "1" / "model.pt").write_bytes(b"not a zip archive")
    write_report(model / "1" / "model.pt")
    assert "model.pt is not a TorchScript file" in fails_to_load(model.parent, tmp_path / "triton.log")
