"""Image classifiers of Hugging Face: a folder, or a name on the hub; of transformers, or of timm.

Weights are read from safetensors alone, which hold no code, and code that lies beside them is not run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.geometry import Interpolation
from jpeg_contract.settings import Head
from jpeg_preprocess import resize_and_crop
from PIL import Image
from torch import Tensor, nn

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.networks import timm_network
from jpeg_build.networks.checkpoints import load_checkpoint
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.networks.network import Weights
from jpeg_build.networks.preparation import Preparation, check_labels, labels_of, refuse_differences
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.networks.reference import normalise
from jpeg_build.quiet import quiet
from jpeg_build.recipe.pointers import refuse_pointer
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import HuggingFaceSource

# What a download takes: no code, and no pickles.
_PATTERNS = ["config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"]

_LOGGERS = ("transformers", "huggingface_hub", "timm")

# Pillow's numbers of its filters, which `resample` is.
_INTERPOLATIONS: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}

# From this size on, ConvNext's processor resizes the whole image to a square.
_CONVNEXT_WARPS = 384

# Mean difference of normalised values, relative to their spread, that rounding and Pillow's own filters can make.
_TOLERANCE = 0.03

SAVE_HINT = "save them with AutoModelForImageClassification.from_pretrained(FOLDER).save_pretrained(FOLDER)"


class HuggingFaceNetwork(PyTorchNetwork):
    """An image classifier of Hugging Face, in evaluation mode, on the CPU.

    Args:
        recipe: Its source is hugging_face.

    Raises:
        NetworkError: The network or its weights are not available, or do not fit the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert isinstance(recipe.source, HuggingFaceSource)
        source = recipe.source
        folder = source.folder or _downloaded(str(source.network), source.revision)
        title = str(source.folder or source.network)
        config = _read(folder / "config.json")
        labels = check_labels(recipe, _labels(config), f"the config.json of {title}")
        classes = _classes(config)
        if classes not in (None, recipe.classes):
            raise NetworkError(
                f"{recipe.locate('', 'classes')}: is {recipe.classes}, but {title} has {classes} classes: set "
                f'classes = {classes} and labels = "weights", or give a label file with {classes} lines',
                reason="classes_differ",
            )
        if not source.differs_from_weights:
            differences = _head_differences(recipe, config)
            prepared = preparation(folder, config)[0]
            if prepared is not None:
                differences += prepared.differences(recipe)
            refuse_differences(recipe, differences, f"{title}'s own configuration")
        network = _load_timm(recipe, folder, config, title) if _is_timm(config) else _Logits(_load(folder, title))
        weights = Weights(f"Hugging Face {source.network or folder.name}", source.sha256 or artefact_sha256(folder))
        super().__init__(recipe, network, labels=labels, weights=weights, title=title)


class _Logits(nn.Module):
    """Returns the logits of a network of transformers alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        logits: Tensor = self.network(pixel_values=images, return_dict=True).logits
        return logits


def draft(folder: Path | None, network: str | None, revision: str | None = None) -> Draft:
    """Return what the files of a network state.

    Args:
        folder: With config.json; None for a network on the hub.
        network: Name on the hub; None for a folder.
        revision: Of the hub: a commit, tag or branch; None takes the main one.

    Raises:
        NetworkError: There is no such network.
    """
    found = folder if folder is not None else _downloaded(str(network), revision)
    config = _read(found / "config.json")
    prepared, notes = preparation(found, config)
    name = found.resolve().name if folder is not None else str(network).rpartition("/")[2]
    output: Head = "sigmoid" if config.get("problem_type") == "multi_label_classification" else "softmax"
    return Draft(
        name=re.sub(r"[^a-z0-9_-]+", "_", name.lower()),
        source={"kind": "hugging_face", **({"folder": str(folder)} if folder is not None else {"network": network})},
        classes=_classes(config),
        labels=None if _labels(config) is None else "weights",
        output=output,
        geometry=None if prepared is None else prepared.geometry_table(),
        normalisation=None if prepared is None else prepared.normalisation_table(),
        notes=notes,
    )


def preparation(folder: Path, config: Mapping[str, Any]) -> tuple[Preparation | None, list[str]]:
    """Return what a network's processor does to images, and notes for the user.

    None for a processor that does something else than a recipe can state: what is derived is compared with what the
    processor makes of an image.
    """
    if _is_timm(config):
        return timm_network.preparation(config.get("pretrained_cfg") or {}), []
    if not (folder / "preprocessor_config.json").is_file():
        missing = f"{folder} has no preprocessor_config.json, which states geometry and normalisation"
        return None, [_open(missing, config)]
    import transformers

    auto: Any = transformers.AutoImageProcessor
    unknown = "its processor {} does what a recipe cannot state: write geometry and normalisation yourself"
    try:
        with quiet(*_LOGGERS):
            processor = auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            values = processor.to_dict()
        name = str(values.get("image_processor_type") or type(processor).__name__)
        prepared = _of_processor(re.sub(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$", "", name), values)
    except Exception as error:  # transformers, its processors and their values
        first = first_line(error, 200)
        return None, [
            _open(
                f"preprocessor_config.json is not understood ({first}): write geometry and normalisation yourself",
                config,
            )
        ]
    if prepared is None or not _agrees(processor, prepared):
        return None, [_open(unknown.format(type(processor).__name__), config)]
    return prepared, []


def _open(text: str, config: Mapping[str, Any]) -> Hint:
    """Return a note on geometry and normalisation that the user must state, with what the configuration shows."""
    size = config.get("image_size")
    shown = f"; config.json has image_size = {json.dumps(size)}" if size else ""
    return Hint(f"{text}{shown}", "resize_size|crop_percent", "scale|mean")


def _of_processor(name: str, values: Mapping[str, Any]) -> Preparation | None:
    """Derive the preparation from a processor's attributes.

    Args:
        name: Of its class, without "ImageProcessor".
        values: Its attributes.
    """
    if not values.get("do_resize", True) or values.get("do_pad"):
        return None
    size, crop = dict(values["size"] or {}), dict(values.get("crop_size") or {})
    edge = size.get("shortest_edge")
    if size.get("longest_edge") or size.get("max_height"):
        return None
    resize: int | tuple[int, int] = int(edge) if edge else (int(size["height"]), int(size["width"]))
    crop_size: tuple[int, int] | None = None
    if name == "ConvNext" and edge:
        side = int(edge)
        warps = side >= _CONVNEXT_WARPS
        resize, crop_size = (side, side) if warps else int(side / values["crop_pct"]), (side, side)
    elif name == "PoolFormer" and values.get("crop_pct"):
        resize = int((edge or size["height"]) / values["crop_pct"])
    elif name == "Levit" and edge:
        resize = int((256 / 224) * edge)
    if values.get("do_center_crop") and crop_size is None:
        crop_size = (int(crop["height"]), int(crop["width"]))
    if crop_size is None:
        crop_size = resize if isinstance(resize, tuple) else (resize, resize)
    least = (resize, resize) if isinstance(resize, int) else resize
    mean, std = _normalisation(name, values)
    return Preparation(
        resize_size=resize,
        crop_size=crop_size,
        mean=mean,
        std=std,
        interpolation=_INTERPOLATIONS[int(values["resample"])],
        fill=(0, 0, 0) if crop_size[0] > least[0] or crop_size[1] > least[1] else None,
        # Of an image that is resized to the size of the crop, nothing is left out.
        crop_rounding="even" if resize == crop_size else "down",
        color="BGR" if values.get("do_flip_channel_order") else "RGB",
    )


def _normalisation(name: str, values: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for pixels in [0, 1], of `(pixel * factor - offset - mean) / std`."""
    factor = float(values["rescale_factor"]) if values.get("do_rescale") else 1.0
    offset = 1.0 if values.get("do_rescale") and values.get("rescale_offset") else 0.0
    mean, std = np.zeros(3), np.ones(3)
    if values.get("do_normalize"):
        mean = np.broadcast_to(np.array(values["image_mean"], float), 3)
        std = np.broadcast_to(np.array(values["image_std"], float), 3)
    # EfficientNet's divides by it once more, for networks that classify.
    divisor = std * np.broadcast_to(np.array(values["image_std"], float), 3) if _divides_twice(name, values) else std
    scale = 255 * factor
    return tuple(((mean + offset) / scale).tolist()), tuple((divisor / scale).tolist())


def _divides_twice(name: str, values: Mapping[str, Any]) -> bool:
    return name == "EfficientNet" and bool(values.get("include_top"))


def _agrees(processor: Any, prepared: Preparation) -> bool:
    """Whether a processor makes of an image what a recipe with this preparation makes of it."""
    rows, columns = np.mgrid[0:450, 0:600]
    waves = [128 + 100 * np.sin(rows / (31 + 9 * each)) * np.cos(columns / (47 - 8 * each)) for each in range(3)]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    try:
        with quiet(*_LOGGERS):
            theirs = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0], np.float64)
    except Exception:  # Of a processor that needs more than an image, or makes something else.
        return False
    pixels = resize_and_crop(prepared.geometry, image)
    ours = normalise(pixels[None], prepared.normalisation)[0].transpose(2, 0, 1)
    return theirs.shape == ours.shape and float(np.abs(theirs - ours).mean()) < _TOLERANCE * float(ours.std())


def _head_differences(recipe: Recipe, config: Mapping[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """Compare the head, where the configuration states it."""
    heads = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax"}
    theirs = heads.get(str(config.get("problem_type")), recipe.output)
    return [("", "output", recipe.output, theirs)] if theirs != recipe.output else []


def _downloaded(network: str, revision: str | None) -> Path:
    """Return the folder in the hub's cache, with the files that are needed. $HF_HUB_OFFLINE allows no download."""
    from huggingface_hub import snapshot_download

    try:
        with quiet(*_LOGGERS):
            found = snapshot_download(network, revision=revision, allow_patterns=_PATTERNS)
    except Exception as error:  # Of the hub, of the HTTP client and of the disk.
        first = first_line(error, 200)
        at, option = ("", "") if revision is None else (f" in revision {revision}", f" --revision {revision}")
        raise NetworkError(
            f"{network}{at} is no folder here, and could not be downloaded from the Hugging Face hub ({first}): "
            "correct the path, or download it where there is "
            f"a network, with `hf download {network}{option} --local-dir FOLDER`, and name that folder in [source] "
            "folder",
            reason="weights_not_downloaded",
        ) from error
    return Path(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NetworkError(f"{path}: cannot be read as JSON: {error}", reason="network_not_found") from error
    if not isinstance(values, dict):
        raise NetworkError(f"{path}: holds no JSON object", reason="network_not_found")
    return values


def _is_timm(config: Mapping[str, Any]) -> bool:
    return "architecture" in config and "pretrained_cfg" in config


def _labels(config: Mapping[str, Any]) -> list[str] | None:
    if _is_timm(config):
        return timm_network.labels_in({**(config.get("pretrained_cfg") or {}), **config})
    labels = labels_of(config.get("id2label") or {})
    # transformers writes these names itself where a training gave none.
    return None if labels is None or labels == [f"LABEL_{number}" for number in range(len(labels))] else labels


def _classes(config: Mapping[str, Any]) -> int | None:
    if _is_timm(config):
        return config.get("num_classes")
    # transformers leaves them out where there are two.
    return len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)


def _load_timm(recipe: Recipe, folder: Path, config: Mapping[str, Any], title: str) -> nn.Module:
    """Load what `timm.models.save_for_hf` wrote, with timm alone."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise _no_safetensors(folder)
    options: dict[str, Any] = dict(config.get("model_args") or {})
    options |= {"num_classes": recipe.classes, "pretrained": False}
    if recipe.normalisation.channels == 1:
        options["in_chans"] = 1
    if ":" in str(config["architecture"]):
        raise NetworkError(
            f"{folder / 'config.json'}: architecture is no name of timm's: {config['architecture']}",
            reason="unknown_network",
        )
    network = timm_network.create(str(config["architecture"]), f"{folder / 'config.json'}: architecture", **options)
    load_checkpoint(recipe, network, weights, title, "Is config.json that of these weights?")
    return network


def _load(folder: Path, title: str) -> nn.Module:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise _no_safetensors(folder)
    for file in files:
        _refuse_damaged(file)
    from transformers import AutoModelForImageClassification

    try:
        with quiet(*_LOGGERS), _without_bars():
            network, found = AutoModelForImageClassification.from_pretrained(  # nosec B615  # a folder of this machine
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                # They are refused below, with their shapes.
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # transformers has no exceptions of its own
        first = first_line(error)
        code = "trust_remote_code" in str(error)
        remedy = (
            ': it needs code that lies beside the weights, which is not run. Load it yourself, and use kind = "module"'
            if code
            else ". Is it a classifier of images?"
        )
        raise NetworkError(
            f"{title}: transformers cannot load it: {first}{remedy}",
            reason="untrusted_code" if code else "network_failed",
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise NetworkError(
            f"{title}: its weights lack {', '.join(missing[:4])}, which would be random. A network without its "
            "classifying layer does not classify",
            reason="checkpoint_differs",
        )
    if mismatched := sorted(found["mismatched_keys"], key=str, reverse=True):
        name, theirs, ours = mismatched[0]
        raise NetworkError(
            f"{title}: its weights do not fit its config.json: {name} has the shape {[*theirs]}, and config.json makes "
            f"it {[*ours]}. Has id2label a name for each class?",
            reason="checkpoint_differs",
        )
    loaded: nn.Module = network.float()  # Weights may lie there in float16.
    return loaded


def _refuse_damaged(file: Path) -> None:
    """Raise NetworkError if a file of safetensors cannot be read to its end."""
    from safetensors import SafetensorError, safe_open

    refuse_pointer(file)
    try:
        with safe_open(str(file), "pt"):
            pass
    except SafetensorError as error:
        raise NetworkError(
            f"{file}: is damaged ({first_line(error)}): copy it again", reason="invalid_checkpoint"
        ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers."""
    import transformers

    logging: Any = transformers.utils.logging
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _no_safetensors(folder: Path) -> NetworkError:
    return NetworkError(
        f"{folder}: has no model.safetensors; other files of weights may hold code, and are not read: {SAVE_HINT}",
        reason="no_safetensors",
    )
