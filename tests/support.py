"""What several tests need."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT / "photos"

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def copy_committed_repository(target: Path) -> None:
    """Copy the committed files of model_repository/: a working tree may hold built artefacts beside them."""
    listed = subprocess.run(
        ["git", "ls-files", "model_repository"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        copy = target / Path(line).relative_to("model_repository")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / line).read_bytes())


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


@contextmanager
def started(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program; what runs of it and of its children when the block ends is killed.

    Without this, a failing assertion leaves them behind, and their load makes later tests fail, too.
    """
    process = subprocess.Popen([str(part) for part in command], **options)
    family = [psutil.Process(process.pid)]
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            family += family[0].children(recursive=True)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def run_module(module: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE`, which is the console command of that package."""
    return run(sys.executable, "-m", module, *arguments, **options)


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text in a file; it must be there."""
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new))


def copy_classifier(repository: Path, name: str) -> Path:
    """Copy the demo classifier under another name; return its folder."""
    folder = repository / name
    shutil.copytree(repository / "classifier_onnx", folder)
    edit(folder / "config.pbtxt", '"classifier_onnx"', f'"{name}"')
    return folder


def wait_for_batches(model: Path, size: int, *, seconds: int) -> None:
    """Let a model wait until a batch of this size is full, or the time is over."""
    edit(
        model / "config.pbtxt",
        "dynamic_batching {\n",
        f"dynamic_batching {{\n  preferred_batch_size: {size}\n  max_queue_delay_microseconds: {seconds * 1_000_000}\n",
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


TINY_IMAGE, TINY_CLASSES = (32, 32, 3), 5


def tiny_classifier(path: Path) -> None:
    """Write an ONNX classifier of the contract, of TINY_IMAGE and TINY_CLASSES: a convolution, and its mean."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((TINY_CLASSES, 3, 3, 3)).astype(np.float32) / 50
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input__0"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["nchw", "weights"], ["conv"], strides=[2, 2]),
            helper.make_node("Relu", ["conv"], ["relu"]),
            helper.make_node("GlobalAveragePool", ["relu"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["output__0"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("input__0", TensorProto.UINT8, ["batch", *TINY_IMAGE])],
        [helper.make_tensor_value_info("output__0", TensorProto.FLOAT, ["batch", TINY_CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def tiny_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images of noise for `tiny_classifier`: (N, H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *TINY_IMAGE), np.uint8)


def tiny_logits(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The logits that ONNX Runtime computes of an ONNX file, in a session without any option."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(["output__0"], {"input__0": pixels})[0]
        return logits

    return run


def classifier_args(
    folder: Path | str, backend: str, *, gpu: int | None = None, name: str = "classifier", **config: Any
) -> dict[str, str]:
    """What Triton hands to a classifier's `initialize`.

    Args:
        folder: The model's; the artefact lies in its version 1.
        backend: Of the config.
        gpu: Of the instance; None is the CPU.
        name: Of the model.
        config: More fields, or other values of those of `tiny_classifier`.
    """
    usual = {
        "name": name,
        "backend": backend,
        "max_batch_size": 8,
        "input": [{"name": "input__0", "data_type": "TYPE_UINT8", "dims": list(TINY_IMAGE)}],
        "output": [{"name": "output__0", "data_type": "TYPE_FP32", "dims": [TINY_CLASSES]}],
    }
    return {
        "model_config": json.dumps({**usual, **config}),
        "model_name": name,
        "model_repository": str(folder),
        "model_version": "1",
        "model_instance_kind": "CPU" if gpu is None else "GPU",
        "model_instance_device_id": str(gpu or 0),
    }


def as_parameters(texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Parameters as the JSON of a config has them."""
    return {name: {"string_value": text} for name, text in texts.items()}


@contextmanager
def opened(recipe: Any, form: Any, emitted: Any, *, on_cpu: bool = False) -> Iterator[Callable[[Any], Any]]:
    """Open an artefact as a build does to check it: in a process of its own, with the config that serves it.

    Args:
        recipe: Of the network.
        form: ClassifierForm.
        emitted: What its emitter returned.
        on_cpu: Serve it on the CPU where a GPU is optional.
    """
    from jpeg_build.checks.as_served import open_isolated
    from jpeg_build.repository import configs
    from jpeg_build.repository.serving import serving_args
    from jpeg_contract.model_config import KIND_AUTO, KIND_CPU
    from jpeg_contract.report import ConfigSettings

    config = configs.classifier_config(recipe, form)
    name, capability = emitted.artefact.name, emitted.requires.compute_capability
    settings = ConfigSettings(
        on_gpu=bool(capability),
        max_batch=emitted.details.get("profile", {}).get("max"),
        parameters=dict(emitted.parameters),
        engines={capability: name} if capability and name != form.artefact else {},
    )
    configs.apply_settings(config, form.precisions[0], settings)  # metrics show it, and loaders do not read it
    if on_cpu and config.instance_group[0].kind == KIND_AUTO:
        config.instance_group[0].kind = KIND_CPU
    with open_isolated(serving_args(config, emitted.artefact.parent)) as run:
        yield run


def why_no_cupy_gpu(packages: Sequence[str], extras: str) -> str | None:
    """Return what tests that use a GPU through CuPy lack here; None if nothing. extras: of this project."""
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
