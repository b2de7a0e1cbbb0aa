"""The configs that a build writes: what the recipe and the artefact decide, merged with the user's edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from jpeg_contract.forms import ClassifierForm, form_of_model
from jpeg_contract.model_config import (
    KIND_AUTO,
    KIND_GPU,
    PRECISION_TAG,
    ModelConfig,
    ModelInstanceGroup,
    chosen_classifier,
    data_type,
    set_parameters,
)
from jpeg_contract.model_names import ModelNames, is_postprocess, is_preprocess
from jpeg_contract.report import ConfigSettings
from jpeg_contract.routes import Route
from jpeg_contract.settings import PostprocessSettings, PreprocessSettings
from jpeg_contract.tensors import (
    CHECKSUM,
    CHECKSUMS_KEY,
    DECODE_ERRORS_KEY,
    ERROR,
    IMAGE,
    INPUT,
    LABELS_FILE,
    LOGITS_KEY,
    MAX_BATCH_SIZE,
    OUTPUT,
    PIXELS,
    PIXELS_KEY,
    POSTPROCESS,
    PREPROCESS,
    RESPONSE_TENSORS,
    STAMP_LENGTH,
    DataType,
    member_tensor,
)

from jpeg_build.recipe.recipe import Recipe

DEFAULT_NAMES = ModelNames()

_FORMAT_NHWC = "FORMAT_NHWC"

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
    "resize_side",
    "fill",
    "crop_rounding",
    "formats",
    "background",
    "output",
    "threshold",
}
# Fields that a recipe decides. All others are the user's once the config exists.
_RECIPE_FIELDS = ("name", "backend", "platform", "input", "output", "model_warmup")


def preprocess_settings(recipe: Recipe) -> PreprocessSettings:
    """Return the settings that a recipe needs to decode; the rest as the defaults are."""
    return PreprocessSettings(
        recipe.geometry,
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        exif_orientation=recipe.exif_orientation,
        formats=recipe.formats,
        background=recipe.background,
    )


def preprocess_config(recipe: Recipe, name: str = PREPROCESS) -> ModelConfig:
    """Return the config of `preprocess`: IMAGE to PIXELS, ERROR and CHECKSUM."""
    # Of two, one is always free of large requests, so that small ones pass them.
    config = _model(name, backend="python", instances=2)
    _tensor(config.input, IMAGE, "TYPE_STRING", [1])
    _tensor(config.output, PIXELS, "TYPE_UINT8", [*recipe.geometry.crop_size, 3])
    _tensor(config.output, ERROR, "TYPE_STRING", [1])
    _tensor(config.output, CHECKSUM, "TYPE_UINT32", [STAMP_LENGTH])
    config.dynamic_batching.SetInParent()
    set_parameters(config, preprocess_settings(recipe).to_parameters())
    return config


def postprocess_settings(recipe: Recipe) -> PostprocessSettings:
    """Return the settings that a recipe needs to label; the rest as the defaults are."""
    return PostprocessSettings(
        recipe=recipe.name, recipe_sha256=recipe.sha256, output=recipe.output, threshold=recipe.threshold
    )


def postprocess_config(recipe: Recipe, name: str = POSTPROCESS) -> ModelConfig:
    """Return the config of `postprocess`: logits, ERROR and CHECKSUM to the tensors of the response."""
    config = _model(name, backend="python")
    _tensor(config.input, OUTPUT, "TYPE_FP32", [recipe.classes])
    _tensor(config.input, ERROR, "TYPE_STRING", [1])
    _tensor(config.input, CHECKSUM, "TYPE_UINT32", [STAMP_LENGTH])
    for tensor in RESPONSE_TENSORS:
        _tensor(config.output, tensor.name, tensor.data_type, [tensor.length])
    config.dynamic_batching.SetInParent()
    set_parameters(config, postprocess_settings(recipe).to_parameters())
    return config


def classifier_config(recipe: Recipe, form: ClassifierForm) -> ModelConfig:
    """Return the config of a classifier, pixels to logits; only its backend differs between forms."""
    config = _model(form.model, backend=form.backend, platform=form.platform, kind=form.instance_kind)
    pixels = [*recipe.geometry.crop_size, 3]
    _tensor(config.input, INPUT, "TYPE_UINT8", pixels)
    # NVIDIA's example clients read height and width from it.
    config.input[0].format = type(config.input[0]).Format.Value(_FORMAT_NHWC)
    _tensor(config.output, OUTPUT, "TYPE_FP32", [recipe.classes])
    # For clients that request the top classes of this tensor: Triton's classification extension.
    config.output[0].label_filename = LABELS_FILE
    config.dynamic_batching.SetInParent()
    if form.takes_device_tensors:
        # A tensor that is on the GPU already stays there, as the native backends do without a parameter.
        config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"
    config.metric_tags[PRECISION_TAG] = form.precisions[0]
    # Runs the network once before the model counts as ready: the first user does not wait, and a network that cannot
    # run does not load.
    warmup = config.model_warmup.add(name="one black image", batch_size=1)
    warmup.inputs[INPUT].data_type = data_type("TYPE_UINT8")
    warmup.inputs[INPUT].dims.extend(pixels)
    warmup.inputs[INPUT].zero_data = True
    return config


def ensemble_config(classifier: str, names: ModelNames = DEFAULT_NAMES, *, preprocess: str = PREPROCESS) -> ModelConfig:
    """Return the config of the public model.

    Args:
        classifier: The one word that a swap changes.
        names: Of the ensemble.
        preprocess: The model that decodes, its own or one that it shares.
    """
    return combined_config(names, preprocess, [(names.ensemble, classifier, names.postprocess)])


def router_config(
    names: ModelNames, primary: ModelConfig, candidate: ModelConfig, route: Route, precision: str
) -> ModelConfig:
    """Return the config of the model that stands for two classifiers.

    Args:
        names: Of the ensemble.
        primary: Config of the classifier that answers.
        candidate: Of the one that is tried.
        route: Which requests go where.
        precision: Of the one that answers, which clients learn.
    """
    # While one batch waits for the classifiers, the next one is handed on.
    config = _model(names.router, backend="python", instances=2)
    config.max_batch_size = min(primary.max_batch_size, candidate.max_batch_size)
    config.input.extend(primary.input)
    _tensor(config.output, OUTPUT, "TYPE_FP32", list(primary.output[0].dims))
    config.dynamic_batching.SetInParent()
    config.metric_tags[PRECISION_TAG] = precision
    set_parameters(config, route.to_parameters())
    return config


def combined_config(names: ModelNames, preprocess: str, members: Sequence[tuple[str, str, str]]) -> ModelConfig:
    """Return the config of an ensemble over one or several networks, which decodes once.

    Args:
        names: Of the ensemble.
        preprocess: The model that decodes.
        members: Name, classifier and model that labels of each; the outputs of the first have the usual names.
    """
    config = _model(names.ensemble, platform="ensemble")
    _tensor(config.input, IMAGE, "TYPE_STRING", [1])
    passed_on = {ERROR: DECODE_ERRORS_KEY, CHECKSUM: CHECKSUMS_KEY}
    _step(config, preprocess, {IMAGE: IMAGE}, {PIXELS: PIXELS_KEY, **passed_on})
    for place, (name, classifier, postprocess) in enumerate(members):
        logits = LOGITS_KEY if place == 0 else f"{LOGITS_KEY}_{place}"
        _step(config, classifier, {INPUT: PIXELS_KEY}, {OUTPUT: logits})
        answered = {tensor.name: member_tensor(name, tensor.name, first=place == 0) for tensor in RESPONSE_TENSORS}
        _step(config, postprocess, {OUTPUT: logits, **passed_on}, answered)
        for tensor in RESPONSE_TENSORS:
            _tensor(config.output, answered[tensor.name], tensor.data_type, [tensor.length])
    return config


def keep_users_choices(built: ModelConfig, existing: ModelConfig) -> ModelConfig:
    """Return `existing`, with the fields that the recipe decides from `built`: tensors, geometry, labels, warm-up.

    No recipe decides anything about the ensemble: it stays as it is, except for tensors of the contract that an earlier
    version did not have.
    """
    merged = ModelConfig()
    merged.CopyFrom(existing)
    if built.platform == "ensemble":
        _add_missing_tensors(merged, built)
        return merged
    for name in _RECIPE_FIELDS:
        value = getattr(built, name)
        if isinstance(value, str):
            setattr(merged, name, value)
        elif value:
            merged.ClearField(name)
            getattr(merged, name).extend(value)
    for name in _RECIPE_PARAMETERS - set(built.parameters):
        merged.parameters.pop(name, None)
    for name, parameter in built.parameters.items():
        if name in _RECIPE_PARAMETERS or name not in merged.parameters:
            merged.parameters[name].CopyFrom(parameter)
    return merged


def apply_settings(
    config: ModelConfig, precision: str, settings: ConfigSettings, before: ConfigSettings | None = None
) -> None:
    """Put what an artefact decides into its classifier's config; number and devices of instances stay the user's.

    max_batch_size follows the engine if it did before, and is never more than the engine takes: a smaller number is the
    user's.

    Args:
        config: It is changed.
        precision: Of the artefact.
        settings: Of the artefact.
        before: Of the artefact that the config was for until now.
    """
    config.metric_tags[PRECISION_TAG] = precision
    form = form_of_model(config.name)
    for name in form.artefact_parameters if form is not None else ():
        if name in config.parameters:
            del config.parameters[name]
    for name, text in (before.parameters if before is not None else {}).items():
        # A parameter that was edited since is the user's.
        if name in config.parameters and config.parameters[name].string_value == text:
            del config.parameters[name]
    set_parameters(config, settings.parameters)
    # The engine of one kind of GPU lies beside those of other kinds; an engine without a kind replaces them all.
    if not settings.engines:
        config.ClearField("cc_model_filenames")
    for capability, file in settings.engines.items():
        config.cc_model_filenames[capability] = file
    for group in config.instance_group:
        if settings.on_gpu and group.kind == KIND_AUTO:
            group.kind = KIND_GPU
        elif not settings.on_gpu and before is not None and before.on_gpu and group.kind == KIND_GPU:
            # The engines that needed a GPU are gone.
            group.kind = KIND_AUTO
    followed = MAX_BATCH_SIZE if before is None or before.max_batch is None else before.max_batch
    if config.max_batch_size == followed:
        config.max_batch_size = settings.max_batch or MAX_BATCH_SIZE
    elif settings.max_batch is not None:
        config.max_batch_size = min(config.max_batch_size, settings.max_batch)


def to_text(config: ModelConfig) -> str:
    """Return a config as the text of a config.pbtxt, with a comment on its origin."""
    body = text_format.MessageToString(config, use_short_repeated_primitives=True)
    if config.platform == "ensemble":
        chosen = f'model_name: "{chosen_classifier(config)}"'
        body = body.replace(chosen, f"{chosen}  # <- swap the classifier by editing this word")
        return f"# jpeg-build writes this file once. It is yours from then on: a rebuild leaves it as it is.\n{body}"
    return (
        "# Written by jpeg-build. Tensors, geometry and labels come from the recipe. The rest is yours to edit: a\n"
        f"# rebuild keeps it.\n{body}"
    )


def _model(name: str, *, backend: str = "", platform: str = "", kind: str = "CPU", instances: int = 1) -> ModelConfig:
    config = ModelConfig(name=name, backend=backend, platform=platform, max_batch_size=MAX_BATCH_SIZE)
    if platform != "ensemble":
        # Triton's default would be two on a CPU: each instance is a process with threads for all cores. With
        # KIND_AUTO, there would be one for each GPU of the machine.
        config.instance_group.add(count=instances, kind=ModelInstanceGroup.Kind.Value(f"KIND_{kind}"))
    return config


def _add_missing_tensors(ensemble: ModelConfig, built: ModelConfig) -> None:
    """Add outputs and mappings of `preprocess` and `postprocess` that an ensemble lacks."""
    known = {tensor.name for tensor in ensemble.output}
    ensemble.output.extend(tensor for tensor in built.output if tensor.name not in known)
    first, _, last = built.ensemble_scheduling.step
    for step in ensemble.ensemble_scheduling.step:
        ours = first if is_preprocess(step.model_name) else last if is_postprocess(step.model_name) else None
        if ours is None:
            continue
        for mapping, wanted in ((step.input_map, ours.input_map), (step.output_map, ours.output_map)):
            for key, value in wanted.items():
                if key not in mapping:
                    mapping[key] = value


def _tensor(tensors: Any, name: str, kind: DataType, dims: list[int]) -> None:
    tensors.add(name=name, data_type=data_type(kind), dims=dims)


def _step(config: ModelConfig, model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    for key, value in inputs.items():
        step.input_map[key] = value
    for key, value in outputs.items():
        step.output_map[key] = value
