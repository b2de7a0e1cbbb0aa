"""Networks of TensorFlow: those of keras.applications, and SavedModels."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.settings import Head
from jpeg_contract.tensors import INPUT, OUTPUT
from numpy.typing import NDArray

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.networks.keras_layers import check_layers, last_head
from jpeg_build.networks.keras_loading import KerasLoader, labels_of, title_of
from jpeg_build.networks.network import Weights
from jpeg_build.networks.reference import (
    ImageInput,
    check_shape,
    check_size,
    check_values,
    find_layout,
    normalise,
    probe_images,
)
from jpeg_build.networks.saved_model_network import SIGNATURE
from jpeg_build.networks.tensorflow_framework import tensorflow
from jpeg_build.recipe.normalisation import GRAY_WEIGHTS, Normalisation
from jpeg_build.recipe.outputs import SMALLEST, OutputKind, to_logits
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import KerasSource, SavedModelSource

tf = tensorflow()

# Images per run of the reference.
BATCH = 8

Call = Callable[[Any], Any]


class KerasNetwork:
    """The network of TensorFlow that a recipe names, with the normalisation that it was trained with.

    Args:
        recipe: Its network for TensorFlow is used: of keras.applications, a file of Keras, or a SavedModel.
        checkpoint: Weights for a keras.applications network (.weights.h5 or .h5) instead of the recipe's.
        random: Use random weights.

    Raises:
        NetworkError: The network, its weights or its labels are not available, or do not fit the recipe.
        RecipeError: The recipe has no network for TensorFlow.
    """

    rounds_to_half = False

    def __init__(self, recipe: Recipe, *, checkpoint: Path | None = None, random: bool = False) -> None:
        described = recipe.tensorflow_network()
        self._recipe, self._source, self._normalisation = recipe, described.source, described.normalisation
        self._table = "source" if recipe.source == self._source else "tensorflow"
        self.labels: Sequence[str] = labels_of(recipe)
        # The object that TensorFlow must keep alive, and the function over it: normalised NHWC images to outputs.
        self._tracked: Any
        self._call: Call
        self._output_name = "logits"
        ending: Head | None = None
        if isinstance(self._source, KerasSource):
            loader = KerasLoader(tf.keras, recipe, self._source, self._table)
            self._tracked, self.weights = loader.load(checkpoint, random=random)
            table = "normalisation" if self._table == "source" else self._table
            if check_layers(self._tracked, recipe, self._normalisation, self._title(), table) != "NHWC":
                raise NetworkError(
                    f"{self._title()}: takes images with channels first, which TensorFlow runs on GPUs only: train it "
                    "with channels last (NHWC), or build it for another backend than tf_trt",
                    reason="layout_differs",
                )
            self._call = lambda images: self._tracked(images, training=False)
            ending = last_head(self._tracked)
        else:
            if checkpoint is not None or random:
                raise NetworkError(
                    "--checkpoint and --weights go with Keras recipes; a SavedModel has its weights inside",
                    reason="invalid_call",
                )
            self._tracked, self._call, self.weights = self._from_saved_model(self._source)
        values = self._run(probe_images(recipe))
        self.kind: OutputKind = check_values(
            values, recipe, self._table, self._source.output, self._title(), ending=ending
        )

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. Runs the network itself on images normalised by NumPy, without TensorFloat-32."""
        return to_logits(self._run(pixels), self.kind)

    def export_onnx(self, path: Path) -> None:
        """Raise NetworkError: networks of TensorFlow are not exported to ONNX."""
        raise NetworkError(
            f"{self._recipe.path}: a network of TensorFlow is not exported to ONNX ({path.name})",
            reason="tensorflow_only",
        )

    def images_to_values(self) -> tuple[Any, Sequence[Any]]:
        """Return the bare network as a tf.function, normalised NHWC float32 images to its values, and its signature."""
        spec = tf.TensorSpec((None, *self._recipe.geometry.crop_size, self._normalisation.channels), tf.float32)
        return tf.function(lambda images: {"values": self._call(images)}, input_signature=[spec]), [spec]

    def save(self, folder: Path) -> None:
        """Write a SavedModel of the contract.

        Its signature serving_default takes `input__0`, (N, H, W, 3) uint8 RGB in [0, 255], and returns `output__0`,
        (N, classes) float32 logits; cast and normalisation are inside.
        """
        module = tf.Module()
        height, width = self._recipe.geometry.crop_size
        mean, scale = (tf.constant(values) for values in _mean_and_scale(self._normalisation))
        color, kind = self._normalisation.color, self.kind
        values = 1 if kind.single else self._recipe.classes
        sigmoid = kind.head == "sigmoid" or kind.single

        def pixels_to_logits(pixels: Any) -> dict[str, Any]:
            # Bytes are cheaper to reverse than floats. H and W stay fixed, so that TensorRT's profile is over the batch
            # only.
            floats = tf.cast(tf.reverse(pixels, axis=[-1]) if color == "BGR" else pixels, tf.float32)
            if color == "GRAY":
                floats = tf.reduce_sum(floats * tf.constant(GRAY_WEIGHTS), axis=-1, keepdims=True)
            outputs = self._call((floats - mean) * scale)
            if outputs.shape.rank != 2:
                outputs = tf.reshape(outputs, (-1, values))
            outputs = tf.cast(outputs, tf.float32)
            if kind.values == "probabilities":
                positive = tf.math.log(tf.maximum(outputs, SMALLEST))
                outputs = positive - tf.math.log(tf.maximum(1 - outputs, SMALLEST)) if sigmoid else positive
            if kind.single:
                outputs = tf.concat([tf.zeros_like(outputs), outputs], axis=1)
            return {OUTPUT: outputs}

        signature = [tf.TensorSpec((None, height, width, 3), tf.uint8, name=INPUT)]
        module.pixels_to_logits = tf.function(pixels_to_logits, input_signature=signature)
        concrete = module.pixels_to_logits.get_concrete_function()
        # The variables are enough: a tracked Keras network is saved with a function for each of its layers.
        module.kept = list(concrete.variables) if isinstance(self._source, KerasSource) else self._tracked
        tf.saved_model.save(module, str(folder), signatures={SIGNATURE: concrete})

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on pixels, (N, H, W, 3) uint8; return its output, (N, classes) float32."""
        outputs = [self._run_batch(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)]
        return np.concatenate(outputs)

    def _run_batch(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = normalise(pixels, self._normalisation)
        tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
        # GPUs with TensorFloat-32 would compute fp32 with the mantissa of fp16.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            raw = self._call(tf.constant(np.ascontiguousarray(images, np.float32))).numpy()
        except Exception as error:
            raise NetworkError(
                f"{self._title()}: TensorFlow cannot run it: {first_line(error)}", reason="network_failed"
            ) from error
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(tf32)
        check_shape(raw.shape, self._recipe, self._title(), self._output_name)
        output: NDArray[np.float32] = raw.reshape(len(pixels), -1).astype(np.float32)
        return output

    def _title(self) -> str:
        if isinstance(self._source, KerasSource):
            return title_of(self._source)
        return str(self._source.folder)

    def _from_saved_model(self, source: SavedModelSource) -> tuple[Any, Call, Weights]:
        folder = source.folder
        try:
            loaded = tf.saved_model.load(str(folder))
            signature = loaded.signatures[SIGNATURE]
        except Exception as error:
            raise NetworkError(
                f"{folder}: is not a SavedModel with a signature {SIGNATURE}: {first_line(error)}; "
                "tf.saved_model.save(network, FOLDER) and Keras's network.export(FOLDER) write one",
                reason="network_not_loaded",
            ) from error
        name, spec = self._find_input(folder, signature.structured_input_signature[1])
        self._output_name = self._find_output(source, signature.structured_outputs)
        weights = Weights(f"SavedModel {folder.name}", source.sha256)
        output = self._output_name
        return loaded, lambda images: signature(**{name: tf.cast(images, spec.dtype)})[output], weights

    def _find_input(self, folder: Path, inputs: dict[str, Any]) -> tuple[str, Any]:
        """Return name and TensorSpec of the image input, which must be the only one."""
        shown = ", ".join(f"{name} ({_describe(spec)})" for name, spec in inputs.items()) or "none"
        if len(inputs) != 1:
            raise NetworkError(
                f"{folder}: has the inputs {shown}, but a classifier gets images only: export a function with one "
                "input, and with constants in place of the others",
                reason="several_inputs" if inputs else "no_input",
            )
        ((name, spec),) = inputs.items()
        if not spec.dtype.is_floating:
            raise NetworkError(
                f"{folder}: input {shown} must be float. A network that takes integers normalises them itself: export "
                "it without that step, and write its mean and std into the recipe",
                reason="input_type",
            )
        if spec.shape.rank is None:
            return name, spec
        sizes = [size or 0 for size in spec.shape]
        if len(sizes) != 4:
            raise NetworkError(
                f"{folder}: input {shown}, but a batch of images has four axes: export the network with an input of "
                "[N, height, width, 3]",
                reason="input_shape",
            )
        image = ImageInput(str(folder), name, _describe(spec), sizes)
        if sizes[3] not in (0, self._normalisation.channels) and find_layout(image, self._recipe, None) != "NHWC":
            raise NetworkError(
                f"{image}, with channels first: export the network with channels last (NHWC), or to ONNX",
                reason="layout_differs",
            )
        check_size(image, self._recipe, "NHWC")
        if sizes[0]:
            raise NetworkError(f"{image}, with a fixed batch: save it with None there", reason="static_batch")
        return name, spec

    def _find_output(self, source: SavedModelSource, outputs: dict[str, Any]) -> str:
        """Return the name of the output with one value for each class."""
        shown = ", ".join(f"{name} ({_describe(spec)})" for name, spec in outputs.items())
        name = source.output_name
        if name is not None and name not in outputs:
            near = difflib.get_close_matches(name, outputs, n=1)
            raise NetworkError(
                f'{self._recipe.locate(self._table, "output_name")}: is "{name}", but {source.folder} has the outputs '
                f"{shown}{f': did you mean {near[0]}?' if near else ''}",
                reason="unknown_output",
            )
        if name is None and len(outputs) != 1:
            fitting = [
                each for each, spec in outputs.items() if spec.shape.is_compatible_with((None, self._recipe.classes))
            ]
            lines = " or ".join(f'output_name = "{each}"' for each in fitting)
            remedy = (
                f"add to [{self._table}] of {self._recipe.path} the line {lines}"
                if fitting
                else f"none is of shape [N, {self._recipe.classes}]; is classes = {self._recipe.classes} right?"
            )
            raise NetworkError(f"{source.folder}: has several outputs, {shown}: {remedy}", reason="several_outputs")
        chosen = name or next(iter(outputs))
        if not outputs[chosen].dtype.is_floating:
            raise NetworkError(
                f"{source.folder}: output {chosen} is {_describe(outputs[chosen])}, but must be float logits or "
                "probabilities, one value for each class: export the network without the steps behind them, such as "
                "argmax",
                reason="output_type",
            )
        return chosen


def _describe(spec: Any) -> str:
    """Describe a TensorSpec: `float32[N,224,224,3]`."""
    if spec.shape.rank is None:
        return f"{spec.dtype.name} of unknown shape"
    return f"{spec.dtype.name}[{','.join('N' if size is None else str(size) for size in spec.shape)}]"


def _mean_and_scale(normalisation: Normalisation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return 255 mean and 1 / (255 std): (pixel - 255 mean) * (1 / (255 std)) saves a pass over the image."""
    mean = np.array(normalisation.mean, np.float64) * 255
    return mean.astype(np.float32), (1 / (np.array(normalisation.std, np.float64) * 255)).astype(np.float32)
