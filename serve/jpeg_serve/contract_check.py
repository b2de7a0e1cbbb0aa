"""The rules of this project for its stages: tensors, settings and parameters of each (docs/contract.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jpeg_contract.forms import ClassifierForm
from jpeg_contract.model_config import KIND_CPU, ModelInstanceGroup, data_type
from jpeg_contract.parameters import SettingsError, read_parameters
from jpeg_contract.routes import Route
from jpeg_contract.settings import PostprocessSettings, PreprocessSettings
from jpeg_contract.tensors import (
    CHECKSUM,
    ERROR,
    IMAGE,
    INPUT,
    OUTPUT,
    PIXELS,
    RESPONSE_TENSORS,
    STAMP_LENGTH,
    DataType,
)

from jpeg_serve.config_check import dims_match, shape, type_name
from jpeg_serve.models import Model, Problem

_ANY = -1

# Settings that may be empty texts.
_OPTIONAL_TEXTS = ("recipe", "recipe_sha256")

# Also of a repository that an earlier version built: a build adds what it lacks, and keeps the user's choices.
_REMEDY = "build the recipe again with jpeg-build (docs/contract.md)"


class _Wanted(NamedTuple):
    """A tensor of the contract. dims: shape per item, with -1 for sizes that the recipe decides."""

    name: str
    data_type: DataType
    dims: tuple[int, ...]


_IMAGE = _Wanted(IMAGE, "TYPE_STRING", (1,))
_ERROR = _Wanted(ERROR, "TYPE_STRING", (1,))
_CHECKSUM = _Wanted(CHECKSUM, "TYPE_UINT32", (STAMP_LENGTH,))
_PIXELS = _Wanted(PIXELS, "TYPE_UINT8", (_ANY, _ANY, 3))
_INPUT = _Wanted(INPUT, "TYPE_UINT8", (_ANY, _ANY, 3))
_LOGITS = _Wanted(OUTPUT, "TYPE_FP32", (_ANY,))
_RESPONSE = tuple(_Wanted(tensor.name, tensor.data_type, (tensor.length,)) for tensor in RESPONSE_TENSORS)


def check_contract(model: Model) -> Iterator[Problem]:
    """Check a stage of this project; other models have no rules here."""
    if not model.is_ours:
        return
    yield from _check_options(model)
    yield from _check_texts(model)
    try:
        if model.is_preprocess:
            yield from _check_tensors(model, "input", (_IMAGE,))
            yield from _check_tensors(model, "output", (_PIXELS, _ERROR, _CHECKSUM))
            yield from _check_crop(model, PreprocessSettings.from_parameters(model.parameters))
        elif model.is_postprocess:
            yield from _check_tensors(model, "input", (_LOGITS, _ERROR, _CHECKSUM))
            yield from _check_tensors(model, "output", _RESPONSE)
            PostprocessSettings.from_parameters(model.parameters)
        elif model.is_router:
            yield from _check_tensors(model, "input", (_INPUT,))
            yield from _check_tensors(model, "output", (_LOGITS,))
            Route.from_parameters(model.parameters)
        elif model.form is not None:
            yield from _check_classifier(model, model.form)
    except SettingsError as error:
        yield Problem(model.where, str(error), error.reason)


def _check_classifier(model: Model, form: ClassifierForm) -> Iterator[Problem]:
    config, where = model.config, model.where
    yield from _check_tensors(model, "input", (_INPUT,))
    yield from _check_tensors(model, "output", (_LOGITS,))
    level = config.optimization.graph.level
    if form.graph_levels and level not in form.graph_levels:
        known = ", ".join(map(str, form.graph_levels))
        yield Problem(where, f"optimization graph level is {level}, but must be one of {known}", "graph_level")
    if form.instance_kind == "GPU" and any(group.kind == KIND_CPU for group in config.instance_group):
        yield Problem(
            where, f"instance_group has kind KIND_CPU, but {form.title} runs on GPUs: write KIND_GPU", "instance_kind"
        )
    read_parameters(form.parameters, model.parameters, strict_names=False)


def _check_options(model: Model) -> Iterator[Problem]:
    """Refuse features of Triton that the stages of this project do not support."""
    config, where = model.config, model.where
    if config.HasField("sequence_batching"):
        yield Problem(
            where, "has sequence_batching, but images are independent: write dynamic_batching { }", "scheduling"
        )
    if config.model_transaction_policy.decoupled:
        yield Problem(
            where, "is decoupled, but returns one response per request: remove model_transaction_policy", "scheduling"
        )
    if config.batch_input or config.batch_output:
        yield Problem(where, "has batch_input or batch_output, which this model does not read: remove it", "batching")
    for group in config.instance_group:
        if group.kind == ModelInstanceGroup.KIND_MODEL:
            yield Problem(where, "instance_group has kind KIND_MODEL: write KIND_GPU or KIND_CPU", "instance_kind")
    for tensor in (*config.input, *config.output):
        ragged = getattr(tensor, "allow_ragged_batch", False)
        if tensor.HasField("reshape") or ragged or getattr(tensor, "optional", False):
            yield Problem(
                where, f"{tensor.name} has reshape, allow_ragged_batch or optional: remove it", "tensor_option"
            )


def _check_texts(model: Model) -> Iterator[Problem]:
    for name, text in sorted(model.parameters.items()):
        if not text.strip() and name not in _OPTIONAL_TEXTS:
            yield Problem(
                model.where,
                f'parameter {name} has no string_value: write value {{ string_value: "..." }}, or remove it',
                "parameter_without_value",
            )


def _check_tensors(model: Model, kind: str, wanted: Sequence[_Wanted]) -> Iterator[Problem]:
    """Compare the names, types and ranks of a stage's tensors with the contract."""
    tensors = {tensor.name: tensor for tensor in (model.config.input if kind == "input" else model.config.output)}
    names = [each.name for each in wanted]
    for name in tensors:
        if name not in names:
            yield Problem(
                model.where, f"{kind} {name} is unknown to this model; it has {', '.join(names)}", "tensor_unknown"
            )
    for each in wanted:
        tensor = tensors.get(each.name)
        if tensor is None:
            if tensors:  # else `config_check` reports it
                yield Problem(model.where, f"has no {kind} {each.name}: {_REMEDY}", "tensor_missing")
            continue
        if tensor.data_type not in (0, data_type(each.data_type)):
            yield Problem(
                model.where,
                f"{kind} {each.name} is {type_name(tensor)}, but must be {each.data_type.removeprefix('TYPE_')}",
                "tensor_type",
            )
        if tensor.dims and 0 not in tensor.dims and not dims_match(tensor.dims, each.dims):
            expected = ",".join("ANY" if dim == _ANY else str(dim) for dim in each.dims)
            yield Problem(
                model.where,
                f"{kind} {each.name} has dims {shape(tensor)}, but must have [{expected}]: {_REMEDY}",
                "tensor_shape",
            )


def _check_crop(model: Model, settings: PreprocessSettings) -> Iterator[Problem]:
    height, width = settings.geometry.crop_size
    for tensor in model.config.output:
        if tensor.name == PIXELS and len(tensor.dims) == 3 and not dims_match(tensor.dims, (height, width, 3)):
            yield Problem(
                model.where,
                f"output {PIXELS} has dims {shape(tensor)}, but crop_size is {height},{width}: build the recipe again "
                "with jpeg-build",
                "crop_size_mismatch",
            )
