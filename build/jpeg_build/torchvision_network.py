"""Networks of torchvision, with torchvision's weights, a checkpoint, or random weights."""

from __future__ import annotations

import copy
import importlib.metadata
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn
from torchvision.transforms.functional import normalize

from jpeg_build.errors import NetworkError
from jpeg_build.network import Weights
from jpeg_build.pixels_to_logits import PixelsToLogits
from jpeg_build.recipe import Recipe, TorchvisionSource, file_sha256

# The seed of `--weights none`, so that two builds for a benchmark are the same.
SEED = 0

SAVE_HINT = "save one with torch.save(network.state_dict(), FILE)"


class TorchvisionNetwork:
    """A network of torchvision.models, in evaluation mode, on the CPU.

    checkpoint: a file of weights to load instead of torchvision's. random: take random weights.

    Raises NetworkError if the network, its weights or its labels cannot be had.
    """

    rounds_to_half = False

    def __init__(self, recipe: Recipe, *, checkpoint: Path | None = None, random: bool = False) -> None:
        assert isinstance(recipe.source, TorchvisionSource)
        self._recipe, self._source = recipe, recipe.source
        entry = self._weights_entry()
        self.labels: Sequence[str] = recipe.labels or entry.meta["categories"]
        if len(self.labels) != recipe.classes:
            raise NetworkError(
                f"{recipe.path}: classes is {recipe.classes}, but the weights name {len(self.labels)} labels: "
                "give a label file of your own as labels"
            )
        if checkpoint is not None:
            self._network, self.weights = self._from_checkpoint(checkpoint)
        elif random:
            torch.manual_seed(SEED)
            self._network, self.weights = self._untrained(), Weights(f"random, seed {SEED}", None)
        else:
            self._network, self.weights = self._from_torchvision(entry)
        self._network.eval()

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. Normalised by torchvision, not by the wrapper that is being checked."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        normalisation = self._recipe.normalisation
        if normalisation.color == "BGR":
            images = images.flip(1)
        images = normalize(images, list(normalisation.mean), list(normalisation.std))
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._network(images).numpy()
        return logits

    def export_onnx(self, path: Path) -> None:
        """See Network. Through torch.onnx's exporter of torch.export programs, with a dynamic batch."""
        from jpeg_build.onnx_graph import finish  # nothing else here needs the package onnx

        height, width = self._recipe.geometry.crop_size
        # Two images: with one, the exporter would take the batch for a constant.
        example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
        wrapped = self.pixels_to_logits()
        with _quiet_exporter():
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                input_names=["input__0"],
                output_names=["output__0"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
        assert program is not None
        finish(program.model_proto, path)

    @property
    def network(self) -> nn.Module:
        """The network itself, which takes (N, 3, H, W) float32 images, normalised. Not to be changed."""
        return self._network

    def pixels_to_logits(self, *, fp16: bool = False) -> PixelsToLogits:
        """The network with the contract around it; with fp16, a copy of it with float16 weights."""
        network = copy.deepcopy(self._network).half() if fp16 else self._network
        return PixelsToLogits(network, self._recipe.normalisation, fp16=fp16).eval()

    def _weights_entry(self) -> Any:
        try:
            return torchvision.models.get_model_weights(self._source.network)[self._source.weights]
        except KeyError as error:
            raise NetworkError(
                f"{self._recipe.path}: torchvision {torchvision.__version__} has no network "
                f"{self._source.network!r} with weights {self._source.weights!r}"
            ) from error
        except ValueError as error:
            raise NetworkError(
                f"{self._recipe.path}: torchvision {torchvision.__version__} has no network {self._source.network!r}"
            ) from error

    def _untrained(self) -> nn.Module:
        with warnings.catch_warnings():
            # GoogLeNet and Inception warn that their initialisation is slow; that is all that can be said here.
            warnings.simplefilter("ignore", FutureWarning)
            network: nn.Module = torchvision.models.get_model(
                self._source.network, weights=None, num_classes=self._recipe.classes
            )
        return network

    def _from_torchvision(self, entry: Any) -> tuple[nn.Module, Weights]:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        if not cached.is_file() and self._source.package is not None:
            _copy_from_package(self._source.package, cached)
        digest = _check_digest(cached, self._source.sha256)
        try:
            network: nn.Module = torchvision.models.get_model(self._source.network, weights=entry)
        except (URLError, TimeoutError, ConnectionError) as error:  # errors of the network, not of the disk
            raise NetworkError(
                f"the weights {entry} could not be downloaded ({getattr(error, 'reason', error)}): "
                "give a file of weights with --checkpoint FILE, or take random ones with --weights none"
            ) from error
        return network, Weights(f"torchvision {entry}", digest or file_sha256(cached))

    def _from_checkpoint(self, checkpoint: Path) -> tuple[nn.Module, Weights]:
        network = self._untrained()
        try:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise NetworkError(f"{checkpoint}: there is no such file") from error
        except Exception as error:
            # torch's own message advises to load it without weights_only, which would run what is inside.
            raise NetworkError(f"{checkpoint}: is not a file of weights alone: {SAVE_HINT}") from error
        state = _state_dict(loaded)
        if state is None:
            raise NetworkError(f"{checkpoint}: holds no state dict: {SAVE_HINT}")
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            lines = "; ".join(line.strip()[:200] for line in str(error).splitlines()[1:4])
            raise NetworkError(
                f"{checkpoint}: does not fit {self._source.network} with {self._recipe.classes} classes: {lines}"
            ) from error
        return network, Weights(f"checkpoint {checkpoint.name}", file_sha256(checkpoint))


def _state_dict(loaded: object) -> Mapping[str, Any] | None:
    """The state dict in what was saved: itself, or under the usual keys of training scripts."""
    if not isinstance(loaded, Mapping):
        return None
    inner = (loaded[key] for key in ("state_dict", "model", "model_state_dict") if isinstance(loaded.get(key), Mapping))
    state: Mapping[Any, Any] = next(inner, loaded)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        return None
    # DataParallel and DistributedDataParallel put "module." in front of every name.
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _check_digest(cached: Path, stated: str | None) -> str | None:
    """The SHA-256 of a cached file, None if there is none yet. Raises NetworkError if it is damaged or another one.

    torchvision checks what it downloads, by the head of the SHA-256 that is part of the name, but not what lies in
    its cache already.
    """
    if not cached.is_file():
        return None
    found = file_sha256(cached)
    in_name = re.search(r"-([0-9a-f]{8,})\.", cached.name)
    if (stated is not None and found != stated) or (in_name is not None and not found.startswith(in_name[1])):
        raise NetworkError(f"{cached} is damaged or another file (its sha256 differs): delete it")
    return found


def _copy_from_package(package: str, cached: Path) -> None:
    """Put the weights file that an installed package carries where torch.hub would have downloaded it to."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        return  # torchvision downloads it then
    for file in files:
        if file.name == cached.name:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cached.parent) as aside:
                shutil.copyfile(str(file.locate()), Path(aside) / cached.name).replace(cached)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns and logs about its own insides; a build's output is for its user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
