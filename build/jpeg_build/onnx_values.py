"""ONNX graphs made ready for another precision, and the values that flow through them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.contract import INPUT, OUTPUT
from jpeg_build.errors import NetworkError

# What multiplies by trained weights. Before the first of them a graph prepares its image, behind the last its answer.
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

_STANDARD = ("", "ai.onnx")
_OTHER_FLOATS = {TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def prepared(model: Any) -> Any:
    """A contract model as the converters want it: all in float32, constants folded, each node with a name.

    Functions are inlined, batch normalisation goes into the convolution before it, and constants become initializers:
    ONNX Runtime's basic optimisations, which use standard operators alone and are the same on every machine.

    Raises NetworkError if ONNX Runtime cannot load it.
    """
    model = onnx.inliner.inline_local_functions(model) if model.functions else model
    model = in_float32(model)
    folded = _folded(model)
    if all(node.domain in _STANDARD for node in folded.graph.node):
        model = folded
    used = {node.domain for node in model.graph.node} | {""}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        while not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{index}"
        seen.add(node.name)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def in_float32(model: Any) -> Any:
    """The same model with every float64, float16 and bfloat16 made float32, its own input and output aside."""
    model = _copy(model)
    _retype(model.graph)
    return model


def opset(model: Any) -> int:
    """The version of ONNX's own operators that a model is written in."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in _STANDARD)


def with_opset(model: Any, version: int) -> Any:
    """The same model in another opset. Raises ValueError if ONNX cannot convert it."""
    try:
        converted = onnx.version_converter.convert_version(model, version)
    except Exception as error:
        # ONNX names the place in its own code and the assertion before the reason.
        raise ValueError(str(error).splitlines()[0].rpartition(" failed: ")[2][:200]) from error
    for node in converted.graph.node:
        # ONNX's converter leaves an attribute that operators before opset 18 do not have.
        if version < 18 and node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
    try:
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:
        raise ValueError(str(error).splitlines()[0][:200]) from error
    return converted


def with_kernel_shapes(model: Any) -> Any:
    """The same model, with the size of its kernels written at every convolution, as far as it is known.

    ONNX lets it be left out; TensorRT's parser needs it where the kernel is computed, as from Q/DQ or a Cast.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {item.name: [size.dim_value for size in item.type.tensor_type.shape.dim] for item in inferred.value_info}
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        said = any(attribute.name == "kernel_shape" for attribute in node.attribute)
        kernel = shapes.get(node.input[1], [])[2:] if node.op_type in ("Conv", "ConvTranspose") and not said else []
        if kernel and all(kernel):
            node.attribute.append(helper.make_attribute("kernel_shape", kernel))
    return model


def image_part(graph: Any) -> set[str]:
    """Names of the nodes that prepare the image: normalisation and what else depends on nothing that was weighted."""
    constant = {tensor.name for tensor in graph.initializer} | {""}
    reached = {INPUT}
    names = set()
    for node in graph.node:
        inputs = [name for name in node.input if name not in constant]
        if all(name in reached for name in inputs) and node.op_type not in WEIGHTED:
            reached.update(node.output)
            names.add(node.name)
    return names


def answer_part(graph: Any) -> set[str]:
    """Names of the nodes between the last weighted ones and the output: shapes, casts, softmax, logarithm."""
    producer = {output: node for node in graph.node for output in node.output}
    names: set[str] = set()
    open_tensors = [OUTPUT]
    while open_tensors:
        node = producer.get(open_tensors.pop())
        if node is not None and node.op_type not in WEIGHTED and node.name not in names:
            names.add(node.name)
            open_tensors += node.input
    return names


def float_tensors(model: Any) -> set[str]:
    """Names of the float32 tensors that nodes of the main graph make."""
    made = {output for node in model.graph.node for output in node.output}
    known = [*model.graph.value_info, *model.graph.output]
    return {item.name for item in known if item.type.tensor_type.elem_type == TensorProto.FLOAT} & made


def ranges(model: Any, tensors: Sequence[str], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The smallest and the largest value of each tensor for each image: (images, tensors, 2).

    Raises NetworkError if a value is not finite.
    """
    nodes, names = [], []
    for index, tensor in enumerate(tensors):
        for reduce in ("ReduceMin", "ReduceMax"):
            names.append(f"range/{index}/{reduce}")
            nodes.append(helper.make_node(reduce, [tensor], [names[-1]], keepdims=0))
    found = np.array(list(observed(model, nodes, [], names, images)), np.float32)
    if not np.isfinite(found).all():
        raise NetworkError("the network computes values that are not finite from the photos, already in fp32")
    return found.reshape(len(images), len(tensors), 2)


def observed(
    model: Any, nodes: Sequence[Any], initializers: Sequence[Any], outputs: Sequence[str], images: NDArray[np.uint8]
) -> Iterator[list[NDArray[Any]]]:
    """What additional nodes of a model answer, image by image, so that memory does not grow with their number.

    Raises NetworkError if ONNX Runtime cannot run it.
    """
    watched = _copy(model)
    watched.graph.node.extend(nodes)
    watched.graph.initializer.extend(initializers)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    session = _session(watched)
    for image in images:
        yield session.run(list(outputs), {INPUT: image[None]})


def logits(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a contract model answers in ONNX Runtime, as (images, classes)."""
    return np.concatenate([values[0] for values in observed(model, [], [], [OUTPUT], images)])


def _session(model: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:  # by file: a model of more than 2 GiB has no bytes
        path = Path(folder) / "model.onnx"
        _save(model, path)
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NetworkError(f"ONNX Runtime cannot load the network: {str(error).splitlines()[0][:300]}") from error


def _folded(model: Any) -> Any:
    """After ONNX Runtime's basic optimisations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        source, folded = Path(folder) / "model.onnx", Path(folder) / "folded.onnx"
        _save(model, source)
        options.optimized_model_filepath = str(folded)
        try:
            ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NetworkError(f"ONNX Runtime cannot load the network: {str(error).splitlines()[0][:300]}") from error
        return onnx.load(str(folded))


def _retype(graph: Any) -> None:
    for tensor in graph.initializer:
        _retype_tensor(tensor)
    for item in (*graph.value_info, *graph.input, *graph.output):
        if item.type.tensor_type.elem_type in _OTHER_FLOATS:
            item.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in _OTHER_FLOATS:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == onnx.AttributeProto.TENSOR:
                _retype_tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _retype(attribute.g)


def _retype_tensor(tensor: Any) -> None:
    if tensor.data_type in _OTHER_FLOATS:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _save(model: Any, path: Path) -> None:
    # More than protobuf can hold in one message goes into a file beside it.
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 2**31 - 2**24
    onnx.save_model(_copy(model) if large else model, str(path), save_as_external_data=large)


def _copy(model: Any) -> Any:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
