"""The configs of a model repository, as messages of Triton's own model_config.proto."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

KIND_AUTO, KIND_GPU = ModelInstanceGroup.KIND_AUTO, ModelInstanceGroup.KIND_GPU
# The targets whose embedded backend takes tensors from the GPU.
_DEVICE_BACKENDS = {"tensorrt", "torch_tensorrt"}
# Classifiers that are built with TensorRT engines inside, or without.
_ENGINE_OR_PLAIN = {"classifier_torch_tensorrt", "classifier_tf_trt"}

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
_ARTEFACT_PARAMETERS = {"HINT_BF16", "version_compatible"}
# Fields that a recipe decides. All others are the user's once the config exists.
_RECIPE_FIELDS = ("name", "backend", "platform", "input", "output", "model_warmup")

LABELS = "labels.txt"


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


def classifier_config(
    recipe: Recipe,
    target: Target,
    *,
    on_gpu: bool | None = None,
    max_batch: int = MAX_BATCH_SIZE,
    parameters: Mapping[str, str] | None = None,
    engines: Mapping[str, str] | None = None,
) -> ModelConfig:
    """Pixels to logits; the same for every backend but for the name of what runs it.

    on_gpu: whether the artefact needs a GPU; None takes what is usual for the target. max_batch: the largest batch it
    takes. parameters: what the artefact needs. engines: file names by compute capability, where there is one for each.
    """
    config = _model(target.model, backend=target.triton_backend, platform=target.platform)
    config.max_batch_size = max_batch
    pixels = [*recipe.geometry.crop_size, 3]
    _tensor(config.input, INPUT, UINT8, pixels)
    _tensor(config.output, OUTPUT, FP32, [recipe.classes])
    # For clients that ask for the top classes of this tensor: Triton's classification extension.
    config.output[0].label_filename = LABELS
    config.dynamic_batching.SetInParent()
    if target.needs_gpu if on_gpu is None else on_gpu:
        config.instance_group[0].kind = KIND_GPU
    if target.name in _DEVICE_BACKENDS:
        # A tensor that is on the GPU already stays there. The native backends do that without being told.
        config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"
    _parameters(config, parameters or {})
    for capability, file in (engines or {}).items():
        config.cc_model_filenames[capability] = file
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
        raise ValueError(f'model_name: "{chosen}" is not written in one piece')
    return changed


def pinned_version(classifier: ModelConfig) -> int | None:
    """The one version that a classifier's policy names, or None if it serves the newest, or several."""
    versions = classifier.version_policy.specific.versions
    return int(versions[0]) if len(versions) == 1 else None


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
    for field in _RECIPE_FIELDS:
        value = getattr(built, field)
        if isinstance(value, str):
            setattr(merged, field, value)
        elif value:
            merged.ClearField(field)
            getattr(merged, field).extend(value)
    for name in _ARTEFACT_PARAMETERS - set(built.parameters):
        if name in merged.parameters:
            del merged.parameters[name]
    for name, parameter in built.parameters.items():
        if name in _RECIPE_PARAMETERS | _ARTEFACT_PARAMETERS or name not in merged.parameters:
            merged.parameters[name].CopyFrom(parameter)
    _keep_engines(merged, built)
    _keep_instances(merged, built)
    return merged


def _keep_engines(merged: ModelConfig, built: ModelConfig) -> None:
    """Put the engine of this kind of GPU beside those of other kinds; an engine without a kind replaces them all."""
    if not built.cc_model_filenames:
        merged.ClearField("cc_model_filenames")
    for capability, file in built.cc_model_filenames.items():
        merged.cc_model_filenames[capability] = file


def _keep_instances(merged: ModelConfig, built: ModelConfig) -> None:
    """Number and devices of the instances stay the user's, as far as the artefact can run there."""
    if built.instance_group[0].kind == KIND_GPU:
        for group in merged.instance_group:
            if group.kind == KIND_AUTO:
                group.kind = KIND_GPU
        # No batch beyond the engine's profile.
        merged.max_batch_size = min(merged.max_batch_size, built.max_batch_size)
    elif built.name in _ENGINE_OR_PLAIN:
        # There were engines, which needed a GPU, and now there is none.
        for group in merged.instance_group:
            if group.kind == KIND_GPU:
                group.kind = KIND_AUTO


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


def _model(name: str, *, backend: str = "", platform: str = "") -> ModelConfig:
    config = ModelConfig(name=name, backend=backend, platform=platform, max_batch_size=MAX_BATCH_SIZE)
    if platform != "ensemble":
        # One, where Triton's default would be two on a CPU: each instance is a process with threads for all cores.
        config.instance_group.add(count=1)
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
