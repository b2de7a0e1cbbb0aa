"""Checkpoints of Ultralytics' classifiers (`-cls.pt`), which are pickles: read without running what is in them.

A pickle can call any function, and even the classes of these networks run text from their arguments. So nothing in
a file is called: the pickle is read with stand-ins, and the layers are then made of them, each without its
constructor, and only of classes that are layers of PyTorch or of Ultralytics.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jpeg_build.errors import NetworkError
from jpeg_build.networks.checkpoints import Inert, load_inert
from jpeg_build.networks.drafts import Draft
from jpeg_build.networks.network import Weights
from jpeg_build.networks.preparation import Preparation, check_labels, labels_of, refuse_differences
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.quiet import quiet
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import UltralyticsSource

_LAYERS = ("ultralytics.nn.", "torch.nn.modules.")
# What lies beside the layers: settings, transforms, paths, numbers.
_BESIDE = (
    *("torchvision.transforms.", "ultralytics.utils.", "pathlib.", "numpy.", "collections.", "argparse.Namespace"),
    *("builtins.set", "builtins.frozenset", "builtins.slice", "builtins.range", "datetime."),
)

_REMEDY = "export it with Ultralytics itself, yolo export model=FILE format=onnx dynamic=True, if you trust it"

# What Ultralytics validates with, where a checkpoint does not say.
_IMAGE_SIZE = 224


class UltralyticsNetwork(PyTorchNetwork):
    """A classifier of Ultralytics, in evaluation mode, on the CPU.

    Args:
        recipe: Its source is ultralytics.

    Raises:
        NetworkError: The file is no such checkpoint, or it does not fit the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert isinstance(recipe.source, UltralyticsSource)
        file = recipe.source.file
        stored = _stored(file)
        labels = check_labels(recipe, _labels(stored), file.name)
        if not recipe.source.differs_from_weights:
            # The size is free: Ultralytics itself classifies in any, of which the crop is the whole shorter side.
            theirs = _in_size(_preparation(stored), recipe.geometry.crop_size)
            refuse_differences(recipe, theirs.differences(recipe), f"the transforms in {file.name}")
        network = _Logits(_network(stored, file))
        weights = Weights(f"Ultralytics {file.name}", recipe.source.sha256)
        super().__init__(recipe, network, labels=labels, weights=weights, title=str(file))


class _Logits(nn.Module):
    """Returns the logits of a classifier, which returns its probabilities, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        output = self.network(images)
        logits: Tensor = output[1] if isinstance(output, (tuple, list)) else output
        return logits


def draft(file: Path) -> Draft:
    """Return what a checkpoint of a classifier states. Raises NetworkError if it is none."""
    stored = _stored(file)
    prepared, labels = _preparation(stored), _labels(stored)
    return Draft(
        name=re.sub(r"[^a-z0-9_-]+", "_", file.stem.lower()),
        source={"kind": "ultralytics", "file": str(file)},
        classes=None if labels is None else len(labels),
        labels=None if labels is None else "weights",
        geometry=prepared.geometry_table(),
        normalisation=prepared.normalisation_table(),
        notes=["Networks that Ultralytics trained are under the AGPL-3.0, unless you have its Enterprise licence"],
    )


def _stored(file: Path) -> Inert:
    """Read the network of a checkpoint as stand-ins."""
    loaded = load_inert(file, lambda name: name.startswith((*_LAYERS, *_BESIDE)), _REMEDY)
    # The averaged network is the one that a training validates.
    stored = (loaded.get("ema") or loaded.get("model")) if isinstance(loaded, Mapping) else None
    if not isinstance(stored, Inert) or not stored.name.startswith("ultralytics.nn."):
        raise NetworkError(
            f'{file}: is no checkpoint of Ultralytics. For a state dict, take kind = "torchvision", "timm" or "module"',
            reason="invalid_checkpoint",
        )
    if not stored.name.endswith(".ClassificationModel"):
        raise NetworkError(
            f"{file}: is a {stored.name.rpartition('.')[2]}, which does not classify: take a checkpoint whose name "
            "ends in -cls.pt",
            reason="not_a_classifier",
        )
    return stored


def _labels(stored: Inert) -> list[str] | None:
    names = getattr(stored, "names", None)
    return labels_of(dict(enumerate(names)) if isinstance(names, (list, tuple)) else names or {})


def _preparation(stored: Inert) -> Preparation:
    """Return what the checkpoint's transforms do; without any, what Ultralytics does by default."""
    arguments = getattr(stored, "args", None)
    if isinstance(arguments, Inert):
        arguments = vars(arguments)
    size = arguments.get("imgsz") if isinstance(arguments, Mapping) else None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    transforms = getattr(getattr(stored, "transforms", None), "transforms", None)
    steps = {step.name.rpartition(".")[2]: step for step in transforms or () if isinstance(step, Inert)}
    if "CenterCrop" in steps:
        size = getattr(steps["CenterCrop"], "size", size)
    if "Normalize" in steps:
        values = vars(steps["Normalize"])
        mean, std = (tuple(float(v) for v in torch.as_tensor(values[key])) for key in ("mean", "std"))
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    height, width = (side if isinstance(side, int) else _IMAGE_SIZE for side in (sides[0], sides[-1]))
    return _in_size(Preparation(resize_size=height, crop_size=(height, width), mean=mean, std=std), (height, width))


def _in_size(prepared: Preparation, crop_size: tuple[int, int]) -> Preparation:
    """Return the transforms for images of a size, (height, width)."""
    height, width = crop_size
    return replace(prepared, resize_size=height if height == width else crop_size, crop_size=crop_size)


def _network(stored: Inert, file: Path) -> nn.Module:
    """Make the layers of their stand-ins."""
    _import_ultralytics()
    try:
        network: nn.Module = _real(stored, {}).float()
    except (AttributeError, ImportError, TypeError) as error:
        raise NetworkError(
            f"{file}: this version of Ultralytics does not know a part of it ({error}): {_REMEDY}",
            reason="invalid_checkpoint",
        ) from error
    return network.requires_grad_(requires_grad=False)


def _import_ultralytics() -> None:
    """Import its layers so that nothing is written to the user's home, and without a network."""
    before = {key: os.environ.get(key) for key in ("YOLO_CONFIG_DIR", "YOLO_OFFLINE", "YOLO_VERBOSE")}
    load = torch.load
    try:
        # Its import writes settings there, which nothing here reads.
        with tempfile.TemporaryDirectory(prefix="jpeg-build-") as folder, quiet("ultralytics"):
            os.environ |= {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
            importlib.import_module("ultralytics.nn.tasks")
    finally:
        torch.load = load  # Ultralytics replaces it by a function that reads pickles.
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _real(value: Any, made: dict[int, Any]) -> Any:
    """Return a value with real layers in the place of stand-ins; of other stand-ins, None."""
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, Inert):
        layer = None
        if value.name.startswith(_LAYERS):
            layer = made[id(value)] = _layer(value.name)
            layer.__dict__.update({key: _real(inner, made) for key, inner in vars(value).items() if key != "arguments"})
        return layer
    if isinstance(value, dict):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        return kind((key, _real(inner, made)) for key, inner in value.items() if not isinstance(key, Inert))
    if isinstance(value, (list, tuple, set)):
        return type(value)(_real(inner, made) for inner in value)
    # A class in the place of a value would be called, as a hook is.
    return None if isinstance(value, type) else value


def _layer(name: str) -> nn.Module:
    """Make a layer without its constructor."""
    module, _, attribute = name.rpartition(".")
    kind = getattr(importlib.import_module(module), attribute)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"{name} is no layer")
    layer: nn.Module = kind.__new__(kind)
    return layer
