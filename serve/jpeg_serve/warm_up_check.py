"""Warm-up requests: Triton runs them before a model is ready, and a failing one keeps the model from loading."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

from jpeg_contract.model_config import data_type, model_config_pb2
from jpeg_contract.tensors import IMAGE

from jpeg_serve.config_check import dims_match, shape, type_name
from jpeg_serve.models import Model, Problem

# Every JPEG begins so (ITU-T T.81, B.1.1.3).
_JPEG = b"\xff\xd8\xff"

_BYTES_PER_VALUE = {
    "TYPE_BOOL": 1, "TYPE_UINT8": 1, "TYPE_UINT16": 2, "TYPE_UINT32": 4, "TYPE_UINT64": 8, "TYPE_INT8": 1,
    "TYPE_INT16": 2, "TYPE_INT32": 4, "TYPE_INT64": 8, "TYPE_FP16": 2, "TYPE_FP32": 4, "TYPE_FP64": 8, "TYPE_BF16": 2,
}  # fmt: skip


def check_warm_up(model: Model) -> Iterator[Problem]:
    """Check warm-up requests against the model's inputs."""
    config, where = model.config, model.where
    inputs = {tensor.name: tensor for tensor in config.input}
    for sample in config.model_warmup:
        name = f'model_warmup "{sample.name}"'
        if sample.batch_size > max(config.max_batch_size, 1):
            yield Problem(
                where,
                f"{name} has batch_size {sample.batch_size}, but max_batch_size is {config.max_batch_size}",
                "warm_up",
            )
        for missing in (key for key, tensor in inputs.items() if key not in sample.inputs and not tensor.optional):
            yield Problem(where, f"{name} has no data for the input {missing}", "warm_up")
        for key, data in sample.inputs.items():
            tensor = inputs.get(key)
            if tensor is None:
                known = ", ".join(inputs) or "none"
                yield Problem(where, f"{name} has the input {key}, which the model lacks; it has {known}", "warm_up")
                continue
            if data.data_type != tensor.data_type:
                yield Problem(where, f"{name} has {type_name(data)} for {key}, which is {type_name(tensor)}", "warm_up")
            if any(dim < 1 for dim in data.dims) or not dims_match(data.dims, tensor.dims):
                yield Problem(
                    where,
                    f"{name} has dims {shape(data)} for {key}, which has {shape(tensor)}: write sizes that match",
                    "warm_up",
                )
            if data.WhichOneof("input_data_type") is None:
                yield Problem(where, f"{name} has no zero_data, random_data or input_data_file for {key}", "warm_up")


def check_warm_up_files(model: Model) -> Iterator[Problem]:
    """Check the data files of warm-up requests."""
    for sample in model.config.model_warmup:
        for name, data in sample.inputs.items():
            if data.WhichOneof("input_data_type") != "input_data_file":
                if model.is_preprocess and name == IMAGE:
                    yield Problem(
                        model.where,
                        f'model_warmup "{sample.name}" has no JPEG for {name}, and fails: write input_data_file',
                        "warm_up",
                    )
                continue
            file = model.folder / "warmup" / data.input_data_file
            where = f"{model.name}/warmup/{data.input_data_file}"
            if not file.is_file():
                yield Problem(
                    where, f'is missing, and model_warmup "{sample.name}" reads {name} from it', "warm_up_file"
                )
                continue
            found = file.stat().st_size
            kind = model_config_pb2.DataType.Name(data.data_type)
            needed = prod(data.dims) * _BYTES_PER_VALUE.get(kind, 0)
            if data.data_type == data_type("TYPE_STRING"):
                strings = _strings(file)
                if strings is None or len(strings) != prod(data.dims):
                    yield Problem(
                        where,
                        f"does not hold {prod(data.dims)} strings, each after its length: 4 bytes, little-endian",
                        "warm_up_file",
                    )
                elif model.is_preprocess and not all(each.startswith(_JPEG) for each in strings):
                    yield Problem(where, "holds data that is not a JPEG, so that the warm-up fails", "warm_up_file")
            elif found < needed:
                yield Problem(where, f"has {found} bytes, but {name} of {shape(data)} needs {needed}", "warm_up_file")


def _strings(file: Path) -> list[bytes] | None:
    """Read a file of strings, each after its length: 4 bytes, little-endian. None if it is something else."""
    data, at = file.read_bytes(), 0
    strings = []
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        strings.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return strings if at == len(data) else None
