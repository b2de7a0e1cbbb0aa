"""What several tests need."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT / "photos"

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def encode(image: Image.Image, **options: Any) -> bytes:
    """An image as JPEG bytes."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", **{"quality": 95, **options})
    return stream.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image in which every pixel differs from its neighbours."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def photo(name: str) -> bytes:
    """The bytes of a photo in photos/."""
    return next(PHOTOS.rglob(f"{name}.jpg")).read_bytes()


def reference_pixels(
    image: Image.Image,
    resize_size: int | tuple[int, int] = 256,
    crop_size: tuple[int, int] = (224, 224),
    interpolation: str = "bilinear",
) -> NDArray[np.uint8]:
    """torchvision's reference transform on a PIL image, up to the pixels: HWC uint8."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F  # noqa: N812

    size = [resize_size] if isinstance(resize_size, int) else list(resize_size)
    resized = F.resize(image, size, InterpolationMode(interpolation), antialias=True)
    return np.asarray(F.center_crop(resized, list(crop_size)))


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; stdout and stderr apart."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def run_module(module: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE`, which is the console command of that package."""
    return run(sys.executable, "-m", module, *arguments, **options)


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text in a file; it must be there."""
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new))


def wait_for_batches(model: Path, size: int, *, seconds: int) -> None:
    """Let a model wait until a batch of this size is full, or the time is over."""
    edit(
        model / "config.pbtxt",
        "dynamic_batching {\n}",
        f"dynamic_batching {{\n  preferred_batch_size: {size}\n"
        f"  max_queue_delay_microseconds: {seconds * 1_000_000}\n}}",
    )


SMALL_RECIPE = """\
classes = 3
labels = "small.txt"

[geometry]
resize_size = 32
crop_size = 32

[normalisation]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[source]
kind = "onnx"
file = "small.onnx"
output = "logits"
"""


def small_network(folder: Path) -> None:
    """Write small.onnx and small.txt for SMALL_RECIPE: one convolution, ReLU, a mean, three classes; quick to build."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(7)
    weights = {
        "kernels": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "matrix": random.normal(0, 2, (8, 3)).astype(np.float32),
        "bias": np.array([0.5, -0.25, 0.125], np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernels"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "small.onnx"
    )
    (folder / "small.txt").write_text("one\ntwo\nthree\n")


def why_no_cupy_gpu(packages: Sequence[str], extras: str) -> str | None:
    """What tests need that run on a GPU by CuPy, and is not here; None if all of it is. extras: of this project."""
    for package in packages:
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:  # of the package that it lies in
            found = None
        if found is None:
            return f"needs the package {package}: pip install -e '.[{extras}]'"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"needs an NVIDIA GPU: {error}"
    return None if count else "needs an NVIDIA GPU: the driver finds none"
