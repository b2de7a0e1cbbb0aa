"""Conversion of a contract model's network to float16.

Input, normalisation and output keep their types. Nodes whose values exceed float16's range stay in float32; the ranges
are measured on photos and on noise. Types are consistent at every node, with a Cast wherever they change, as strongly
typed TensorRT needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from jpeg_contract.tensors import OUTPUT
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.graphs.onnx_graph import STANDARD, names_read_inside
from jpeg_build.graphs.onnx_values import float_tensors, image_part, output_part, prepared, ranges
from jpeg_build.graphs.opset import opset

# float16 ends at 65504, and other images may exceed the measured ranges by a few times. Below 2^-14 it loses digits.
LARGEST_VALUE = 65504 / 8
LARGEST_WEIGHT = 65504.0
SMALLEST = 2.0**-14

# They compute squares, or sums of squares, that no tensor shows; or they hold the scales of another quantiser.
_KEPT = {
    *("DequantizeLinear", "QuantizeLinear", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LRN"),
    *("LpNormalization", "MeanVarianceNormalization", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
    *("ReduceSumSquare", "RMSNormalization"),
}
# They read no values.
_ANY_TYPE = {"Shape", "Size"}


@dataclass(frozen=True)
class Half:
    """A converted model.

    Attributes:
        model: The model.
        converted: Number of the network's nodes in float16.
        kept: Names of those in float32.
    """

    model: Any
    converted: int
    kept: Sequence[str]


def to_half(model: Any, images: NDArray[np.uint8]) -> Half:
    """Convert a contract model.

    Args:
        model: In any precision.
        images: (N, H, W, 3) uint8, to measure the ranges of the values on.

    Raises:
        NetworkError: ONNX Runtime cannot run the model.
    """
    model = prepared(model)
    around = image_part(model.graph) | output_part(model.graph)
    wide = _out_of_range(model, images)
    forced = names_read_inside(model.graph.node)
    version = opset(model)
    floats = float_tensors(model)
    network = [node for node in model.graph.node if node.name not in around and floats.intersection(node.output)]
    kept = [
        node.name
        for node in network
        if wide.intersection((*node.input, *node.output))
        or forced.intersection(node.output)
        or not _takes_half(node, version)
    ]
    _convert(model, {node.name for node in network} - set(kept), version)
    return Half(model, len(network) - len(kept), kept)


def _out_of_range(model: Any, images: NDArray[np.uint8]) -> set[str]:
    """Return the names of tensors and weights whose values float16 cannot hold, with a margin."""
    tensors = sorted(float_tensors(model))
    largest = np.abs(ranges(model, tensors, images)).max(axis=(0, 2))
    wide = {name for name, value in zip(tensors, largest, strict=True) if value > LARGEST_VALUE or 0 < value < SMALLEST}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = np.abs(numpy_helper.to_array(tensor)).max(initial=0)
            if value > LARGEST_WEIGHT or 0 < value < SMALLEST:
                wide.add(tensor.name)
    return wide


def _takes_half(node: Any, version: int) -> bool:
    """Whether the operator is defined for float16 input and output."""
    if node.domain not in STANDARD or node.op_type in _KEPT:
        return False
    if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
        return False
    return any(_half_slots(node, version, "inputs")) and _half_slots(node, version, "outputs")[0]


def _half_slots(node: Any, version: int, kind: str) -> list[bool]:
    """Return, for each input or output of a node, whether the operator is defined for float16 there."""
    schema = onnx.defs.get_schema(node.op_type, version, "")
    allowed: Mapping[str, Sequence[str]] = {
        constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints
    }
    formal = getattr(schema, kind)
    names = node.input if kind == "inputs" else node.output
    slots = []
    for index in range(len(names)):
        kind_of_slot = formal[min(index, len(formal) - 1)].type_str  # the last one may be repeated
        slots.append("tensor(float16)" in allowed.get(kind_of_slot, [kind_of_slot]))
    return slots


def _convert(model: Any, in_half: set[str], version: int) -> None:
    """Convert the named nodes to float16, with casts where the types change."""
    graph = model.graph
    floats = float_tensors(model)
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves: set[str] = set()
    other: dict[str, str] = {}  # name of a tensor or weight -> name of its copy in the other type
    nodes: list[Any] = []

    def half(name: str) -> str:
        if name in halves:
            return name
        if name not in other:
            other[name] = f"{name}/half"
            if name in weights:
                values = numpy_helper.to_array(weights[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(values, other[name]))
            else:
                nodes.append(_cast(name, other[name], TensorProto.FLOAT16))
        return other[name]

    def single(name: str) -> str:
        if name not in halves:
            return name
        if name not in other:
            other[name] = f"{name}/float"
            nodes.append(_cast(name, other[name], TensorProto.FLOAT))
        return other[name]

    for node in graph.node:
        if node.name not in in_half:
            for slot, name in enumerate(node.input):
                node.input[slot] = name if node.op_type in _ANY_TYPE else single(name)
        else:
            for slot, takes in enumerate(_half_slots(node, version, "inputs")):
                name = node.input[slot]
                if name in floats or name in weights:
                    node.input[slot] = half(name) if takes else single(name)
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to":
                    attribute.i = TensorProto.FLOAT16
            returns = _half_slots(node, version, "outputs")
            halves.update(
                name for name, is_half in zip(node.output, returns, strict=True) if is_half and name in floats
            )
        nodes.append(node)
    if OUTPUT in halves:
        for node in nodes:
            _rename(node.input, OUTPUT, f"{OUTPUT}/half")
            _rename(node.output, OUTPUT, f"{OUTPUT}/half")
        nodes.append(_cast(f"{OUTPUT}/half", OUTPUT, TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | names_read_inside(graph.node)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]  # They state float32.


def _cast(name: str, result: str, to: int) -> Any:
    return helper.make_node("Cast", [name], [result], name=f"cast/{result}", to=to)


def _rename(names: Any, old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
