"""SavedModels as ONNX files, and what a SavedModel states of its network."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.networks.keras_drafts import channels_of, classes_of, geometry_of
from jpeg_build.recipe.keys import Output
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import SavedModelSource

# ONNX's standard operators of this version are what TensorRT 8.6 and newer, OpenVINO and ONNX Runtime take.
OPSET = 17
SIGNATURE = "serving_default"

# Such as "sequential_1/rescaling_2/mul"; the names of batch_normalization are longer.
_NORMALISING_NODE = re.compile(rb"(?<![a-z_])(rescaling|normalization)(?:_\d+)*/")


class SavedModelNetwork:
    """A network in a SavedModel, exported to ONNX by tf2onnx. Needs TensorFlow.

    Args:
        recipe: Its source is a SavedModel.

    Raises:
        BuildError: TensorFlow is not installed here.
        NetworkError: The SavedModel cannot be loaded, is not a classifier of images, or does not fit the recipe.
    """

    rounds_to_half = False

    def __init__(self, recipe: Recipe) -> None:
        from jpeg_build.networks.keras_network import KerasNetwork  # `draft` needs no TensorFlow.

        assert isinstance(recipe.source, SavedModelSource)
        self._recipe, self._source = recipe, recipe.source
        self._inner = KerasNetwork(recipe)
        self.labels: Sequence[str] = self._inner.labels
        self.weights = self._inner.weights

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. Runs the SavedModel itself in TensorFlow, on images normalised by NumPy."""
        return self._inner.reference(pixels)

    def export_onnx(self, path: Path) -> None:
        """See Network. Writes the graph of tf2onnx, with the contract around it."""
        from jpeg_build.graphs.onnx_graph import finish, wrap

        recipe = self._recipe
        try:
            with _quiet_conversion():
                import tf2onnx

                function, signature = self._inner.images_to_values()
                model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
            _bind_captures(model, function.get_concrete_function(*signature))
            wrapped = wrap(
                model,
                layout="NHWC",
                normalisation=recipe.normalisation,
                crop_size=recipe.geometry.crop_size,
                classes=recipe.classes,
                output=self._inner.kind,
            )
            finish(wrapped, path)
        except Exception as error:
            raise NetworkError(
                f"{self._source.folder}: tf2onnx cannot convert it: {first_line(error)}. "
                "--backend tf_trt takes it as it is; of a network of Keras, take the .keras file",
                reason="not_exported",
            ) from error


def _bind_captures(model: Any, function: Any) -> None:
    """Make weights, in place, of the tensors that a function captures: tf2onnx leaves them as inputs of the graph.

    Args:
        model: The ONNX model of the function.
        function: A ConcreteFunction.
    """
    from onnx import numpy_helper

    from jpeg_build.graphs.onnx_graph import replace

    captured = zip(reversed(function.inputs), reversed(function.captured_inputs), strict=False)
    values = {inner.name: outer for inner, outer in captured}
    open_inputs = {tensor.name for tensor in model.graph.input}
    for name in sorted(open_inputs & values.keys()):
        model.graph.initializer.append(numpy_helper.from_array(values[name].numpy(), name))
    kept = [tensor for tensor in model.graph.input if tensor.name not in values]
    replace(model.graph.input, kept)


@contextmanager
def _quiet_conversion() -> Iterator[None]:
    """Silence tf2onnx, which logs each of its steps, and TensorFlow's library, which writes to stderr by itself."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logger.setLevel(level)


def draft(folder: Path) -> Draft:
    """Return what a SavedModel states of its network, by its file; TensorFlow is not needed.

    Raises:
        NetworkError: The folder is not a SavedModel with a signature serving_default.
    """
    inputs, outputs, normalising = _read(folder)
    notes: list[str] = []
    source: dict[str, Any] = {"kind": "saved_model", "folder": str(folder)}
    choices: dict[str, Sequence[str]] = {"output": get_args(Output)}
    candidates = {name: shape for name, shape in outputs.items() if shape is not None and len(shape) == 2}
    if len(outputs) > 1:
        shown = ", ".join(f"{name} {_shown(shape)}" for name, shape in outputs.items())
        if len(candidates) == 1:
            source["output_name"] = next(iter(candidates))
            notes.append(f"of its outputs, {shown}, {source['output_name']} is taken for the scores of the classes")
        else:
            choices["output_name"] = list(candidates) or list(outputs)
            notes.append(Hint(f"it has the outputs {shown}", "output_name"))
    if normalising:
        notes.append(
            f"it has layers named {' and '.join(normalising)}, which seem to normalise the pixels inside the network: "
            'then they go in as they are, which is scale = "0..255"'
        )
    values = (next(iter(candidates.values()))[1] or None) if len(candidates) == 1 else None
    sizes = next(iter(inputs.values())) if len(inputs) == 1 else None
    return Draft(
        name=folder.resolve().name,
        source=source,
        classes=classes_of(values, notes),
        geometry=geometry_of(sizes, "NHWC", notes),
        normalisation={"color": "GRAY"} if channels_of(sizes, "NHWC") == 1 else None,
        notes=(
            *notes,
            Hint(
                "a SavedModel keeps neither the names of the classes nor the normalisation of the training",
                "labels",
                "scale|mean",
            ),
        ),
        choices=choices,
    )


def _shown(shape: Sequence[int] | None) -> str:
    return "of unknown shape" if shape is None else f"[{','.join(str(size or 'N') for size in shape)}]"


# By name: the sizes of the axes, 0 for an open one; None if not even their number is known.
_Shapes = dict[str, list[int] | None]


def _read(folder: Path) -> tuple[_Shapes, _Shapes, list[str]]:
    """Read a SavedModel.

    Returns:
        The shapes of its inputs and of its outputs by name, 0 for an open axis, None if unknown; and the names of
        Keras's layers Rescaling and Normalization that its nodes have in theirs.
    """
    saved = _messages()()
    try:
        content = (folder / "saved_model.pb").read_bytes()
        saved.ParseFromString(content)
    except (OSError, DecodeError) as error:
        raise NetworkError(
            f"{folder}: is not a SavedModel, a folder with saved_model.pb: {error}", reason="network_not_loaded"
        ) from error
    for graph in saved.meta_graphs:
        for signature in graph.signature_def:
            if signature.key == SIGNATURE:
                inputs, outputs = (
                    {entry.key: _sizes(entry.value.tensor_shape) for entry in entries}
                    for entries in (signature.value.inputs, signature.value.outputs)
                )
                return inputs, outputs, sorted({name.decode() for name in _NORMALISING_NODE.findall(content)})
    raise NetworkError(
        f"{folder}: is not a SavedModel with a signature {SIGNATURE}; tf.saved_model.save(network, FOLDER) and Keras's "
        "network.export(FOLDER) write one",
        reason="network_not_loaded",
    )


def _sizes(shape: Any) -> list[int] | None:
    return None if shape.unknown_rank else [max(0, dim.size) for dim in shape.dim]


def _messages() -> Any:
    """Return the class of the message SavedModel, with the fields that are read here only.

    The numbers are those of TensorFlow's saved_model.proto, meta_graph.proto and tensor_shape.proto.
    """
    field = descriptor_pb2.FieldDescriptorProto
    kinds = {"string": field.TYPE_STRING, "int64": field.TYPE_INT64, "bool": field.TYPE_BOOL}
    messages = {
        "SavedModel": [(2, "meta_graphs", "MetaGraph", True)],
        "MetaGraph": [(5, "signature_def", "SignatureEntry", True)],
        "SignatureEntry": [(1, "key", "string", False), (2, "value", "Signature", False)],
        "Signature": [(1, "inputs", "TensorEntry", True), (2, "outputs", "TensorEntry", True)],
        "TensorEntry": [(1, "key", "string", False), (2, "value", "Tensor", False)],
        "Tensor": [(3, "tensor_shape", "Shape", False)],
        "Shape": [(2, "dim", "Dim", True), (3, "unknown_rank", "bool", False)],
        "Dim": [(1, "size", "int64", False)],
    }
    package = "jpeg_build.saved_model"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, key, kind, repeated in fields:
            message.field.add(
                name=key,
                number=number,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type=kinds.get(kind, field.TYPE_MESSAGE),
                type_name=None if kind in kinds else f".{package}.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.SavedModel"))
