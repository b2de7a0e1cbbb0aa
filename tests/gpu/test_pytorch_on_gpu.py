"""The loader of TorchScript on a real GPU.

Skipped where PyTorch finds no NVIDIA GPU.
"""

import importlib.util
import json
import warnings

import numpy as np
import pytest
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ServingConfig
from support import TINY_CLASSES, TINY_IMAGE, as_parameters, classifier_args, tiny_images

MAX_BATCH = 8


def why_not():
    """Return what these tests lack here; None if nothing."""
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
            self.conv = torch.nn.Conv2d(3, TINY_CLASSES, 3, stride=2)

        def forward(self, pixels):
            return (torch.relu(self.conv(pixels.permute(0, 3, 1, 2).float() / 255)).mean((2, 3)),)

    torch.manual_seed(0)
    return Network().eval()


def load(network, folder, *, graphs=True, notes=None):
    import torch

    (folder / "1").mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch advises against TorchScript
        traced = torch.jit.trace(network, torch.zeros((2, *TINY_IMAGE), dtype=torch.uint8))
        extra = {"jpeg_build.json": json.dumps(notes)} if notes else None
        torch.jit.save(traced, str(folder / "1" / "model.pt"), _extra_files=extra)
    args = classifier_args(
        folder,
        "pytorch",
        gpu=0,
        max_batch_size=MAX_BATCH,
        optimization={"cuda": {"graphs": graphs}},
        parameters=as_parameters({"cuda_graph_after": "2"}),
    )
    return open_classifier(ServingConfig.from_triton(args)).loaded


def on_gpu(runner, pixels):
    import torch

    placed = torch.from_numpy(pixels).cuda()
    torch.cuda.synchronize()
    return runner.from_capsule(placed.__dlpack__())


def reference(network, pixels):
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(pixels))[0].numpy()


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("notes", [None, {"profile": {"min": 2, "max": 5}}])
def test_batches_of_any_size_run_from_host_and_device_memory(network, tmp_path, graphs, notes):
    runner = load(network, tmp_path, graphs=graphs, notes=notes)
    for sizes in [[size] for size in range(1, MAX_BATCH + 2)] * 3 + [[1, 2, 3], [MAX_BATCH, 1], [1] * 8]:
        parts = [tiny_images(size, seed) for seed, size in enumerate(sizes)]
        given = [on_gpu(runner, part) if place % 2 else part for place, part in enumerate(parts)]
        for found in (runner(parts), runner([on_gpu(runner, part) for part in parts]), runner(given)):
            for logits, part in zip(found, parts, strict=True):
                np.testing.assert_allclose(logits, reference(network, part), atol=2e-3)
    assert bool(runner.graph_sizes) is graphs


def test_graphs_do_not_change_the_logits(network, tmp_path):
    with_graphs, without = load(network, tmp_path), load(network, tmp_path, graphs=False)
    for size in [1, 3, MAX_BATCH] * 4:
        pixels = tiny_images(size, size)
        np.testing.assert_allclose(with_graphs([pixels])[0], without([pixels])[0], rtol=1e-6)
    assert with_graphs.graph_sizes == [1, 3, MAX_BATCH]
    assert without.graph_sizes == []
