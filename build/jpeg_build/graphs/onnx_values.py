"""Preparation of ONNX graphs for another precision, and the values of their tensors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from jpeg_contract.tensors import INPUT, OUTPUT
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.errors import NetworkError
from jpeg_build.graphs.onnx_graph import STANDARD, replace

# Operators that multiply by trained weights. Before the first, a graph prepares the image; behind the last, the output.
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

_OTHER_FLOATS = {TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def prepared(model: Any) -> Any:
    """Prepare a contract model for the converters: all in float32, constants folded, each node with a name.

    Functions are inlined, batch normalisation is folded into the convolution before it, and constants become
    initializers: ONNX Runtime's basic optimisations, which use standard operators only and are the same on every
    machine.

    Raises:
        NetworkError: ONNX Runtime cannot load the model.
    """
    model = onnx.inliner.inline_local_functions(model) if model.functions else model
    model = in_float32(model)
    folded = _folded(model)
    if all(node.domain in STANDARD for node in folded.graph.node):
        model = folded
    used = {node.domain for node in model.graph.node} | {""}
    replace(model.opset_import, [entry for entry in model.opset_import if entry.domain in used])
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        while not node.name or node.name in seen:
            node.name = f"{node.name or node.op_type}_{index}"
        seen.add(node.name)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def in_float32(model: Any) -> Any:
    """Return a copy with float32 in place of every float64, float16 and bfloat16."""
    model = _copy(model)
    _retype(model.graph)
    return model


def with_kernel_shapes(model: Any) -> Any:
    """Write the attribute `kernel_shape` at every convolution whose kernel size is known; return the same model.

    ONNX makes it optional; TensorRT's parser needs it where the kernel is computed, as behind Q/DQ or a Cast.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {item.name: [size.dim_value for size in item.type.tensor_type.shape.dim] for item in inferred.value_info}
    shapes |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        stated = any(attribute.name == "kernel_shape" for attribute in node.attribute)
        kernel = shapes.get(node.input[1], [])[2:] if node.op_type in ("Conv", "ConvTranspose") and not stated else []
        if kernel and all(kernel):
            node.attribute.append(helper.make_attribute("kernel_shape", kernel))
    return model


def image_part(graph: Any) -> set[str]:
    """Return the names of the nodes that prepare the image: those behind no weighted node, such as normalisation."""
    constant = {tensor.name for tensor in graph.initializer} | {""}
    reached = {INPUT}
    names = set()
    for node in graph.node:
        inputs = [name for name in node.input if name not in constant]
        if all(name in reached for name in inputs) and node.op_type not in WEIGHTED:
            reached.update(node.output)
            names.add(node.name)
    return names


def output_part(graph: Any) -> set[str]:
    """Return the names of the nodes between the last weighted ones and the output, such as a softmax."""
    producer = {output: node for node in graph.node for output in node.output}
    names: set[str] = set()
    pending = [OUTPUT]
    while pending:
        node = producer.get(pending.pop())
        if node is not None and node.op_type not in WEIGHTED and node.name not in names:
            names.add(node.name)
            pending += node.input
    return names


def float_tensors(model: Any) -> set[str]:
    """Return the names of the float32 tensors that nodes of the main graph compute."""
    computed = {output for node in model.graph.node for output in node.output}
    known = [*model.graph.value_info, *model.graph.output]
    return {item.name for item in known if item.type.tensor_type.elem_type == TensorProto.FLOAT} & computed


def ranges(model: Any, tensors: Sequence[str], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure the smallest and the largest value of each tensor for each image.

    Args:
        model: A contract model.
        tensors: Names of float32 tensors.
        images: (N, H, W, 3) uint8.

    Returns:
        (N, tensors, 2) float32: minimum, maximum.

    Raises:
        NetworkError: A value is not finite.
    """
    nodes, names = [], []
    for index, tensor in enumerate(tensors):
        for reduce in ("ReduceMin", "ReduceMax"):
            names.append(f"range/{index}/{reduce}")
            nodes.append(helper.make_node(reduce, [tensor], [names[-1]], keepdims=0))
    found = np.array(list(observed(model, nodes, [], names, images)), np.float32)
    if not np.isfinite(found).all():
        raise NetworkError(
            "the network computes NaN or infinity from the photos, already in fp32: check its weights and the recipe's "
            "[normalisation]",
            reason="not_finite",
        )
    return found.reshape(len(images), len(tensors), 2)


def observed(
    model: Any, nodes: Sequence[Any], initializers: Sequence[Any], outputs: Sequence[str], images: NDArray[np.uint8]
) -> Iterator[list[NDArray[Any]]]:
    """Run a model with additional nodes on one image at a time, so that memory does not grow with their number.

    Args:
        model: A contract model.
        nodes: To add.
        initializers: To add.
        outputs: Names of the tensors to return.
        images: (N, H, W, 3) uint8.

    Yields:
        The values of the outputs for each image.

    Raises:
        NetworkError: ONNX Runtime cannot load the model.
    """
    extended = _copy(model)
    extended.graph.node.extend(nodes)
    extended.graph.initializer.extend(initializers)
    del extended.graph.output[:]
    extended.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    opened = session(extended)
    for image in images:
        yield opened.run(list(outputs), {INPUT: image[None]})


def logits(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a contract model in ONNX Runtime: (N, H, W, 3) uint8 to (N, classes) float32 logits."""
    return np.concatenate([values[0] for values in observed(model, [], [], [OUTPUT], images)])


def session(model: Any) -> Any:
    """Open a model in ONNX Runtime on the CPU.

    Raises:
        NetworkError: ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:  # by file: a model of more than 2 GiB cannot be serialised
        path = Path(folder) / "model.onnx"
        _save(model, path)
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NetworkError(
                f"ONNX Runtime cannot load the network: {str(error).splitlines()[0][:300]}", reason="network_not_loaded"
            ) from error


def _folded(model: Any) -> Any:
    """Return the model after ONNX Runtime's basic optimisations."""
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
            raise NetworkError(
                f"ONNX Runtime cannot load the network: {str(error).splitlines()[0][:300]}", reason="network_not_loaded"
            ) from error
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
    # Weights beyond protobuf's limit of 2 GiB go into a file beside the model.
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 2**31 - 2**24
    onnx.save_model(_copy(model) if large else model, str(path), save_as_external_data=large)


def _copy(model: Any) -> Any:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
