"""The configs of a model repository, as messages of Triton's own model_config.proto."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import text_format
from jpeg_preprocess import PostprocessSettings, PreprocessSettings
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from jpeg_build.contract import INPUT, OUTPUT
from jpeg_build.recipe import Recipe
from jpeg_build.targets import Target

ENSEMBLE = "jpeg_classifier"
PREPROCESS = "preprocess"
POSTPROCESS = "postprocess"

MAX_BATCH_SIZE = 64

KIND_AUTO, KIND_CPU, KIND_GPU = (ModelInstanceGroup.Kind.Value(f"KIND_{kind}") for kind in ("AUTO", "CPU", "GPU"))
# The targets whose embedded backend takes tensors from the GPU.
_DEVICE_BACKENDS = {"tensorrt", "torch_tensorrt"}

BYTES, UINT8, FP32, INT32 = "TYPE_STRING", "TYPE_UINT8", "TYPE_FP32", "TYPE_INT32"

# What the ensemble answers: name, type, and length for each image, -1 for k.
ANSWER = (("LABEL", BYTES, -1), ("SCORE", FP32, -1), ("INDEX", INT32, -1), ("ERROR", BYTES, 1))

# Parameters that a recipe decides. All others are the user's, and a rebuild leaves them as they are.
_RECIPE_PARAMETERS = {
    "recipe",
    "recipe_sha256",
    "resize_size",
    "crop_size",
    "interpolation",
    "antialias",
    "exif_orientation",
    "labels_file",
}
# Parameters that an artefact decides, and that go when it does not say them.
_ARTEFACT_PARAMETERS = ("HINT_BF16", "version_compatible")
# Fields that a recipe decides. All others are the user's once the config exists.
_RECIPE_FIELDS = ("name", "backend", "platform", "input", "output", "model_warmup")

LABELS = "labels.txt"


@dataclass(frozen=True)
class ArtefactSettings:
    """What an artefact decides in its classifier's config; its report keeps it, so that going back is exact.

    on_gpu: whether it needs a GPU. max_batch: the largest batch that it takes, None for any. parameters: by the native
    backend's names. engines: file names by compute capability, where there is one for each kind of GPU.
    """

    on_gpu: bool = False
    max_batch: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    engines: Mapping[str, str] = field(default_factory=dict)


def preprocess_config(recipe: Recipe) -> ModelConfig:
    """IMAGE to PIXELS and ERROR."""
    settings = PreprocessSettings(
        recipe.geometry,
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        exif_orientation=recipe.exif_orientation,
    )
    config = _model(PREPROCESS, backend="python")
    _tensor(config.input, "IMAGE", BYTES, [1])
    _tensor(config.output, "PIXELS", UINT8, [*recipe.geometry.crop_size, 3])
    _tensor(config.output, "ERROR", BYTES, [1])
    config.dynamic_batching.SetInParent()
    _parameters(config, settings.to_parameters())
    return config


def postprocess_config(recipe: Recipe) -> ModelConfig:
    """Logits and ERROR to LABEL, SCORE, INDEX and ERROR."""
    settings = PostprocessSettings(recipe=recipe.name, recipe_sha256=recipe.sha256)
    config = _model(POSTPROCESS, backend="python")
    _tensor(config.input, OUTPUT, FP32, [recipe.classes])
    _tensor(config.input, "ERROR", BYTES, [1])
    for name, kind, dims in ANSWER:
        _tensor(config.output, name, kind, [dims])
    config.dynamic_batching.SetInParent()
    _parameters(config, settings.to_parameters())
    return config


def classifier_config(recipe: Recipe, target: Target) -> ModelConfig:
    """Pixels to logits; the same for every backend but for the name of what runs it. See `apply_settings`."""
    config = _model(target.model, backend=target.triton_backend, platform=target.platform, kind=target.instance_kind)
    pixels = [*recipe.geometry.crop_size, 3]
    _tensor(config.input, INPUT, UINT8, pixels)
    _tensor(config.output, OUTPUT, FP32, [recipe.classes])
    # For clients that ask for the top classes of this tensor: Triton's classification extension.
    config.output[0].label_filename = LABELS
    config.dynamic_batching.SetInParent()
    if target.name in _DEVICE_BACKENDS:
        # A tensor that is on the GPU already stays there. The native backends do that without being told.
        config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"
    # Runs the network once before the model counts as ready: the first user does not wait, and what cannot run
    # does not load.
    warmup = config.model_warmup.add(name="one black image", batch_size=1)
    warmup.inputs[INPUT].data_type = _data_type(UINT8)
    warmup.inputs[INPUT].dims.extend(pixels)
    warmup.inputs[INPUT].zero_data = True
    return config


def ensemble_config(classifier: str) -> ModelConfig:
    """The public model; `classifier` is the one word that a swap changes."""
    config = _model(ENSEMBLE, platform="ensemble")
    _tensor(config.input, "IMAGE", BYTES, [1])
    for name, kind, dims in ANSWER:
        _tensor(config.output, name, kind, [dims])
    _step(config, PREPROCESS, {"IMAGE": "IMAGE"}, {"PIXELS": "pixels", "ERROR": "undecodable"})
    _step(config, classifier, {INPUT: "pixels"}, {OUTPUT: "logits"})
    _step(
        config,
        POSTPROCESS,
        {OUTPUT: "logits", "ERROR": "undecodable"},
        {name: name for name, _, _ in ANSWER},
    )
    return config


def chosen_classifier(ensemble: ModelConfig) -> str | None:
    """Name of the model in the ensemble's classifier step, or None if there is no such step."""
    for step in ensemble.ensemble_scheduling.step:
        if OUTPUT in step.output_map:
            return str(step.model_name)
    return None


def choose_classifier(text: str, classifier: str) -> str:
    """The text of an ensemble's config with another classifier; all else, comments too, stays as it is.

    Raises ValueError if there is no classifier step, or its name cannot be found in the text.
    """
    chosen = chosen_classifier(parse(text))
    if chosen is None:
        raise ValueError(f"no step makes {OUTPUT}")
    changed = re.sub(rf"""(model_name\s*:\s*)(["']){re.escape(chosen)}\2""", rf'\1"{classifier}"', text)
    if chosen_classifier(parse(changed)) != classifier:
        raise ValueError(f'model_name: "{chosen}" does not stand there as one word behind its key')
    return changed


def pinned_version(classifier: ModelConfig) -> int | None:
    """The version that the ensemble gets, where the policy names versions: the newest of them; else None.

    The ensemble asks for version -1, which Triton takes for the newest of those that it serves.
    """
    versions = classifier.version_policy.specific.versions
    return int(max(versions)) if versions else None


def pin_version(classifier: ModelConfig, version: int | None) -> ModelConfig:
    """The config with a policy that serves this version; None serves the newest."""
    pinned = ModelConfig()
    pinned.CopyFrom(classifier)
    pinned.ClearField("version_policy")
    if version is not None:
        pinned.version_policy.specific.versions.append(version)
    return pinned


def keep_users_choices(built: ModelConfig, existing: ModelConfig) -> ModelConfig:
    """`existing`, with what the recipe decides taken from `built`: tensors, geometry, labels, the warm-up image.

    No recipe decides anything about the ensemble: it stays as it is.
    """
    merged = ModelConfig()
    merged.CopyFrom(existing)
    if built.platform == "ensemble":
        return merged
    for name in _RECIPE_FIELDS:
        value = getattr(built, name)
        if isinstance(value, str):
            setattr(merged, name, value)
        elif value:
            merged.ClearField(name)
            getattr(merged, name).extend(value)
    for name, parameter in built.parameters.items():
        if name in _RECIPE_PARAMETERS or name not in merged.parameters:
            merged.parameters[name].CopyFrom(parameter)
    return merged


def apply_settings(config: ModelConfig, settings: ArtefactSettings, before: ArtefactSettings | None = None) -> None:
    """Put what an artefact decides into its classifier's config; number and devices of instances stay the user's.

    before: of the artefact that the config was for until now. max_batch_size follows the engine if it did before, and
    is never more than the engine takes: a smaller number is the user's.
    """
    for name in _ARTEFACT_PARAMETERS:
        if name in config.parameters:
            del config.parameters[name]
    _parameters(config, settings.parameters)
    # The engine of one kind of GPU lies beside those of other kinds; an engine without a kind replaces them all.
    if not settings.engines:
        config.ClearField("cc_model_filenames")
    for capability, file in settings.engines.items():
        config.cc_model_filenames[capability] = file
    for group in config.instance_group:
        if settings.on_gpu and group.kind == KIND_AUTO:
            group.kind = KIND_GPU
        elif not settings.on_gpu and before is not None and before.on_gpu and group.kind == KIND_GPU:
            # There were engines, which needed a GPU, and now there is none.
            group.kind = KIND_AUTO
    followed = MAX_BATCH_SIZE if before is None or before.max_batch is None else before.max_batch
    if config.max_batch_size == followed:
        config.max_batch_size = settings.max_batch or MAX_BATCH_SIZE
    elif settings.max_batch is not None:
        config.max_batch_size = min(config.max_batch_size, settings.max_batch)


def parse(text: str) -> ModelConfig:
    """A config from its text. Raises google.protobuf.text_format.ParseError, with line and column."""
    return text_format.Parse(text, ModelConfig())


def to_text(config: ModelConfig) -> str:
    """A config as the text of a config.pbtxt, with a head that says where it comes from."""
    body = text_format.MessageToString(config, use_short_repeated_primitives=True)
    if config.name == ENSEMBLE:
        chosen = f'model_name: "{chosen_classifier(config)}"'
        body = body.replace(chosen, f"{chosen}  # <- swap the classifier by editing this word")
        return f"# Written by jpeg-build once, and yours from then on: a rebuild leaves it as it is.\n{body}"
    return (
        "# Written by jpeg-build. Tensors, geometry and labels are the recipe's. All else is yours to edit: a rebuild\n"
        f"# keeps it.\n{body}"
    )


def _model(name: str, *, backend: str = "", platform: str = "", kind: str = "CPU") -> ModelConfig:
    config = ModelConfig(name=name, backend=backend, platform=platform, max_batch_size=MAX_BATCH_SIZE)
    if platform != "ensemble":
        # One, where Triton's default would be two on a CPU: each instance is a process with threads for all cores. With
        # KIND_AUTO, there would be one for each GPU of the machine.
        config.instance_group.add(count=1, kind=ModelInstanceGroup.Kind.Value(f"KIND_{kind}"))
    return config


def _data_type(name: str) -> int:
    return int(model_config_pb2.DataType.Value(name))


def _tensor(tensors: Any, name: str, data_type: str, dims: list[int]) -> None:
    tensors.add(name=name, data_type=_data_type(data_type), dims=dims)


def _parameters(config: ModelConfig, parameters: Mapping[str, str]) -> None:
    for name, value in parameters.items():
        config.parameters[name].string_value = value


def _step(config: ModelConfig, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    for key, value in inputs.items():
        step.input_map[key] = value
    for key, value in outputs.items():
        step.output_map[key] = value
