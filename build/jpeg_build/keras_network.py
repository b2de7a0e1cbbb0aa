"""TensorFlow's networks: those of keras.applications, and a user's SavedModel."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpeg_build.contract import INPUT, OUTPUT, SMALLEST_PROBABILITY
from jpeg_build.errors import NetworkError
from jpeg_build.network import Weights
from jpeg_build.recipe import KerasSource, Normalisation, Output, Recipe, SavedModelSource, file_sha256
from jpeg_build.tensorflow_framework import first_line, tensorflow

tf = tensorflow()

# The seed of `--weights none`, so that two builds for a benchmark are the same.
SEED = 0

# Images that the reference is computed on at once.
BATCH = 8

Call = Callable[[Any], Any]


class KerasNetwork:
    """The network that a recipe names for TensorFlow, with the normalisation that it was trained with.

    checkpoint: a file of weights for a keras.applications network (.weights.h5 or .h5), instead of the recipe's.
    random: take random weights.

    Raises NetworkError if the network, its weights or its labels cannot be had, and RecipeError if the recipe has no
    network for TensorFlow.
    """

    rounds_to_half = False

    def __init__(self, recipe: Recipe, *, checkpoint: Path | None = None, random: bool = False) -> None:
        described = recipe.tensorflow_network()
        self._recipe, self._source, self._normalisation = recipe, described.source, described.normalisation
        if recipe.labels is None:
            raise NetworkError(
                f'{recipe.path}: labels = "weights" are those of torchvision; name a text file, one label a line, such '
                "as build/recipes/imagenet.txt"
            )
        self.labels: Sequence[str] = recipe.labels
        # What TensorFlow has to keep alive, and the function over it: normalised NHWC images to outputs.
        self._tracked: Any
        self._call: Call
        if isinstance(self._source, KerasSource):
            self._tracked, self.weights = self._from_keras(self._source, checkpoint, random)
            self._call = lambda images: self._tracked(images, training=False)
        else:
            if checkpoint is not None or random:
                raise NetworkError("--checkpoint and --weights go with Keras recipes; a SavedModel has its weights")
            self._tracked, self._call, self.weights = self._from_saved_model(self._source)
        self._check_kind()

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. The network itself, on images normalised by NumPy, without TensorFloat-32."""
        output = np.concatenate(
            [self._answers(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)]
        )
        if self._source.output == "probabilities":
            output = np.log(np.maximum(output, np.float32(SMALLEST_PROBABILITY)))
        return output

    def export_onnx(self, path: Path) -> None:
        """Raises NetworkError: a network of TensorFlow has no ONNX form here."""
        raise NetworkError(f"{self._recipe.path}: a network of TensorFlow is not exported to ONNX ({path.name})")

    def save(self, folder: Path) -> None:
        """Write a SavedModel of the contract: signature serving_default, `input__0` uint8 (N, H, W, 3) to `output__0`
        float32 logits, cast and normalisation inside.
        """
        module = tf.Module()
        height, width = self._recipe.geometry.crop_size
        mean, scale = (tf.constant(values) for values in _mean_and_scale(self._normalisation))
        bgr, probabilities, classes = (
            self._normalisation.color == "BGR",
            self._source.output == "probabilities",
            self._recipe.classes,
        )

        def pixels_to_logits(pixels: Any) -> dict[str, Any]:
            # Bytes are cheaper to turn round than floats. H and W stay known, so that TensorRT needs to plan for
            # the batch only.
            floats = tf.cast(tf.reverse(pixels, axis=[-1]) if bgr else pixels, tf.float32)
            outputs = self._call((floats - mean) * scale)
            if outputs.shape.rank != 2:
                outputs = tf.reshape(outputs, (-1, classes))
            outputs = tf.cast(outputs, tf.float32)
            if probabilities:
                outputs = tf.math.log(tf.maximum(outputs, SMALLEST_PROBABILITY))
            return {OUTPUT: outputs}

        signature = [tf.TensorSpec((None, height, width, 3), tf.uint8, name=INPUT)]
        module.pixels_to_logits = tf.function(pixels_to_logits, input_signature=signature)
        concrete = module.pixels_to_logits.get_concrete_function()
        # A Keras network would be saved with all its layers as functions of their own: its variables are enough.
        module.kept = list(concrete.variables) if isinstance(self._source, KerasSource) else self._tracked
        tf.saved_model.save(module, str(folder), signatures={"serving_default": concrete})

    def _answers(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network says of pixels, checked to be one value for each class."""
        normalisation = self._normalisation
        images = pixels.astype(np.float64) / 255
        if normalisation.color == "BGR":
            images = images[..., ::-1]
        images = (images - np.array(normalisation.mean)) / np.array(normalisation.std)
        tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
        # What a GPU makes of fp32 otherwise, with the mantissa of fp16.
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            raw = self._call(tf.constant(np.ascontiguousarray(images, np.float32))).numpy()
        except Exception as error:
            raise NetworkError(f"{self._named()}: TensorFlow cannot run it: {first_line(error)}") from error
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(tf32)
        output: NDArray[np.float32] = raw.astype(np.float32)
        if output.size == len(pixels) * self._recipe.classes:
            output = output.reshape(len(pixels), -1)
        if output.shape != (len(pixels), self._recipe.classes):
            raise NetworkError(
                f"{self._named()}: an output of shape {raw.shape} for {len(pixels)} images is not one value for each "
                f"of the recipe's {self._recipe.classes} classes"
            )
        return output

    def _check_kind(self) -> None:
        """Refuse a recipe that says logits of probabilities or the reverse: the scores would be wrong, silently."""
        shape = (2, *self._recipe.geometry.crop_size, 3)
        output = self._answers(np.random.default_rng(SEED).integers(0, 256, shape, np.uint8))
        sums = output.sum(axis=1)
        found = "probabilities" if (output >= 0).all() and np.allclose(sums, 1, atol=1e-2) else "logits"
        if found != self._source.output:
            raise NetworkError(
                f'{self._recipe.path}: output is "{self._source.output}", but the answers of {self._named()} look like '
                f'{found} (the first image\'s sum is {sums[0]:.3g}): say output = "{found}"'
            )

    def _named(self) -> str:
        if isinstance(self._source, KerasSource):
            return f"Keras {self._source.network}"
        return str(self._source.folder)

    def _from_keras(self, source: KerasSource, checkpoint: Path | None, random: bool) -> tuple[Any, Weights]:
        make = _application(source.network)
        if random:
            tf.keras.utils.set_random_seed(SEED)
            return self._make(make, source.output, None), Weights(f"random, seed {SEED}", None)
        if checkpoint is not None:
            if not checkpoint.is_file():
                raise NetworkError(f"{checkpoint}: there is no such file; save one with network.save_weights(FILE)")
            network = self._make(make, source.output, str(checkpoint))
            return network, Weights(f"checkpoint {checkpoint.name}", file_sha256(checkpoint))
        if source.weights == "imagenet":
            network = self._make(make, source.output, "imagenet")
            # Keras does not say which file it took: what is in it is the identity.
            digest = hashlib.sha256()
            for values in network.get_weights():
                digest.update(np.ascontiguousarray(values).tobytes())
            return network, Weights(f"keras.applications {source.network} imagenet, all values", digest.hexdigest())
        file = _in_package(source.package, source.weights.name) if source.package is not None else source.weights
        found = file_sha256(file)
        if source.sha256 is not None and found != source.sha256:
            raise NetworkError(f"{file}: its sha256 is {found}, but the recipe states {source.sha256}")
        return self._make(make, source.output, str(file)), Weights(f"Keras {source.network} {file.name}", found)

    def _make(self, make: Any, output: Output, weights: str | None) -> Any:
        activation = {"classifier_activation": None} if output == "logits" else {}
        shape = (*self._recipe.geometry.crop_size, 3)
        try:
            return make(input_shape=shape, weights=weights, classes=self._recipe.classes, **activation)
        except Exception as error:
            hint = ""
            if weights == "imagenet":
                hint = (
                    "; Keras downloads these weights, or finds them in $KERAS_HOME/models (default ~/.keras/models): "
                    "put the file there, or give --checkpoint FILE, or --weights none for a benchmark"
                )
            raise NetworkError(f"{self._named()} with weights {weights}: {first_line(error)}{hint}") from error

    def _from_saved_model(self, source: SavedModelSource) -> tuple[Any, Call, Weights]:
        try:
            loaded = tf.saved_model.load(str(source.folder))
            signature = loaded.signatures["serving_default"]
        except Exception as error:
            raise NetworkError(
                f"{source.folder}: is no SavedModel with a signature serving_default: {first_line(error)}; "
                "tf.saved_model.save(network, FOLDER) and Keras's network.export(FOLDER) write one"
            ) from error
        inputs = signature.structured_input_signature[1]
        outputs = signature.structured_outputs
        if len(inputs) != 1 or len(outputs) != 1:
            raise NetworkError(
                f"{source.folder}: has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)}, but one "
                "of each is needed"
            )
        (name, spec), (answer,) = next(iter(inputs.items())), outputs
        height, width = self._recipe.geometry.crop_size
        if not spec.shape.is_compatible_with((None, height, width, 3)):
            raise NetworkError(
                f"{source.folder}: input {name} is {spec.shape}, but images of [N, {height}, {width}, 3] are to come"
            )
        if spec.shape.rank is not None and spec.shape[0] is not None:
            raise NetworkError(
                f"{source.folder}: input {name} takes batches of {spec.shape[0]} only: save it with None"
            )
        weights = Weights(f"SavedModel {source.folder.name}", source.sha256)
        return loaded, lambda images: signature(**{name: tf.cast(images, spec.dtype)})[answer], weights


def _application(name: str) -> Any:
    """The function of keras.applications with that name."""
    found = getattr(tf.keras.applications, name, None)
    if not callable(found):
        import difflib

        known = [other for other in dir(tf.keras.applications) if other[:1].isupper()]
        near = difflib.get_close_matches(name, known, n=1) or known
        raise NetworkError(f"keras.applications has no network {name!r}; it has {', '.join(near)}")
    return found


def _in_package(package: str, name: str) -> Path:
    """The weights file that an installed package carries."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NetworkError(
            f"the package {package}, which carries the weights {name}, is not installed: `make build-tensorflow` "
            "brings it; or give --checkpoint FILE"
        ) from error
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise NetworkError(f"the package {package} carries no file {name}")


def _mean_and_scale(normalisation: Normalisation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(pixel / 255 - mean) / std as (pixel - 255 mean) * (1 / (255 std)), which saves a pass over the image."""
    mean = np.array(normalisation.mean, np.float64) * 255
    return mean.astype(np.float32), (1 / (np.array(normalisation.std, np.float64) * 255)).astype(np.float32)
