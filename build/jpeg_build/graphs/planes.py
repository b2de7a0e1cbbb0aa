"""Normalisation in NCHW: runtimes vectorise poorly over three channels."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import numpy_helper

from jpeg_build.graphs.onnx_graph import graphs, replace

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}
_TO_PLANES = [0, 3, 1, 2]


def normalise_planes(model: Any) -> Any:
    """Move the transposition to NCHW in front of the normalisation; the results stay the same.

    ONNX Runtime on a CPU normalises an image of 224 x 224 pixels in 1.3 ms in NHWC, a seventh of MobileNetV2's time,
    and in 0.06 ms in NCHW (bench/NOTES.md). Not for TensorRT 8.6: there NHWC is faster for fp16, and int8 engines fail
    to build from NCHW.

    Args:
        model: A contract model.

    Returns:
        A changed copy, whose constants of the normalisation are of shape (3, 1, 1). The model itself if it has no such
        transposition, or if it has branches or loops, whose bodies may read the moved tensors.
    """
    if len(graphs(model.graph)) > 1:
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for transpose in graph.node:
        # Without `perm` it reverses the axes.
        if transpose.op_type != "Transpose" or [list(each.ints) for each in transpose.attribute] != [_TO_PLANES]:
            continue
        chain = _arithmetic_before(transpose, producers, constants, readers)
        if not chain:
            continue
        _move(graph, transpose, chain, constants)
        del graph.value_info[:]
        return onnx.shape_inference.infer_shapes(changed)
    return model


def _arithmetic_before(
    transpose: Any, producers: dict[str, Any], constants: dict[str, Any], readers: dict[str, int]
) -> list[Any]:
    """Return the arithmetic nodes between the pixels and a transposition, the last one first.

    Each of them has one constant, a scalar or one value per channel, and a result that no other node reads.
    """
    chain = []
    name = transpose.input[0]
    while (node := producers.get(name)) is not None and node.op_type in _ELEMENTWISE and readers[name] == 1:
        images = [each for each in node.input if each not in constants]
        fixed = [constants[each] for each in node.input if each in constants]
        if len(images) != 1 or len(fixed) != 1 or list(fixed[0].dims) not in ([], [1], [3]):
            break
        chain.append(node)
        name = images[0]
    return chain


def _move(graph: Any, transpose: Any, chain: list[Any], constants: dict[str, Any]) -> None:
    first, last = chain[-1], chain[0]
    slot = next(index for index, name in enumerate(first.input) if name not in constants)
    pixels, planes, normalised = first.input[slot], transpose.output[0], last.output[0]
    for node in chain:
        for index, name in enumerate(node.input):
            if name in constants and list(constants[name].dims) == [3]:
                # A new constant: another node may read the old one.
                values = numpy_helper.to_array(constants[name]).reshape(3, 1, 1)
                node.input[index] = f"{name}/planes/{node.name}"
                graph.initializer.append(numpy_helper.from_array(values, node.input[index]))
    transpose.input[0], transpose.output[0] = pixels, f"{pixels}/planes"
    first.input[slot] = transpose.output[0]
    last.output[0] = planes
    nodes = []
    for node in graph.node:
        if node.output[0] == first.output[0]:
            nodes.append(transpose)
        if node.output[0] != transpose.output[0]:
            nodes.append(node)
    replace(graph.node, nodes)
    used = {name for node in graph.node for name in node.input}
    replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    assert normalised not in used
