"""Triton's own rules for one config.pbtxt, as tritonserver 2.51 applies them before it loads a model.

Each rule was tried: that server refuses such a config, too, or loads it as something else than is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any

from jpeg_contract.forms import FORMS
from jpeg_contract.model_config import CONFIG, KIND_CPU, model_config_pb2

from jpeg_serve.models import ENSEMBLE_PLATFORM, Model, Problem

# A platform of TensorFlow that no classifier form has.
_GRAPHDEF = ("tensorflow_graphdef", "tensorflow")

# A parameter of the Python backend.
_CPU_TENSORS = "FORCE_CPU_ONLY_INPUT_TENSORS"

_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|#[^\n]*""")
_BLOCK = re.compile(r"\binstance_group\s*:?\s*[\[{]")
_ZERO_COUNT = re.compile(r"\bcount\s*:\s*[-+]?0+\b")


def check_config(model: Model) -> Iterator[Problem]:
    """Check everything in a model's config that needs neither its files nor other models."""
    yield from _check_identity(model)
    yield from _check_tensors(model)
    if model.is_ensemble:
        yield from _check_ensemble_fields(model)
        return
    yield from _check_batching(model)
    yield from _check_instances(model)
    on_cpu = model.parameter(_CPU_TENSORS)
    if on_cpu not in ("", "yes", "no"):
        yield Problem(model.where, f'parameter {_CPU_TENSORS} is "{on_cpu}": write yes or no', "invalid_setting")


def shape(tensor: Any) -> str:
    """Return a tensor's dims as a config has them."""
    return f"[{','.join(map(str, tensor.dims))}]"


def type_name(tensor: Any) -> str:
    """Return a tensor's data type without its prefix."""
    return str(model_config_pb2.DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def dims_match(dims: Any, others: Any) -> bool:
    """Whether two shapes can be the same: -1 stands for any size."""
    return len(dims) == len(others) and all(a == b or -1 in (a, b) for a, b in zip(dims, others, strict=True))


def _check_identity(model: Model) -> Iterator[Problem]:
    config, where = model.config, model.where
    if config.name and config.name != model.name:
        yield Problem(
            where,
            f'name is "{config.name}", but the folder is {model.name}: Triton requires them to be equal',
            "name_mismatch",
        )
    if not config.backend and not config.platform and not model.is_ensemble:
        yield Problem(where, "has neither backend nor platform", "backend_unset")
    platforms = {form.platform: form.backend for form in FORMS.values() if form.platform} | dict([_GRAPHDEF])
    if config.platform and not model.is_ensemble:
        expected = platforms.get(config.platform)
        if expected is None:
            yield Problem(
                where,
                f'platform "{config.platform}" is unknown to Triton; known are {", ".join(sorted(platforms))}',
                "platform_unknown",
            )
        elif config.backend and config.backend != expected:
            yield Problem(
                where,
                f'platform "{config.platform}" belongs to the backend {expected}, but backend is "{config.backend}"',
                "platform_mismatch",
            )
    if model.is_ensemble and config.platform != ENSEMBLE_PLATFORM:
        yield Problem(where, 'has ensemble_scheduling, which needs platform: "ensemble"', "platform_mismatch")
    if config.max_batch_size < 1:
        yield Problem(
            where,
            f"max_batch_size is {config.max_batch_size}, but the stages exchange batches: set at least 1",
            "max_batch_size",
        )


def _check_tensors(model: Model) -> Iterator[Problem]:
    config, where = model.config, model.where
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield Problem(where, f"has no {kind}", "tensor_missing")
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield Problem(where, f"{kind} {name} occurs {count} times", "tensor_duplicate")
        for tensor in tensors:
            name = f"{kind} {tensor.name}"
            if tensor.data_type == model_config_pb2.TYPE_INVALID:
                yield Problem(where, f"{name} has no data_type", "tensor_type")
            if not tensor.dims or any(dim == 0 or dim < -1 for dim in tensor.dims):
                yield Problem(where, f"{name} has dims {shape(tensor)}: each must be a size, or -1", "tensor_shape")
            elif tensor.HasField("reshape") and not _same_size(tensor):
                yield Problem(where, f"{name} has a reshape of another size than its dims", "tensor_shape")
            if tensor.is_shape_tensor and model.backend != "tensorrt":
                yield Problem(where, f"{name} is a shape tensor, which only TensorRT has", "tensor_option")


def _same_size(tensor: Any) -> bool:
    dims, reshaped = list(tensor.dims), list(tensor.reshape.shape)
    return dims.count(-1) == reshaped.count(-1) and prod(abs(dim) for dim in dims) == prod(abs(dim) for dim in reshaped)


def _check_ensemble_fields(model: Model) -> Iterator[Problem]:
    config = model.config
    present = {
        "backend": bool(config.backend),
        "instance_group": bool(config.instance_group),
        "optimization": config.HasField("optimization"),
        "model_warmup": bool(config.model_warmup),
    }
    for name, is_set in present.items():
        if is_set:
            yield Problem(
                model.where,
                f"is an ensemble, for which Triton refuses {name}: remove it, or write it for a step",
                "ensemble_field",
            )


def _check_batching(model: Model) -> Iterator[Problem]:
    config, where, batching = model.config, model.where, model.config.dynamic_batching
    for size in batching.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            yield Problem(
                where,
                f"preferred_batch_size is {size}, but must be from 1 to max_batch_size, {config.max_batch_size}",
                "preferred_batch_size",
            )
    levels = batching.priority_levels
    if not levels:
        return
    if not 1 <= batching.default_priority_level <= levels:
        yield Problem(
            where,
            f"default_priority_level is {batching.default_priority_level}, but must be from 1 to {levels}",
            "priority_level",
        )
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            yield Problem(
                where,
                f"priority_queue_policy names level {level}, but priority_levels is {levels}",
                "priority_level",
            )
    if batching.preserve_ordering and levels > 1:
        yield Problem(where, "preserve_ordering allows one priority level only", "priority_level")


def _check_instances(model: Model) -> Iterator[Problem]:
    where = model.where
    for group in model.config.instance_group:
        if group.count < 0:
            yield Problem(where, f"instance_group has count {group.count}: write 1 or more instances", "instance_count")
        if group.kind == KIND_CPU and group.gpus:
            yield Problem(where, "instance_group has kind KIND_CPU, but names GPUs: remove the one", "instance_kind")
        if group.profile and model.backend != "tensorrt":
            yield Problem(where, "instance_group has a profile, which only TensorRT has", "instance_profile")
    # An absent count is 0 as well, which Triton takes for 1; a written 0 is meant to be none.
    if any(group.count == 0 for group in model.config.instance_group) and _has_zero_count(model):
        yield Problem(
            where,
            "instance_group has count: 0, which Triton takes for 1: write the number, or remove the model from the "
            "ensemble",
            "instance_count",
        )


def _has_zero_count(model: Model) -> bool:
    """Whether a zero is written as the count of an instance group itself, and not inside of it."""
    text = _COMMENT.sub(lambda found: '""' if found[1] else "", (model.folder / CONFIG).read_text(encoding="utf-8"))
    for start in _BLOCK.finditer(text):
        is_list = start[0].endswith("[")
        depth, own = 0, []
        for character in text[start.end() - 1 :]:
            depth += (character in "[{") - (character in "]}")
            own.append(character if depth <= 1 + is_list else " ")
            if depth == 0:
                break
        if _ZERO_COUNT.search("".join(own)):
            return True
    return False
