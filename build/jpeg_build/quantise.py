"""A contract model with its network in int8: QuantizeLinear and DequantizeLinear around what is computed in integers.

ONNX Runtime's quantiser puts them in. Around it, three things that a handful of photos gain much from (the numbers
are in docs/classifiers.md):

- The range of a tensor is the mean of the ranges that single images have, not the range over all of them, so that
  one odd image does not take the resolution from all others. This is also what OpenVINO's NNCF does.
- Rounding weights shifts the mean of a layer's output; the shift is taken back from its bias ("bias correction":
  Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2, here with
  measured inputs).
- The first layers, whose errors all others carry on, stay in float32 if the logits come closer by that.

Normalisation and what comes after the last layer stay in float32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.contract import OUTPUT
from jpeg_build.errors import NetworkError
from jpeg_build.onnx_values import (
    WEIGHTED,
    answer_part,
    float_tensors,
    image_part,
    logits,
    observed,
    opset,
    prepared,
    ranges,
    with_opset,
)

Dialect = Literal["onnxruntime", "openvino", "tensorrt"]

# Per-channel scales of weights came with opset 13.
OLDEST_OPSET = 13

# How many of the first layers are kept in float32, tried in this order until the mean difference of a logit is below
# GOOD_ENOUGH of the largest one. TensorRT gets a wider bound: the first layers, which have the most pixels, cost
# most on a GPU (bench/NOTES.md).
KEPT_LAYERS = (0, 1, 3, 5)
GOOD_ENOUGH = {"onnxruntime": 0.008, "openvino": 0.008, "tensorrt": 0.012}

# Images that the logits are compared on for that, and that the shift of the means is measured on.
JUDGED_IMAGES = 32

# A tensor of fewer values for each image has its range over all images.
FEW_VALUES = 4096

# What ONNX Runtime and OpenVINO compute in integers on CPUs when everything around it is quantised.
_CPU_OPERATORS = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Clip", "Relu", "Concat", "MaxPool", "AveragePool"),
    *("GlobalAveragePool", "Flatten", "Reshape", "Squeeze", "Unsqueeze"),
]


@dataclass(frozen=True)
class Quantised:
    """A quantised model. layers: how many are computed in int8; kept: names of those that stayed in float32."""

    model: Any
    layers: int
    kept: Sequence[str]


def quantise(model: Any, images: NDArray[np.uint8], dialect: Dialect, say: Callable[[str], None]) -> Quantised:
    """Quantise a contract model.

    images: (N, H, W, 3) uint8, like those the network will see; they are looked at one by one.
    dialect: `tensorrt` gets symmetric int8 for the inputs of layers alone, weights in float32 followed by their
    quantiser, and biases in float32, which TensorRT 8.6 and later read. CPUs get uint8 with a zero point between
    all layers, and int32 biases.

    Raises NetworkError if the model cannot be quantised.
    """
    if opset(model) < OLDEST_OPSET:
        try:
            model = with_opset(model, OLDEST_OPSET)
        except ValueError as error:
            raise NetworkError(
                f"int8 needs an ONNX file of opset {OLDEST_OPSET} or later, and this one is of opset {opset(model)}, "
                f"which ONNX cannot convert ({error}): export it again with a later opset"
            ) from error
    model = prepared(model)
    layers = _layers(model)
    if not layers:
        raise NetworkError("the network has no convolution or matrix product with constant weights to quantise")
    _add_biases(model, layers)
    say(f"calibrating int8 on {len(images)} images")
    found = _ranges(model, images)
    judged = images[:: max(1, len(images) // JUDGED_IMAGES)][:JUDGED_IMAGES]
    wanted = logits(model, judged)
    means = _Means(model, judged)
    best: tuple[float, Quantised] | None = None
    for count in KEPT_LAYERS:
        kept = [layer.name for layer in layers[:count]]
        if len(kept) == len(layers):
            break
        quantised = _insert(model, found, kept, dialect)
        means.correct(quantised, layers[count:])
        if dialect == "tensorrt":
            _quantise_residuals(quantised, found)
        off = float(np.abs(logits(quantised, judged) - wanted).mean() / max(np.abs(wanted).max(), 1e-6))
        if best is None or off < best[0]:
            best = off, Quantised(quantised, len(layers) - len(kept), kept)
        if off < GOOD_ENOUGH[dialect]:
            break
    assert best is not None
    return best[1]


def _layers(model: Any) -> list[Any]:
    """The nodes with constant weights, in the order in which they are computed."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in weights]


def _add_biases(model: Any, layers: Sequence[Any]) -> None:
    """Give every convolution a bias, so that there is one to be corrected."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in layers:
        if node.op_type == "Conv" and len(node.input) == 2:
            name = f"{node.name}/bias"
            values = np.zeros(sizes[node.input[1]][0], np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
            node.input.append(name)


def _ranges(model: Any, images: NDArray[np.uint8]) -> dict[str, tuple[np.float32, np.float32]]:
    """For each float tensor its smallest and largest value: the mean over the images.

    Over all images it is for tensors of few values, whose range in one image says little of the next one's, and for
    what comes after the last layer: the largest logit of all must not be clipped.
    """
    tensors = sorted(float_tensors(model))
    each = ranges(model, tensors, images)
    mean, least, most = each.mean(axis=0, dtype=np.float64), each[..., 0].min(axis=0), each[..., 1].max(axis=0)
    behind = answer_part(model.graph)
    answers = {name for node in model.graph.node if node.name in behind for name in (*node.input, *node.output)}
    whole = answers | {OUTPUT} | _small_tensors(model)
    return {
        name: (least[i], most[i]) if name in whole else (np.float32(mean[i, 0]), np.float32(mean[i, 1]))
        for i, name in enumerate(tensors)
    }


def _small_tensors(model: Any) -> set[str]:
    """Names of tensors with few values for each image, such as what is left after global pooling."""
    small = set()
    for item in model.graph.value_info:
        sizes = [dim.dim_value for dim in item.type.tensor_type.shape.dim[1:]]
        if all(sizes) and math.prod(sizes) < FEW_VALUES:
            small.add(item.name)
    return small


def _insert(
    model: Any, found: Mapping[str, tuple[np.float32, np.float32]], kept: Sequence[str], dialect: Dialect
) -> Any:
    """Put QuantizeLinear and DequantizeLinear in, by ONNX Runtime's quantiser."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    tensorrt = dialect == "tensorrt"
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    around = image_part(model.graph) | answer_part(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    # Sums with a constant are no residual connections: biases, and parts of what was not recognised as one operator.
    sums = [n.name for n in model.graph.node if n.op_type in ("Add", "Concat") and weights.intersection(n.input)]
    with _quiet():
        quantizer = QDQQuantizer(
            copied,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
            tensors_range=TensorsData(
                CalibrationMethod.MinMax, {name: (np.array(low), np.array(high)) for name, (low, high) in found.items()}
            ),
            nodes_to_quantize=[],
            nodes_to_exclude=[*sorted(around), *sums, *kept],
            op_types_to_quantize=sorted(WEIGHTED) if tensorrt else _CPU_OPERATORS,
            extra_options={
                "ActivationSymmetric": tensorrt,
                "AddQDQPairToWeight": tensorrt,
                "MatMulConstBOnly": True,
                # Logits are not rounded to 256 steps.
                "OpTypesToExcludeOutputQuantization": sorted(WEIGHTED) if tensorrt else ["Gemm", "MatMul"],
                "QuantizeBias": not tensorrt,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    return quantizer.model.model


class _Means:
    """The mean input of each layer's weights, by which the shift that rounded weights cause is found."""

    def __init__(self, model: Any, images: NDArray[np.uint8]) -> None:
        self._model, self._images = model, images
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def correct(self, quantised: Any, layers: Sequence[Any]) -> None:
        """Add to each bias of a quantised model what the mean of the layer's output has lost, by channel.

        For a layer y = W x + b with rounded weights Q that is the mean of (W - Q) x over images and positions.
        """
        values = _Values(quantised.graph)
        nodes, errors, outputs, targets = [], [], [], []
        for layer in layers:
            twin = values.nodes.get(layer.name)
            if twin is None or not _has_plain_bias(layer) or not values.is_bias(twin.input[2]):
                continue
            error = numpy_helper.to_array(self._weights[layer.input[1]]) - values.constant(twin.input[1])
            name = f"shift/{layer.name}"
            errors.append(numpy_helper.from_array(error.astype(np.float32), f"{name}/weights"))
            branch = onnx.NodeProto()
            branch.CopyFrom(layer)
            branch.name = name
            del branch.input[:], branch.output[:]
            branch.input.extend([layer.input[0], f"{name}/weights"])
            branch.output.append(f"{name}/output")
            nodes.append(branch)
            if layer.op_type == "Conv":
                nodes.append(helper.make_node("GlobalAveragePool", [f"{name}/output"], [f"{name}/mean"]))
                outputs.append(f"{name}/mean")
            else:
                outputs.append(f"{name}/output")
            targets.append(twin.input[2])
        if not outputs:
            return
        shifts = [np.zeros(1)] * len(outputs)
        for answer in observed(self._model, nodes, errors, outputs, self._images):
            shifts = [
                shift + value.astype(np.float64).mean(axis=0).ravel()
                for shift, value in zip(shifts, answer, strict=True)
            ]
        for target, shift in zip(targets, shifts, strict=True):
            values.add_to_bias(target, shift / len(self._images))


def _has_plain_bias(layer: Any) -> bool:
    """Whether a layer adds its third input as it is."""
    if layer.op_type not in ("Conv", "Gemm") or len(layer.input) < 3 or not layer.input[2]:
        return False
    factors = {attribute.name: attribute.f for attribute in layer.attribute if attribute.name in ("alpha", "beta")}
    return all(factor == 1 for factor in factors.values())


class _Values:
    """The constants of a quantised graph: weights as they are computed with, biases to be changed."""

    def __init__(self, graph: Any) -> None:
        self.nodes = {node.name: node for node in graph.node}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {output: node for node in graph.node for output in node.output}

    def constant(self, name: str) -> NDArray[Any]:
        """The values of an initializer, after the quantisers and dequantisers on its way."""
        values: NDArray[Any]
        if name in self._tensors:
            values = numpy_helper.to_array(self._tensors[name])
            return values
        node = self._producers[name]
        values, scale = self.constant(node.input[0]), self.constant(node.input[1])
        zero = self.constant(node.input[2])
        if scale.ndim:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            shape = [1] * values.ndim
            shape[axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        if node.op_type == "DequantizeLinear":
            values = (values.astype(np.float32) - zero.astype(np.float32)) * scale
        else:
            limits = np.iinfo(zero.dtype)
            values = np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(zero.dtype)
        return values

    def is_bias(self, name: str) -> bool:
        """Whether a bias is a constant of one axis, in float32 or int32."""
        if name not in self._tensors:
            producer = self._producers.get(name)
            if producer is None or producer.op_type != "DequantizeLinear":
                return False
            name = producer.input[0]
        return name in self._tensors and len(self._tensors[name].dims) == 1

    def add_to_bias(self, name: str, shift: NDArray[np.float64]) -> None:
        """Change a bias in its place."""
        tensor = self._tensors.get(name)
        if tensor is not None:
            values = numpy_helper.to_array(tensor) + shift
        else:
            node = self._producers[name]
            tensor = self._tensors[node.input[0]]
            values = numpy_helper.to_array(tensor) + np.rint(shift / self.constant(node.input[1]))
        kind = np.int32 if tensor.data_type == TensorProto.INT32 else np.float32
        tensor.CopyFrom(numpy_helper.from_array(values.astype(kind), tensor.name))


def _quantise_residuals(model: Any, found: Mapping[str, tuple[np.float32, np.float32]]) -> None:
    """Let each sum of two tensors read one of them quantised: TensorRT then fuses it into the layer before it.

    Where a layer reads a tensor quantised anyway, the sum reads the same form, and one form of it is kept in memory.
    Where none does, as behind the convolution of a shortcut, the sum gets a quantiser of its own.
    """
    graph = model.graph
    dequantised = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    read = {
        node.input[0]: dequantised[node.output[0]]
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.output[0] in dequantised
    }
    constant = {tensor.name for tensor in graph.initializer}
    before: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        # A sum with a constant is a bias, and no shortcut.
        if not {*read, *constant}.intersection(node.input) and node.input[1] in found:
            name = node.input[1]
            read[name], before[node.name] = _quantiser(graph, name, found[name])
        for slot, name in enumerate(node.input):
            node.input[slot] = read.get(name, name)
    nodes = [new for node in graph.node for new in (*before.get(node.name, ()), node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _quantiser(graph: Any, name: str, limits: tuple[np.float32, np.float32]) -> tuple[str, list[Any]]:
    """The name of a tensor's quantised form, symmetric in int8, and the two nodes that make it."""
    scale = max(float(np.abs(limits).max()), 1e-9) / 127
    parameters = [f"{name}/residual/scale", f"{name}/residual/zero_point"]
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), parameters[0]))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), parameters[1]))
    ends = [f"{name}/residual/quantised", f"{name}/residual/dequantised"]
    return ends[1], [
        helper.make_node("QuantizeLinear", [name, *parameters], [ends[0]], name=f"{name}/residual/QuantizeLinear"),
        helper.make_node(
            "DequantizeLinear", [ends[0], *parameters], [ends[1]], name=f"{name}/residual/DequantizeLinear"
        ),
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser gives advice on preparing models through the root logger; here that is done already."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
