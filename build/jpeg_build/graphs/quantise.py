"""Quantisation of a contract model's network to int8: QuantizeLinear and DequantizeLinear around integer operators.

ONNX Runtime's quantiser inserts them. Three additions, which help most with few calibration images (measured in
docs/classifiers.md):

- The range of a tensor is the mean of its ranges in single images, not its range over all of them, so that one unusual
  image does not cost all others their resolution. OpenVINO's NNCF does the same.
- Rounded weights shift the mean of a layer's output; its bias is corrected by that shift ("bias correction": Nagel et
  al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2, here with measured
  inputs).
- The first layers, whose errors propagate through all others, stay in float32 if that brings the logits closer.

Normalisation, and all nodes behind the last layer, stay in float32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from jpeg_contract.command_line import Progress
from jpeg_contract.tensors import OUTPUT
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.errors import NetworkError
from jpeg_build.graphs.onnx_values import (
    WEIGHTED,
    float_tensors,
    image_part,
    logits,
    observed,
    opset,
    output_part,
    prepared,
    ranges,
    with_opset,
)

Dialect = Literal["onnxruntime", "openvino", "tensorrt"]

# Opset 13 introduced per-channel scales.
OLDEST_OPSET = 13

# How many of the first layers stay in float32: tried in this order until the mean difference of the logits is below
# TARGET_DIFFERENCE of the largest one. TensorRT's target is wider: the first layers, which have the most pixels, cost
# most on a GPU (bench/NOTES.md).
KEPT_LAYERS = (0, 1, 3, 5)
TARGET_DIFFERENCE = {"onnxruntime": 0.008, "openvino": 0.008, "tensorrt": 0.012}

# Images that the logits are compared on, and that the shift of the means is measured on.
COMPARED_IMAGES = 32

# The range of a tensor with fewer values per image is taken over all images.
FEW_VALUES = 4096

# Operators that ONNX Runtime and OpenVINO compute in integers on CPUs if their neighbours are quantised.
_CPU_OPERATORS = [
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Clip", "Relu", "Concat", "MaxPool", "AveragePool"),
    *("GlobalAveragePool", "Flatten", "Reshape", "Squeeze", "Unsqueeze"),
]


@dataclass(frozen=True)
class Quantised:
    """A quantised model.

    Attributes:
        model: The model.
        layers: Number of layers in int8.
        kept: Names of the layers in float32.
    """

    model: Any
    layers: int
    kept: Sequence[str]


def quantise(model: Any, images: NDArray[np.uint8], dialect: Dialect, progress: Progress) -> Quantised:
    """Quantise a contract model.

    Args:
        model: In fp32.
        images: (N, H, W, 3) uint8, like those that the server gets; run one at a time.
        dialect: `tensorrt`: symmetric int8 for the inputs of layers only, weights in float32 followed by their
            quantiser, and biases in float32, for TensorRT 8.6 and later. CPUs: uint8 with a zero point between all
            layers, and int32 biases.
        progress: Takes the steps of the work.

    Raises:
        NetworkError: The model cannot be quantised.
    """
    if opset(model) < OLDEST_OPSET:
        try:
            model = with_opset(model, OLDEST_OPSET)
        except ValueError as error:
            raise NetworkError(
                f"int8 needs an ONNX file of opset {OLDEST_OPSET} or later, and this one is of opset {opset(model)}, "
                f"which ONNX cannot convert ({error}): export it again with a later opset",
                reason="opset_too_old",
            ) from error
    model = prepared(model)
    layers = _layers(model)
    if not layers:
        raise NetworkError(
            "the network has no convolution or matrix product with constant weights to quantise: use --precision fp16",
            reason="not_quantisable",
        )
    _add_biases(model, layers)
    progress(f"calibrating int8 on {len(images)} images")
    measured = _ranges(model, images)
    compared = images[:: max(1, len(images) // COMPARED_IMAGES)][:COMPARED_IMAGES]
    expected = logits(model, compared)
    means = _Means(model, compared)
    best: tuple[float, Quantised] | None = None
    for count in KEPT_LAYERS:
        kept = [layer.name for layer in layers[:count]]
        if len(kept) == len(layers):
            break
        quantised = _insert(model, measured, kept, dialect)
        means.correct(quantised, layers[count:])
        if dialect == "tensorrt":
            _quantise_residuals(quantised, measured)
        difference = np.abs(logits(quantised, compared) - expected).mean() / max(np.abs(expected).max(), 1e-6)
        if best is None or difference < best[0]:
            best = float(difference), Quantised(quantised, len(layers) - len(kept), kept)
        if difference < TARGET_DIFFERENCE[dialect]:
            break
    assert best is not None
    return best[1]


def _layers(model: Any) -> list[Any]:
    """Return the nodes with constant weights, in the order of computation."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type in WEIGHTED and node.input[1] in weights]


def _add_biases(model: Any, layers: Sequence[Any]) -> None:
    """Add a bias to every convolution without one, so that it can be corrected."""
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in layers:
        if node.op_type == "Conv" and len(node.input) == 2:
            name = f"{node.name}/bias"
            values = np.zeros(sizes[node.input[1]][0], np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
            node.input.append(name)


def _ranges(model: Any, images: NDArray[np.uint8]) -> dict[str, tuple[np.float32, np.float32]]:
    """Measure the range of each float tensor: smallest and largest value, both as the mean over the images.

    For tensors of few values, whose range varies from image to image, and behind the last layer, where the largest
    logit of all must not be clipped, it is the range over all images.
    """
    tensors = sorted(float_tensors(model))
    each = ranges(model, tensors, images)
    mean, least, most = each.mean(axis=0, dtype=np.float64), each[..., 0].min(axis=0), each[..., 1].max(axis=0)
    behind = output_part(model.graph)
    outputs = {name for node in model.graph.node if node.name in behind for name in (*node.input, *node.output)}
    whole = outputs | {OUTPUT} | _small_tensors(model)
    return {
        name: (least[i], most[i]) if name in whole else (np.float32(mean[i, 0]), np.float32(mean[i, 1]))
        for i, name in enumerate(tensors)
    }


def _small_tensors(model: Any) -> set[str]:
    """Return the names of tensors with few values per image, such as those behind global pooling."""
    small = set()
    for item in model.graph.value_info:
        sizes = [dim.dim_value for dim in item.type.tensor_type.shape.dim[1:]]
        if all(sizes) and math.prod(sizes) < FEW_VALUES:
            small.add(item.name)
    return small


def _insert(
    model: Any, measured: Mapping[str, tuple[np.float32, np.float32]], kept: Sequence[str], dialect: Dialect
) -> Any:
    """Insert QuantizeLinear and DequantizeLinear with ONNX Runtime's quantiser."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    tensorrt = dialect == "tensorrt"
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    around = image_part(model.graph) | output_part(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    # A sum with a constant is a bias or a part of a composite operator, and not a residual connection.
    sums = [n.name for n in model.graph.node if n.op_type in ("Add", "Concat") and weights.intersection(n.input)]
    with _quiet():
        quantizer = QDQQuantizer(
            copied,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
            tensors_range=TensorsData(
                CalibrationMethod.MinMax,
                {name: (np.array(low), np.array(high)) for name, (low, high) in measured.items()},
            ),
            nodes_to_quantize=[],
            nodes_to_exclude=[*sorted(around), *sums, *kept],
            op_types_to_quantize=sorted(WEIGHTED) if tensorrt else _CPU_OPERATORS,
            extra_options={
                "ActivationSymmetric": tensorrt,
                "AddQDQPairToWeight": tensorrt,
                "MatMulConstBOnly": True,
                # Logits keep their resolution.
                "OpTypesToExcludeOutputQuantization": sorted(WEIGHTED) if tensorrt else ["Gemm", "MatMul"],
                "QuantizeBias": not tensorrt,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    return quantizer.model.model


class _Means:
    """The shift of the mean output of each layer by its rounded weights.

    Args:
        model: Before quantisation.
        images: (N, H, W, 3) uint8, to measure on.
    """

    def __init__(self, model: Any, images: NDArray[np.uint8]) -> None:
        self._model, self._images = model, images
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def correct(self, quantised: Any, layers: Sequence[Any]) -> None:
        """Correct the biases of a quantised model, in place.

        For a layer y = W x + b with rounded weights Q, the bias of a channel grows by the mean of (W - Q) x over images
        and positions.

        Args:
            quantised: The model.
            layers: Those to correct, of the model before quantisation.
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
        for values_of_image in observed(self._model, nodes, errors, outputs, self._images):
            shifts = [
                shift + value.astype(np.float64).mean(axis=0).ravel()
                for shift, value in zip(shifts, values_of_image, strict=True)
            ]
        for target, shift in zip(targets, shifts, strict=True):
            values.add_to_bias(target, shift / len(self._images))


def _has_plain_bias(layer: Any) -> bool:
    """Whether a layer adds its third input unscaled."""
    if layer.op_type not in ("Conv", "Gemm") or len(layer.input) < 3 or not layer.input[2]:
        return False
    factors = {attribute.name: attribute.f for attribute in layer.attribute if attribute.name in ("alpha", "beta")}
    return all(factor == 1 for factor in factors.values())


class _Values:
    """The constants of a quantised graph: dequantised weights, and biases, which can be changed."""

    def __init__(self, graph: Any) -> None:
        self.nodes = {node.name: node for node in graph.node}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {output: node for node in graph.node for output in node.output}

    def constant(self, name: str) -> NDArray[Any]:
        """Return the values of an initializer behind its quantisers and dequantisers."""
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
        """Whether a bias is a constant with one axis, in float32 or int32."""
        if name not in self._tensors:
            producer = self._producers.get(name)
            if producer is None or producer.op_type != "DequantizeLinear":
                return False
            name = producer.input[0]
        return name in self._tensors and len(self._tensors[name].dims) == 1

    def add_to_bias(self, name: str, shift: NDArray[np.float64]) -> None:
        """Add to a bias in place."""
        tensor = self._tensors.get(name)
        if tensor is not None:
            values = numpy_helper.to_array(tensor) + shift
        else:
            node = self._producers[name]
            tensor = self._tensors[node.input[0]]
            values = numpy_helper.to_array(tensor) + np.rint(shift / self.constant(node.input[1]))
        kind = np.int32 if tensor.data_type == TensorProto.INT32 else np.float32
        tensor.CopyFrom(numpy_helper.from_array(values.astype(kind), tensor.name))


def _quantise_residuals(model: Any, measured: Mapping[str, tuple[np.float32, np.float32]]) -> None:
    """Quantise one side of each sum of two tensors: TensorRT then fuses the sum into the layer in front of it.

    If a layer reads a tensor in quantised form, the sum reads that form, and TensorRT keeps one copy of it in memory.
    Otherwise, as behind the convolution of a shortcut, the sum gets a quantiser of its own.
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
        # A sum with a constant is a bias, and not a shortcut.
        if not {*read, *constant}.intersection(node.input) and node.input[1] in measured:
            name = node.input[1]
            read[name], before[node.name] = _quantiser(graph, name, measured[name])
        for slot, name in enumerate(node.input):
            node.input[slot] = read.get(name, name)
    nodes = [new for node in graph.node for new in (*before.get(node.name, ()), node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _quantiser(graph: Any, name: str, limits: tuple[np.float32, np.float32]) -> tuple[str, list[Any]]:
    """Make the nodes that quantise a tensor, symmetric in int8; return the name of that form, and the nodes."""
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
    """Silence the quantiser's advice on preparing models, which it writes to the root logger: `prepared` does that."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
