"""ONNX files as networks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from jpeg_contract.settings import Head
from jpeg_contract.tensors import INPUT
from numpy.typing import NDArray
from onnx import TensorProto

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.graphs.onnx_graph import describe, finish, inputs, keep_output, sizes, wrap
from jpeg_build.graphs.onnx_values import session
from jpeg_build.networks.network import Weights
from jpeg_build.networks.reference import (
    SIGMOID,
    ImageInput,
    check_shape,
    check_size,
    check_values,
    find_layout,
    normalise,
    probe_images,
)
from jpeg_build.recipe.outputs import to_logits
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import OnnxSource

DTYPES = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}

_HEADS: Mapping[str, Head] = {"Sigmoid": "sigmoid", "HardSigmoid": "sigmoid", "Softmax": "softmax"}

# Operators that change the form of a tensor, and not its values.
_FORM = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}

DYNAMIC_BATCH_HINT = (
    "export it with a dynamic batch, for example "
    "torch.onnx.export(network, (example,), FILE, dynamo=True, dynamic_shapes=({0: 'batch'},))"
)


class OnnxNetwork:
    """The network in an ONNX file, with the labels of the recipe.

    Args:
        recipe: Its source is an ONNX file.

    Raises:
        NetworkError: The file cannot be loaded, is not a classifier of images, or does not fit the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert isinstance(recipe.source, OnnxSource)
        assert recipe.labels is not None
        self._recipe, self._source = recipe, recipe.source
        # ONNX Runtime's exceptions repeat what it would print.
        ort.set_default_logger_severity(4)
        self.labels: Sequence[str] = recipe.labels
        self.weights = Weights(f"ONNX file {self._source.file.name}", self._source.sha256)
        file = self._source.file
        try:
            self._model: Any = onnx.load(str(file))
            self._session: Any = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NetworkError(
                f"{file}: cannot be loaded as an ONNX model: {first_line(error)}", reason="network_not_loaded"
            ) from error
        several = len(inputs(self._model.graph)) > 1
        self._output = self._find_output()
        keep_output(self._model, self._output.name)
        ending = self._ending()
        self._input = self._find_input()
        if several:
            # ONNX Runtime requires a value for each input, needed or not.
            self._session = session(self._model)
        image = ImageInput(str(file), self._input.name, describe(self._input), sizes(self._input))
        self._layout = find_layout(image, recipe, self._source.layout)
        check_size(image, recipe, self._layout)
        self._fixed_batch = image.sizes[0]
        self.rounds_to_half = _computes_in_half(self._model.graph, self._input)
        values = self._run(probe_images(recipe))
        self._kind = check_values(values, recipe, "source", self._source.output, str(file), ending=ending)

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. Runs the file itself in ONNX Runtime, on images normalised by NumPy."""
        return to_logits(self._run(pixels), self._kind)

    def export_onnx(self, path: Path) -> None:
        """See Network. Writes the file's graph, with the contract around it."""
        recipe = self._recipe
        try:
            wrapped = wrap(
                self._model,
                layout=self._layout,
                normalisation=recipe.normalisation,
                crop_size=recipe.geometry.crop_size,
                classes=recipe.classes,
                output=self._kind,
            )
            finish(wrapped, path)
            exported = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for batch in (1, 3):
                pixels = np.zeros((batch, *recipe.geometry.crop_size, 3), np.uint8)
                (logits,) = exported.run(None, {INPUT: pixels})
                if logits.shape != (batch, recipe.classes):
                    raise ValueError(f"a batch of {batch} gives an output of shape {logits.shape}")
        except Exception as error:
            hint = f": {DYNAMIC_BATCH_HINT}" if self._fixed_batch else ""
            raise NetworkError(
                f"{self._source.file}: cannot be given a dynamic batch ({first_line(error)}){hint}",
                reason="static_batch",
            ) from error

    def _find_output(self) -> Any:
        """Return the output with one value for each class, as the recipe names it or because there is no other."""
        file, name = self._source.file, self._source.output_name
        outputs = {output.name: output for output in self._model.graph.output}
        shown = ", ".join(f"{output.name} ({describe(output)})" for output in outputs.values())
        if name is not None and name not in outputs:
            near = difflib.get_close_matches(name, outputs, n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise NetworkError(
                f'{self._recipe.locate("source", "output_name")}: is "{name}", but {file} has the outputs '
                f"{shown}{hint}",
                reason="unknown_output",
            )
        if name is None and len(outputs) > 1:
            fitting = [output.name for output in outputs.values() if self._fits(output)]
            lines = " or ".join(f'output_name = "{each}"' for each in fitting)
            remedy = (
                f"add to [source] of {self._recipe.path} the line {lines}"
                if fitting
                else f"none is of shape [N, {self._recipe.classes}]; is classes = {self._recipe.classes} right?"
            )
            raise NetworkError(f"{file}: has several outputs, {shown}: {remedy}", reason="several_outputs")
        output = outputs[name] if name is not None else next(iter(outputs.values()))
        if output.type.tensor_type.elem_type not in DTYPES:
            raise NetworkError(
                f"{file}: output {output.name} is {describe(output)}, but must be float logits or probabilities, one "
                "value for each class: export the network without the steps behind them, such as argmax",
                reason="output_type",
            )
        return output

    def _fits(self, output: Any) -> bool:
        values = [size for size in sizes(output)[1:] if size != 1]
        return output.type.tensor_type.elem_type in DTYPES and values in ([self._recipe.classes], [0])

    def _find_input(self) -> Any:
        """Return the image input, the only one that the output may need."""
        file, found = self._source.file, inputs(self._model.graph)
        if len(found) != 1:
            shown = ", ".join(f"{tensor.name} ({describe(tensor)})" for tensor in found) or "none"
            raise NetworkError(
                f"{file}: output {self._output.name} needs the inputs {shown}, but a classifier gets images only: "
                "export the network with one input, and with constants in place of the others",
                reason="several_inputs" if found else "no_input",
            )
        (tensor,) = found
        kind = tensor.type.tensor_type
        if kind.elem_type not in DTYPES:
            raise NetworkError(
                f"{file}: input {tensor.name} is {describe(tensor)}, but must be float32, float16 or float64. A "
                "network that takes integers normalises them itself: export it without that step, and write its mean "
                "and std into the recipe",
                reason="input_type",
            )
        if len(kind.shape.dim) != 4:
            raise NetworkError(
                f"{file}: input {tensor.name} is {describe(tensor)}, but a batch of images has four axes: export the "
                "network with an input of [N, 3, height, width] or [N, height, width, 3]",
                reason="input_shape",
            )
        return tensor

    def _ending(self) -> Head | None:
        """Return the operator that makes the values of the output, if it is a sigmoid or a softmax.

        Raises:
            NetworkError: A sigmoid where the recipe states a softmax of several values.
        """
        producers = {output: node for node in self._model.graph.node for output in node.output}
        node = producers.get(self._output.name)
        while node is not None and node.op_type in _FORM:
            node = producers.get(node.input[0])
        ending = None if node is None else _HEADS.get(node.op_type)
        if ending == "sigmoid" and self._recipe.output != "sigmoid" and self._recipe.classes != 2:
            raise NetworkError(
                f"{self._source.file}: output {self._output.name} is a sigmoid's. {SIGMOID}",
                reason="sigmoid_output",
            )
        return ending

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the file on pixels, (N, H, W, 3) uint8; return its output, (N, classes) float32."""
        images = normalise(pixels, self._recipe.normalisation)
        if self._layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        step = self._fixed_batch or len(images)
        padding = -len(images) % step
        images = np.concatenate([images, np.zeros((padding, *images.shape[1:]))])
        typed = np.ascontiguousarray(images, dtype=DTYPES[self._input.type.tensor_type.elem_type])
        batches = [typed[first : first + step] for first in range(0, len(typed), step)]
        try:
            outputs = [self._session.run([self._output.name], {self._input.name: batch})[0] for batch in batches]
        except Exception as error:
            raise NetworkError(
                f"{self._source.file}: ONNX Runtime cannot run it: {first_line(error)}", reason="network_failed"
            ) from error
        shape = outputs[0].shape
        if len(shape) > 0 and shape[0] != step:
            # Exports with a fixed batch of one may lack the batch axis.
            shape = (step, outputs[0].size // step) if outputs[0].size % step == 0 else shape
        check_shape(shape, self._recipe, str(self._source.file), self._output.name)
        output = np.concatenate([each.reshape(step, -1) for each in outputs])[: len(pixels)]
        values: NDArray[np.float32] = output.astype(np.float32)
        return values


def _computes_in_half(graph: Any, image: Any) -> bool:
    """Whether images or weights are float16; weights with a Cast behind them are only stored so, and round nothing."""
    half = TensorProto.FLOAT16
    stored = {node.input[0] for node in graph.node if node.op_type == "Cast"}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                weights[node.output[0]] = attribute.t
    in_half = (tensor.data_type == half and name not in stored for name, tensor in weights.items())
    return image.type.tensor_type.elem_type == half or any(in_half)
