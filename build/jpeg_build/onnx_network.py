"""A user's own ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from jpeg_build.contract import SMALLEST_PROBABILITY
from jpeg_build.errors import NetworkError
from jpeg_build.network import Weights
from jpeg_build.onnx_graph import check_size, describe, find_layout, finish, image_input, wrap
from jpeg_build.recipe import OnnxSource, Recipe

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}

DYNAMIC_BATCH_HINT = (
    "export it with a dynamic batch, for example "
    "torch.onnx.export(network, (example,), FILE, dynamo=True, dynamic_shapes=({0: 'batch'},))"
)


class OnnxNetwork:
    """The network in an ONNX file, with the labels of the recipe.

    Raises NetworkError if the file is no ONNX model, or not one that the contract can be put around.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert isinstance(recipe.source, OnnxSource)
        assert recipe.labels is not None
        self._recipe, self._source = recipe, recipe.source
        # What ONNX Runtime would print in colours is in its exceptions, too.
        ort.set_default_logger_severity(4)
        self.labels: Sequence[str] = recipe.labels
        self.weights = Weights(f"ONNX file {self._source.file.name}", self._source.sha256)
        try:
            self._model: Any = onnx.load(str(self._source.file))
            self._session = ort.InferenceSession(str(self._source.file), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NetworkError(
                f"{self._source.file}: cannot be loaded as an ONNX model: {_first_line(error)}"
            ) from error
        with _named(self._source.file):
            self._input = image_input(self._model)
            self._layout = find_layout(self._input, self._source.layout)
            check_size(self._input, self._layout, recipe.geometry.crop_size)
        self._fixed_batch = self._input.type.tensor_type.shape.dim[0].dim_value
        self.rounds_to_half = _computes_in_half(self._model.graph, self._input)

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. The user's file itself in ONNX Runtime, on images normalised by NumPy."""
        normalisation = self._recipe.normalisation
        images = pixels.astype(np.float64) / 255
        if normalisation.color == "BGR":
            images = images[..., ::-1]
        images = (images - np.array(normalisation.mean)) / np.array(normalisation.std)
        if self._layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        entry = self._session.get_inputs()[0]
        images = np.ascontiguousarray(images, dtype=_DTYPES[entry.type])
        # A file with a fixed batch of one is asked image by image.
        step = self._fixed_batch or len(images)
        if len(images) % step:
            raise NetworkError(f"{self._source.file}: takes batches of {step} images only: {DYNAMIC_BATCH_HINT}")
        batches = [images[first : first + step] for first in range(0, len(images), step)]
        try:
            raw = np.concatenate([self._session.run(None, {entry.name: batch})[0] for batch in batches])
        except Exception as error:
            raise NetworkError(f"{self._source.file}: ONNX Runtime cannot run it: {_first_line(error)}") from error
        output: NDArray[np.float32] = raw.astype(np.float32)
        if output.size % len(pixels) == 0:
            output = output.reshape(len(pixels), -1)
        if output.shape != (len(pixels), self._recipe.classes):
            raise NetworkError(
                f"{self._source.file}: output {describe(self._model.graph.output[0])} is not one value for each of "
                f"the recipe's {self._recipe.classes} classes"
            )
        self._check_kind(output)
        if self._source.output == "probabilities":
            output = np.log(np.maximum(output, np.float32(SMALLEST_PROBABILITY)))
        return output

    def export_onnx(self, path: Path) -> None:
        """See Network. The user's graph, with the contract around it."""
        recipe = self._recipe
        try:
            with _named(self._source.file):
                wrapped = wrap(
                    self._model,
                    layout=self._layout,
                    normalisation=recipe.normalisation,
                    crop_size=recipe.geometry.crop_size,
                    classes=recipe.classes,
                    output=self._source.output,
                )
            finish(wrapped, path)
            session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            for batch in (1, 3):
                answer = session.run(None, {"input__0": np.zeros((batch, *recipe.geometry.crop_size, 3), np.uint8)})
                if answer[0].shape != (batch, recipe.classes):
                    raise ValueError(f"a batch of {batch} gives an output of shape {answer[0].shape}")
        except NetworkError:
            raise
        except Exception as error:
            hint = f": {DYNAMIC_BATCH_HINT}" if self._fixed_batch else ""
            raise NetworkError(
                f"{self._source.file}: cannot be given a dynamic batch ({_first_line(error)}){hint}"
            ) from error

    def _check_kind(self, output: NDArray[np.float32]) -> None:
        """Refuse a recipe that says logits of probabilities or the reverse: the scores would be wrong, silently."""
        sums = output.sum(axis=1)
        probabilities = bool((output >= 0).all() and np.allclose(sums, 1, atol=1e-2))
        if probabilities and self._source.output == "logits":
            raise NetworkError(
                f'{self._recipe.path}: [source] output is "logits", but the network answers probabilities '
                '(none is negative and each image\'s sum is 1): say output = "probabilities"'
            )
        if not probabilities and self._source.output == "probabilities":
            raise NetworkError(
                f'{self._recipe.path}: [source] output is "probabilities", but the network\'s answers are not '
                f'(for one image they sum to {sums[0]:.3g}): say output = "logits"'
            )


def _computes_in_half(graph: Any, image: Any) -> bool:
    """Whether images or weights are float16; weights with a Cast behind them are only stored so, and round nothing."""
    half = onnx.TensorProto.FLOAT16
    stored = {node.input[0] for node in graph.node if node.op_type == "Cast"}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                weights[node.output[0]] = attribute.t
    in_half = (tensor.data_type == half and name not in stored for name, tensor in weights.items())
    return image.type.tensor_type.elem_type == half or any(in_half)


def _first_line(error: Exception) -> str:
    """The head of a message of ONNX Runtime, which may go on for pages."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except NetworkError as error:
        raise NetworkError(f"{file}: {error}") from error
