"""Quantisation of a contract model's network to int8: QuantizeLinear and DequantizeLinear around integer operators.

ONNX Runtime's quantiser inserts them, with the ranges that it is given (`value_ranges`); the biases are corrected
(`bias_correction`). Normalisation, and all nodes behind the last layer, stay in float32. `int8_forms` decides which
ranges are taken, and which layers stay in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from jpeg_build.errors import NetworkError
from jpeg_build.graphs.bias_correction import Means
from jpeg_build.graphs.onnx_values import WEIGHTED, image_part, logits, output_part, prepared
from jpeg_build.graphs.opset import opset, with_opset
from jpeg_build.graphs.value_ranges import Ranges, ValueRanges

Dialect = Literal["onnxruntime", "openvino", "tensorrt"]

# Opset 13 introduced per-channel scales.
OLDEST_OPSET = 13

# Images that the logits are compared on, and that the shift of the means is measured on.
COMPARED_IMAGES = 32

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
        strategy: Where its ranges come from, in a few words.
        layers: Number of layers in int8.
        kept: Names of the layers in float32.
        difference: Mean difference of the logits on the images of the calibration, as a part of the largest logit.
    """

    model: Any
    strategy: str
    layers: int
    kept: Sequence[str]
    difference: float


class Quantiser:
    """Makes quantised forms of one contract model.

    Args:
        model: In fp32.
        images: (N, H, W, 3) uint8, like those that the server gets; run one at a time.
        dialect: `tensorrt`: symmetric int8 for the inputs of layers only, weights in float32 followed by their
            quantiser, and biases in float32, for TensorRT 8.6 and later. CPUs: uint8 with a zero point between all
            layers, and int32 biases.

    Raises:
        NetworkError: The model cannot be quantised.
    """

    def __init__(self, model: Any, images: NDArray[np.uint8], dialect: Dialect) -> None:
        if opset(model) < OLDEST_OPSET:
            try:
                model = with_opset(model, OLDEST_OPSET)
            except ValueError as error:
                raise NetworkError(
                    f"int8 needs an ONNX file of opset {OLDEST_OPSET} or later, and this one is of opset "
                    f"{opset(model)}, which ONNX cannot convert ({error}): export it again with a later opset",
                    reason="opset_too_old",
                ) from error
        self._model, self._dialect = prepared(model), dialect
        self._nodes = _layers(self._model)
        if not self._nodes:
            raise NetworkError(
                "the network has no convolution or matrix product with constant weights to quantise: use --precision "
                "fp16",
                reason="not_quantisable",
            )
        _add_biases(self._model, self._nodes)
        self.values = ValueRanges(self._model, images)
        self._compared = images[:: max(1, len(images) // COMPARED_IMAGES)][:COMPARED_IMAGES]
        self._expected = logits(self._model, self._compared)
        self._means = Means(self._model, self._compared)

    @property
    def layers(self) -> list[str]:
        """The names of the layers, in the order of computation."""
        return [node.name for node in self._nodes]

    def make(self, strategy: str, measured: Ranges, kept: Sequence[str], *, around: bool = False) -> Quantised:
        """Quantise all layers but some, with corrected biases.

        Args:
            strategy: See Quantised.
            measured: Of every tensor.
            kept: Names of the layers that stay in float32.
            around: The operators between these layers and their neighbours stay in float32, too, so that the tensors
                between two such layers do.
        """
        excluded = {*kept, *(self._around(kept) if around else ())}
        made = self._insert(measured, excluded)
        self._means.correct(made, [node for node in self._nodes if node.name not in excluded])
        if self._dialect == "tensorrt":
            _quantise_residuals(made, measured, excluded)
        return Quantised(made, strategy, len(self._nodes) - len(kept), list(kept), self._difference(made))

    def error_of(self, layers: Collection[str], measured: Ranges, images: int) -> float:
        """Return the mean difference of the logits if only some layers are in int8, as a part of the largest logit.

        Args:
            layers: Their names.
            measured: Of every tensor.
            images: How many of the calibration images are run.
        """
        others = [name for name in self.layers if name not in layers]
        return self._difference(self._insert(measured, {*others, *self._around(others)}), images)

    def _difference(self, model: Any, images: int = COMPARED_IMAGES) -> float:
        found = logits(model, self._compared[:images])
        difference = np.abs(found - self._expected[:images]).mean()
        return float(difference / max(np.abs(self._expected).max(), 1e-6))

    def _around(self, kept: Collection[str]) -> set[str]:
        """Return the names of the operators without weights between some layers and their neighbours."""
        graph = self._model.graph
        makers = {output: node for node in graph.node for output in node.output}
        readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        layers, found = set(self.layers), set()
        before = [name for node in self._nodes if node.name in kept for name in node.input]
        while before:
            maker = makers.get(before.pop())
            if maker is not None and maker.name not in layers and maker.name not in found:
                found.add(maker.name)
                before += maker.input
        seen: set[str] = set()
        behind = [name for node in self._nodes if node.name in kept for name in node.output]
        while behind:
            for reader in readers.get(behind.pop(), []):
                if reader.name not in layers and reader.name not in seen:
                    seen.add(reader.name)
                    behind += reader.output
        return found | seen

    def _insert(self, measured: Ranges, excluded: Collection[str]) -> Any:
        """Insert QuantizeLinear and DequantizeLinear with ONNX Runtime's quantiser."""
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
        from onnxruntime.quantization.calibrate import TensorsData

        tensorrt = self._dialect == "tensorrt"
        graph = self._model.graph
        copied = onnx.ModelProto()
        copied.CopyFrom(self._model)
        outside = image_part(graph) | output_part(graph)
        weights = {tensor.name for tensor in graph.initializer}
        # A sum with a constant is a bias or a part of a composite operator, and not a residual connection.
        sums = [n.name for n in graph.node if n.op_type in ("Add", "Concat") and weights.intersection(n.input)]
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
                nodes_to_exclude=sorted({*outside, *sums, *excluded}),
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


def _quantise_residuals(
    model: Any, measured: Mapping[str, tuple[np.float32, np.float32]], kept: Collection[str]
) -> None:
    """Quantise one side of each sum of two tensors: TensorRT then fuses the sum into the layer in front of it.

    If a layer reads a tensor in quantised form, the sum reads that form, and TensorRT keeps one copy of it in memory.
    Otherwise, as behind the convolution of a shortcut, the sum gets a quantiser of its own. Sums that are kept in
    float32, by name, stay as they are.
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
        if node.op_type != "Add" or node.name in kept:
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
