"""ONNX graphs of the contract: what is put around a network, and what is taken out of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.contract import INPUT, OUTPUT, SMALLEST_PROBABILITY
from jpeg_build.errors import NetworkError
from jpeg_build.recipe import Layout, Normalisation, Output

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


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


def image_input(model: Any) -> Any:
    """The one input of a user's model that is no weight.

    Raises NetworkError if there is not exactly one, or if it is no batch of float images.
    """
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = [tensor for tensor in model.graph.input if tensor.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(tensor.name for tensor in inputs) or "none"
        raise NetworkError(f"the ONNX file must have one input, the image; it has {names}")
    kind = inputs[0].type.tensor_type
    if len(kind.shape.dim) != 4 or kind.elem_type not in _FLOATS:
        raise NetworkError(
            f"input {inputs[0].name} must be a batch of float images with 4 axes, not {describe(inputs[0])}"
        )
    return inputs[0]


def find_layout(tensor: Any, stated: Layout | None) -> Layout:
    """NCHW or NHWC: as stated, or by where the axis of 3 channels is.

    Raises NetworkError if that is not clear, or contradicts what is stated.
    """
    sizes = [dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
    possible: list[Layout] = []
    if sizes[1] in (0, 3):
        possible.append("NCHW")
    if sizes[3] in (0, 3):
        possible.append("NHWC")
    if stated is not None:
        if stated not in possible:
            raise NetworkError(f'input {tensor.name} is {describe(tensor)}, which is not layout = "{stated}"')
        return stated
    if sizes[1] == 3 and sizes[3] != 3:
        return "NCHW"
    if sizes[3] == 3 and sizes[1] != 3:
        return "NHWC"
    raise NetworkError(f'input {tensor.name} is {describe(tensor)}: say layout = "NCHW" or "NHWC" in [source]')


def check_size(tensor: Any, layout: Layout, crop_size: tuple[int, int]) -> None:
    """Raises NetworkError if the input takes images of another size than the recipe makes."""
    height, width = crop_size
    sizes = [dim.dim_value for dim in tensor.type.tensor_type.shape.dim]
    wanted = [0, 3, height, width] if layout == "NCHW" else [0, height, width, 3]
    if any(size not in (0, want) for size, want in zip(sizes[1:], wanted[1:], strict=True)):
        raise NetworkError(
            f"input {tensor.name} is {describe(tensor)}, but [geometry] crop_size makes images of "
            f"{height}x{width} pixels: mend the recipe"
        )


def wrap(
    model: Any,
    *,
    layout: Layout,
    normalisation: Normalisation,
    crop_size: tuple[int, int],
    classes: int,
    output: Output,
) -> Any:
    """Put the contract around a user's network: pixels in, logits out, any batch.

    model: one float image input in `layout`; its first output is (N, classes), or has that many values an image.
    Cast, normalise and transpose go in front, in the opset of the model; for probabilities, a logarithm behind,
    which makes them logits whose softmax they are.

    Raises NetworkError if the image sizes differ.
    """
    height, width = crop_size
    check_size(image_input(model), layout, crop_size)
    # Everything of the user's gets a name that cannot collide with ours.
    model = onnx.compose.add_prefix(model, "network/")
    tensor, result = image_input(model), model.graph.output[0]

    constants = {
        "pixels/mean": np.array(normalisation.mean, np.float64) * 255,
        "pixels/scale": 1 / (np.array(normalisation.std, np.float64) * 255),
    }
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    before = [helper.make_node("Cast", [INPUT], ["pixels/float"], to=TensorProto.FLOAT)]
    last = "pixels/float"
    if normalisation.color == "BGR":
        initializers.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "pixels/bgr"))
        before.append(helper.make_node("Gather", [last, "pixels/bgr"], ["pixels/reversed"], axis=3))
        last = "pixels/reversed"
    before.append(helper.make_node("Sub", [last, "pixels/mean"], ["pixels/centred"]))
    before.append(helper.make_node("Mul", ["pixels/centred", "pixels/scale"], ["pixels/normalised"]))
    last = "pixels/normalised"
    if layout == "NCHW":
        before.append(helper.make_node("Transpose", [last], ["pixels/transposed"], perm=[0, 3, 1, 2]))
        last = "pixels/transposed"
    before.append(helper.make_node("Cast", [last], [tensor.name], to=tensor.type.tensor_type.elem_type))

    initializers.append(numpy_helper.from_array(np.array([-1, classes], np.int64), "logits/shape"))
    after = [
        helper.make_node("Reshape", [result.name, "logits/shape"], ["logits/flat"]),
        helper.make_node(
            "Cast",
            ["logits/flat"],
            ["logits/float" if output == "probabilities" else OUTPUT],
            to=TensorProto.FLOAT,
        ),
    ]
    if output == "probabilities":
        initializers.append(numpy_helper.from_array(np.array(SMALLEST_PROBABILITY, np.float32), "logits/smallest"))
        after.append(helper.make_node("Max", ["logits/float", "logits/smallest"], ["logits/positive"]))
        after.append(helper.make_node("Log", ["logits/positive"], [OUTPUT]))

    graph = model.graph
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    # Shapes that were noted for a fixed batch would contradict the dynamic one.
    del graph.value_info[:]
    weights = {initializer.name for initializer in graph.initializer}
    kept = [item for item in graph.input if item.name in weights]
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", height, width, 3]))
    graph.input.extend(kept)
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
    return model


def describe(tensor: Any) -> str:
    """Data type and shape of a graph's input or output, for messages: `float[N,3,224,224]`."""
    kind = tensor.type.tensor_type
    shape = ",".join(dim.dim_param or str(dim.dim_value or "?") for dim in kind.shape.dim)
    return f"{TensorProto.DataType.Name(kind.elem_type).lower()}[{shape}]"


def graphs(graph: Any) -> list[Any]:
    """A graph and the graphs inside its nodes (branches, loop bodies)."""
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found += graphs(attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                found += [inner for each in attribute.graphs for inner in graphs(each)]
    return found
