"""Correction of the biases of quantised layers.

Rounded weights shift the mean of a layer's output; its bias is corrected by that shift (Nagel et al., Data-Free
Quantization Through Weight Equalization and Bias Correction, 2019, section 4.2, here with measured inputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jpeg_build.graphs.onnx_values import observed


class Means:
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
