"""The runner of the Python-based pytorch backend on a real GPU.

Skipped where PyTorch finds no NVIDIA GPU.
"""

import importlib.util
import json
import warnings

import numpy as np
import pytest
from jpeg_backend.model_config import ModelConfig

IMAGE, CLASSES, MAX_BATCH = (32, 32, 3), 5, 8


def why_not():
    """What these tests need and is not here."""
    if importlib.util.find_spec("torch") is None:
        return "needs the package torch"
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a driver that is too old
        return None if torch.cuda.is_available() else "needs an NVIDIA GPU and a PyTorch for it"


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def network():
    import torch

    class Network(torch.nn.Module):
        """A tuple of one, as Torch-TensorRT's dynamo front end saves it."""

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, CLASSES, 3, stride=2)

        def forward(self, pixels):
            return (torch.relu(self.conv(pixels.permute(0, 3, 1, 2).float() / 255)).mean((2, 3)),)

    torch.manual_seed(0)
    return Network().eval()


def load(network, folder, *, graphs=True, notes=None):
    import torch
    from jpeg_backend.torch_script import load_script

    (folder / "1").mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against TorchScript
        traced = torch.jit.trace(network, torch.zeros((2, *IMAGE), dtype=torch.uint8))
        extra = {"jpeg_build.json": json.dumps(notes)} if notes else None
        torch.jit.save(traced, str(folder / "1" / "model.pt"), _extra_files=extra)
    config = {
        "max_batch_size": MAX_BATCH,
        "input": [{"name": "input__0", "dims": list(IMAGE)}],
        "output": [{"name": "output__0", "dims": [CLASSES]}],
        "optimization": {"cuda": {"graphs": graphs}},
        "parameters": {"cuda_graph_after": {"string_value": "2"}},
    }
    args = {
        "model_name": "classifier_torch_tensorrt",
        "model_repository": str(folder),
        "model_version": "1",
        "model_instance_kind": "GPU",
        "model_instance_device_id": "0",
        "model_config": json.dumps(config),
    }
    return load_script(ModelConfig.from_triton(args, default_filename="model.pt"))


def images(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, *IMAGE), np.uint8)


def on_gpu(runner, pixels):
    import torch

    placed = torch.from_numpy(pixels).cuda()
    torch.cuda.synchronize()
    return runner.from_capsule(placed.__dlpack__())


def expected(network, pixels):
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(pixels))[0].numpy()


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("notes", [None, {"profile": {"min": 2, "max": 5}}])
def test_batches_of_all_sizes_from_host_and_device_memory(network, tmp_path, graphs, notes):
    runner = load(network, tmp_path, graphs=graphs, notes=notes)
    for sizes in [[size] for size in range(1, MAX_BATCH + 2)] * 3 + [[1, 2, 3], [MAX_BATCH, 1], [1] * 8]:
        parts = [images(size, seed) for seed, size in enumerate(sizes)]
        given = [on_gpu(runner, part) if place % 2 else part for place, part in enumerate(parts)]
        for found in (runner(parts), runner([on_gpu(runner, part) for part in parts]), runner(given)):
            for logits, part in zip(found, parts, strict=True):
                np.testing.assert_allclose(logits, expected(network, part), atol=2e-3)
    assert bool(runner.graph_sizes) is graphs


def test_graphs_change_no_number(network, tmp_path):
    with_graphs, without = load(network, tmp_path), load(network, tmp_path, graphs=False)
    for size in [1, 3, MAX_BATCH] * 4:
        pixels = images(size, size)
        np.testing.assert_allclose(with_graphs([pixels])[0], without([pixels])[0], rtol=1e-6)
    assert with_graphs.graph_sizes == [1, 3, MAX_BATCH]
    assert without.graph_sizes == []
