"""ONNX graphs of the contract: what is put around a network, and what is removed from a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
from jpeg_contract.tensors import INPUT, OUTPUT
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.recipe.keys import Layout
from jpeg_build.recipe.normalisation import GRAY_WEIGHTS, Normalisation
from jpeg_build.recipe.outputs import SMALLEST, OutputKind

STANDARD = ("", "ai.onnx")
"""The domains of ONNX's standard operators: one, by two names."""

# From this opset on, Max takes tensors of different shapes.
_BROADCASTING_MAX = 8


def finish(model: Any, path: Path) -> None:
    """Check a model and write it as one file, without the traces that exporters leave of the machine."""
    for graph in graphs(model.graph):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            item.doc_string = ""
            del item.metadata_props[:]
    del model.metadata_props[:]
    model.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def inputs(graph: Any) -> list[Any]:
    """Return the inputs of a graph that are not weights."""
    weights = {initializer.name for initializer in graph.initializer}
    return [tensor for tensor in graph.input if tensor.name not in weights]


def keep_output(model: Any, name: str) -> None:
    """Remove, in place, the other outputs, and the nodes, weights and inputs that this one does not need."""
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    pending = [name]
    while pending:
        tensor = pending.pop()
        if tensor in needed:
            continue
        needed.add(tensor)
        if tensor in producers:
            pending += names_read([producers[tensor]])
    nodes = [node for node in graph.node if needed.intersection(node.output)]
    needed |= names_read(nodes)
    for items, kept in (
        (graph.node, nodes),
        (graph.input, [tensor for tensor in graph.input if tensor.name in needed]),
        (graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed]),
        (graph.output, [tensor for tensor in graph.output if tensor.name == name]),
    ):
        if len(items) != len(kept):
            replace(items, kept)


def replace(items: Any, kept: Iterable[Any]) -> None:
    """Set the elements of a repeated field, some of which may be its own."""
    copies = []
    for item in kept:
        copies.append(type(item)())
        copies[-1].CopyFrom(item)
    del items[:]
    items.extend(copies)


def wrap(
    model: Any,
    *,
    layout: Layout,
    normalisation: Normalisation,
    crop_size: tuple[int, int],
    classes: int,
    output: OutputKind,
) -> Any:
    """Put the contract around a network: pixels in, logits out, any batch.

    Cast, normalisation and transpose go in front, in the opset of the model. Behind it goes what makes
    logits of its values (`outputs.to_logits`).

    Args:
        model: One float image input in `layout`; one output, (N, classes) or as many values per image, or one.
        layout: Order of the input's axes.
        normalisation: That the network was trained with.
        crop_size: (height, width) of the images.
        classes: Number of classes.
        output: Kind of the output's values.

    Returns:
        A model with `input__0`, (N, H, W, 3) uint8 RGB in [0, 255], and `output__0`, (N, classes) float32 logits.
    """
    height, width = crop_size
    # A prefix keeps the network's names apart from those of the contract.
    model = onnx.compose.add_prefix(model, "network/")
    (tensor,), (result,) = inputs(model.graph), model.graph.output
    before = _Chain(INPUT)
    _normalise(before, normalisation)
    if layout == "NCHW":
        before.add("Transpose", "pixels/transposed", perm=[0, 3, 1, 2])
    before.add("Cast", tensor.name, to=tensor.type.tensor_type.elem_type)
    after = _Chain(result.name)
    opset = next((each.version for each in model.opset_import if each.domain in STANDARD), 1)
    _to_logits(after, classes, output, opset)

    # Before version 4, every constant had to be an input, too.
    model.ir_version = max(model.ir_version, 4)
    graph = model.graph
    nodes = [*before.nodes, *graph.node, *after.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*before.constants, *after.constants])
    # Shapes that were inferred for a fixed batch would contradict the dynamic one.
    del graph.value_info[:]
    weights = {initializer.name for initializer in graph.initializer}
    kept = [item for item in graph.input if item.name in weights]
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", height, width, 3]))
    graph.input.extend(kept)
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
    return model


class _Chain:
    """Nodes that go around a network, and their constants.

    Args:
        start: Name of the tensor that the first node reads.
    """

    def __init__(self, start: str) -> None:
        self.last = start
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, name: str, *others: str, after: Sequence[str] | None = None, **attributes: Any) -> str:
        """Append a node that reads the last tensor, or those of `after`, and then `others`; return its output."""
        read = [self.last] if after is None else list(after)
        self.nodes.append(helper.make_node(operator, [*read, *others], [name], **attributes))
        self.last = name
        return name

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        """Add a constant; return its name."""
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name


def _normalise(chain: _Chain, normalisation: Normalisation) -> None:
    """Append the cast and the normalisation, in NHWC."""
    chain.add("Cast", "pixels/float", to=TensorProto.FLOAT)
    if normalisation.color == "BGR":
        chain.add("Gather", "pixels/reversed", chain.constant("pixels/bgr", [2, 1, 0], np.int64), axis=3)
    elif normalisation.color == "GRAY":
        # Channel by channel: a matrix product would be taken for a layer, and quantised.
        rgb, weighted = chain.last, []
        for place, weight in enumerate(GRAY_WEIGHTS):
            index = chain.constant(f"pixels/place{place}", [place], np.int64)
            chain.add("Gather", f"pixels/channel{place}", index, after=[rgb], axis=3)
            weighted.append(
                chain.add("Mul", f"pixels/weighted{place}", chain.constant(f"pixels/weight{place}", weight))
            )
        chain.add("Sum", "pixels/gray", after=weighted)
    mean, std = (np.array(values, np.float64) * 255 for values in (normalisation.mean, normalisation.std))
    chain.add("Sub", "pixels/centred", chain.constant("pixels/mean", mean))
    chain.add("Mul", "pixels/normalised", chain.constant("pixels/scale", 1 / std))


def _to_logits(chain: _Chain, classes: int, output: OutputKind, opset: int) -> None:
    """Append what makes logits of the network's values; the last output is the contract's."""
    shape = chain.constant("logits/shape", [-1, 1 if output.single else classes], np.int64)
    chain.add("Reshape", "logits/flat", shape)
    values = chain.add("Cast", "logits/float", to=TensorProto.FLOAT)
    if output.values == "probabilities":
        smallest = chain.constant("logits/smallest", SMALLEST)
        if opset < _BROADCASTING_MAX:
            chain.add("Mul", "logits/nothing", chain.constant("logits/none", 0))
            smallest = chain.add("Add", "logits/floor", smallest)
            chain.last = values
        chain.add("Max", "logits/positive", smallest)
        log = chain.add("Log", "logits/log")
        if output.head == "sigmoid" or output.single:
            chain.add("Sub", "logits/rest", after=[chain.constant("logits/one", 1), values])
            chain.add("Max", "logits/positive_rest", smallest)
            chain.add("Sub", "logits/odds", after=[log, chain.add("Log", "logits/log_rest")])
    if output.single:
        value = chain.last
        zeros = chain.add("Mul", "logits/zeros", chain.constant("logits/zero", 0))
        chain.add("Concat", "logits/both", after=[zeros, value], axis=1)
    chain.nodes[-1].output[0] = OUTPUT


def describe(tensor: Any) -> str:
    """Describe data type and shape of a graph's input or output for messages: `float[N,3,224,224]`."""
    kind = tensor.type.tensor_type
    if not kind.HasField("shape"):
        return f"{TensorProto.DataType.Name(kind.elem_type).lower()} of unknown shape"
    shape = ",".join(dim.dim_param or str(dim.dim_value or "?") for dim in kind.shape.dim)
    return f"{TensorProto.DataType.Name(kind.elem_type).lower()}[{shape}]"


def sizes(tensor: Any) -> list[int]:
    """Return the sizes of a graph's input or output; 0 for an axis that is not fixed."""
    return [dim.dim_value for dim in tensor.type.tensor_type.shape.dim]


def graphs(graph: Any) -> list[Any]:
    """Return a graph and the graphs inside its nodes (branches, loop bodies)."""
    return [graph, *(inner for node in graph.node for each in _inner_graphs(node) for inner in graphs(each))]


def names_read(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the tensors that nodes read, those that only their inner graphs read included."""
    return {name for node in nodes for name in node.input} | names_read_inside(nodes)


def names_read_inside(nodes: Iterable[Any]) -> set[str]:
    """Return the names of the tensors that the inner graphs of nodes read, which are not among the nodes' inputs."""
    found: set[str] = set()
    for node in nodes:
        for inner in _inner_graphs(node):
            found |= names_read(inner.node) | {item.name for item in inner.output}
    return found


def _inner_graphs(node: Any) -> list[Any]:
    found = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            found += attribute.graphs
    return found
