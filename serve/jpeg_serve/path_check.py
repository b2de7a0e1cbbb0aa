"""The names of files in a config: none leads out of the model's folder, or out of the version's where it is of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jpeg_contract.forms import ONNX
from jpeg_contract.inside import PathOutside, inside, refuse_file_parameter
from jpeg_contract.parameters import SettingsError
from jpeg_contract.tensors import LABELS_FILE

from jpeg_serve.models import Model, Problem


def check_paths(model: Model) -> Iterator[Problem]:
    """Check every name of a file. A model with a problem here is not checked further: its files are not to be read."""
    for field, folder, name in _named(model):
        try:
            inside(folder, name)
        except PathOutside as error:
            yield Problem(model.where, f"{field} {error}", error.reason)
    for name in model.parameters if model.backend == ONNX.backend else ():
        try:
            refuse_file_parameter(name)
        except SettingsError as error:
            yield Problem(model.where, str(error), error.reason)


def _named(model: Model) -> Iterator[tuple[str, Path, str]]:
    """Return the fields that name files, with the folder that each belongs into.

    EXECUTION_ENV_PATH is not among them: it chooses the Python that runs a model, which is code anyway.
    """
    config, folder = model.config, model.folder
    # Triton looks for the backend's library in the folder of this name, in its backend directory and in the model.
    yield "backend", folder, model.backend
    for version in model.served():
        yield "default_model_filename", version.folder, config.default_model_filename
        for file in config.cc_model_filenames.values():
            yield "cc_model_filenames", version.folder, file
    for tensor in config.output:
        yield "label_filename", folder, tensor.label_filename
    if model.is_postprocess:
        yield "parameter labels_file", folder, model.parameter("labels_file") or LABELS_FILE
    for sample in config.model_warmup:
        for data in sample.inputs.values():
            yield "input_data_file", folder / "warmup", data.input_data_file
    for library in config.model_operations.op_library_filename:
        yield "op_library_filename", folder, library
