"""Networks of timm, with timm's weights, a checkpoint, or random weights."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from jpeg_contract.geometry import Rgb
from torch import nn

from jpeg_build.errors import BuildError, NetworkError, first_line
from jpeg_build.networks.checkpoints import load_checkpoint, read_state_dict, state_sha256, weights_only
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.networks.network import Weights
from jpeg_build.networks.preparation import Preparation, check_labels, refuse_differences
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.quiet import quiet
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import TimmSource

# Some of its functions are typed in some versions of timm.
_DATA: Any = timm.data

# The seed of `--weights none`: two builds for a benchmark are the same.
SEED = 0

ASSUMED = (
    "Geometry and normalisation are those of {network} in timm: if the network was trained with others, write those"
)


class TimmNetwork(PyTorchNetwork):
    """A network of timm, in evaluation mode, on the CPU.

    Args:
        recipe: Its source is timm.
        checkpoint: A file of weights to load instead of the recipe's, or of timm's.
        random: Use random weights.

    Raises:
        NetworkError: The network, its weights or its labels are not available, or do not fit the recipe.
    """

    def __init__(self, recipe: Recipe, *, checkpoint: Path | None = None, random: bool = False) -> None:
        assert isinstance(recipe.source, TimmSource)
        self._recipe, self._source = recipe, recipe.source
        config = _config(self._source.network, recipe.locate("source", "network"))
        labels = check_labels(recipe, labels_in(config), f"timm's {self._source.network}")
        checkpoint = checkpoint or self._source.checkpoint
        torch.manual_seed(SEED)
        if random:
            network, weights = self._create(config), Weights(f"random, seed {SEED}", None)
        elif checkpoint is not None:
            # Whoever fine-tuned it may have prepared images in another way than timm.
            network, hint = self._create(config), "Is [source] network right?"
            weights = load_checkpoint(recipe, network, checkpoint, self._source.network, hint)
        else:
            network = self._pretrained(config)
            weights = Weights(f"timm {self._source.network}", state_sha256(network))
        super().__init__(recipe, network, labels=labels, weights=weights, title=f"timm {self._source.network}")

    def _create(self, config: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
        options: dict[str, Any] = {}
        crop = self._recipe.geometry.crop_size
        if config.get("fixed_input_size") and tuple(config["input_size"][1:]) != crop:
            options["img_size"] = crop  # Position embeddings are resampled.
        if self._recipe.normalisation.channels == 1:
            options["in_chans"] = 1
        return create(
            self._source.network,
            self._recipe.locate("source", "network"),
            num_classes=self._recipe.classes,
            pretrained=pretrained,
            **options,
        )

    def _pretrained(self, config: Mapping[str, Any]) -> nn.Module:
        source = self._source
        has, wants = config.get("num_classes"), self._recipe.classes
        if has != wants:
            raise NetworkError(
                f"{self._recipe.locate('', 'classes')}: is {wants}, but timm's weights of {source.network} have {has} "
                f"classes: set classes = {has}, or name your fine-tuned weights in [source] checkpoint",
                reason="classes_differ",
            )
        if not source.differs_from_weights:
            differences = preparation(config).differences(self._recipe)
            refuse_differences(self._recipe, differences, f"timm's configuration of {source.network}")
        return self._create(config, pretrained=True)


def create(network: str, location: str, **options: Any) -> nn.Module:
    """Make a network of timm.

    Args:
        network: Its name.
        location: Where it is written, for messages.
        **options: For `timm.create_model`.

    Raises:
        NetworkError: timm cannot make it, or its weights cannot be downloaded.
    """
    if network.startswith("local-dir:"):
        raise NetworkError(
            f'{location}: names a folder: use kind = "hugging_face" with folder = '
            f'"{network.removeprefix("local-dir:")}"',
            reason="unknown_network",
        )
    try:
        with quiet("timm", "huggingface_hub"), weights_only():
            made: nn.Module = timm.create_model(network, **options)
    except RuntimeError as error:
        if not str(error).startswith(("Unknown model", "Invalid pretrained tag")):
            raise _unavailable(network, error) if options.get("pretrained") else error from error
        known = {*timm.list_models(), *timm.list_pretrained()}
        near = difflib.get_close_matches(network, known, n=1)
        raise NetworkError(
            f"{location}: timm {timm.__version__} has no network {network!r}"
            f"{f'; did you mean {near[0]}?' if near else ''}",
            reason="unknown_network",
        ) from error
    except (TypeError, ValueError, AssertionError) as error:
        raise NetworkError(
            f"{location}: timm cannot make {network} for this recipe: {first_line(error, 200)}. Are crop_size and "
            "[normalisation] color those of the training?",
            reason="network_failed",
        ) from error
    except Exception as error:  # Of the hub, of the HTTP client and of the disk.
        raise _unavailable(network, error) from error
    return made


def labels_in(config: Mapping[str, Any]) -> list[str] | None:
    """Return the labels of a network by its timm configuration; None if it does not name them."""
    names = config.get("label_names")
    if names:
        descriptions = config.get("label_descriptions") or {}
        return [str(descriptions.get(name, name)) for name in names]
    # timm's networks of these numbers of classes are all trained on that part of ImageNet.
    subset = _DATA.infer_imagenet_subset(dict(config))
    return None if subset is None else list(_DATA.ImageNetInfo(subset).label_descriptions())


def preparation(config: Mapping[str, Any]) -> Preparation:
    """Return what timm does to images in an evaluation, by a network's configuration."""
    data = _DATA.resolve_data_config(pretrained_cfg=dict(config))
    crop = (int(data["input_size"][1]), int(data["input_size"][2]))
    height, width = (math.floor(size / data["crop_pct"]) for size in crop)
    mean = tuple(float(value) for value in data["mean"])
    red, green, blue = (round(255 * value) for value in (mean * 3)[:3])
    fill: Rgb = (red, green, blue)
    # Of a border, timm takes both sides for the box that the image fits into.
    border, exact = data["crop_mode"] == "border", data["crop_mode"] == "squash" or height != width
    return Preparation(
        resize_size=(height, width) if exact else height,
        crop_size=crop,
        mean=mean,
        std=tuple(float(value) for value in data["std"]),
        interpolation=data["interpolation"],
        resize_side="longer" if border else "shorter",
        fill=fill if border else None,
    )


def draft(network: str, checkpoint: Path | None) -> Draft:
    """Return what timm knows of a network.

    Args:
        network: Name for `timm.create_model`.
        checkpoint: Its fine-tuned weights; None for timm's own.

    Raises:
        NetworkError: timm has no such network, or the checkpoint no state dict.
    """
    config = _config(network, "[source] network")
    prepared = preparation(config)
    classes, labels, notes = config.get("num_classes"), labels_in(config), []
    source: dict[str, Any] = {"kind": "timm", "network": network}
    if checkpoint is not None:
        source["checkpoint"] = str(checkpoint)
        found = _classes_in(read_state_dict(checkpoint)[0], config.get("classifier"))
        # A name without a tag stands for the weights that timm takes by default.
        exact = ".".join(str(config[key]) for key in ("architecture", "tag") if config.get(key)) or network
        notes.append(Hint(ASSUMED.format(network=exact), "resize_size|crop_percent", "scale|mean"))
        if found != classes:
            classes, labels = found, None
    return Draft(
        name=re.sub(r"[^a-z0-9_-]+", "_", (checkpoint.stem if checkpoint else network).lower()),
        source=source,
        classes=classes,
        labels=None if labels is None else "weights",
        geometry=prepared.geometry_table(),
        normalisation=prepared.normalisation_table(),
        notes=notes,
    )


def _config(network: str, location: str) -> dict[str, Any]:
    """Return timm's configuration of a network."""
    if ":" not in network:
        try:
            found: Any = timm.models.get_pretrained_cfg(network)
        except RuntimeError:
            found = None  # Making it reports the fault.
        if found is not None:
            return dict(found.to_dict())
    return dict(create(network, location, pretrained=False).pretrained_cfg)  # type: ignore[arg-type] # timm adds it


def _classes_in(state: Mapping[str, Any], classifier: Any) -> int | None:
    """Return the number of classes by the classifying layer of a state dict."""
    layers: Sequence[str] = [classifier] if isinstance(classifier, str) else classifier or []
    found = [value.shape[0] for layer in layers for name, value in state.items() if name.endswith(f"{layer}.weight")]
    return int(found[0]) if found else None


def _unavailable(network: str, error: Exception) -> BuildError:
    return NetworkError(
        f"the weights of timm's {network} could not be downloaded ({first_line(error, 200)}): download them where "
        "there is a network, with timm.create_model(NAME, pretrained=True), and copy its cache ($HF_HOME); or give a "
        "file of weights in [source] checkpoint or with --checkpoint FILE, or use random ones with --weights none",
        reason="weights_not_downloaded",
    )
