"""What the layers of a Keras network state: the images it takes, the normalisation inside, the kind of its output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
from jpeg_contract.settings import Head

from jpeg_build.errors import NetworkError
from jpeg_build.networks.reference import ImageInput, check_size, find_layout, normalise
from jpeg_build.recipe.keys import Layout
from jpeg_build.recipe.normalisation import Normalisation
from jpeg_build.recipe.recipe import Recipe

# Behind the first layers of a network that gets its pixels as in the training, black and white are so far apart.
# Divided by 255 twice, they are 0.004 apart.
SMALLEST_RANGE = 0.1

_NORMALISING = ("Rescaling", "Normalization")
_HALVES = ("float16", "bfloat16")
# Layers that change the form of a tensor, and not its values.
_FORM = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze")


def check_layers(
    network: Any, recipe: Recipe, normalisation: Normalisation, title: str, table: str = "normalisation"
) -> Layout:
    """Check that a network takes the images of a recipe, and set it to compute in float32.

    Args:
        network: A keras.Model.
        recipe: For the size of the images, and for messages.
        normalisation: Of the images.
        title: File or name of the network, for messages.
        table: Of the recipe, that has the normalisation.

    Returns:
        The order of the input's axes.

    Raises:
        NetworkError: It takes other images.
    """
    # Trained in mixed precision, a network has weights in float32.
    for layer in layers_of(network):
        if getattr(layer, "compute_dtype", None) in _HALVES:
            layer.dtype_policy = "float32"
    layout = _check_input(network, recipe, normalisation, title)
    _refuse_second_normalisation(network, recipe, normalisation, title, table=table, layout=layout)
    return layout


def layers_of(network: Any) -> Iterator[Any]:
    """Yield the layers of a network, and those of the networks inside."""
    for layer in network.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from layers_of(layer)


def input_sizes(network: Any) -> list[int] | None:
    """Return the sizes of the axes of a network's only input, 0 for an open one; None if they are not stated."""
    inputs = getattr(network, "inputs", None) or []
    return [size or 0 for size in inputs[0].shape] if len(inputs) == 1 else None


def data_format(network: Any) -> Layout:
    """Return the order of axes that the first layer with such a setting takes."""
    formats = (getattr(layer, "data_format", None) for layer in layers_of(network))
    return "NCHW" if next((each for each in formats if each), None) == "channels_first" else "NHWC"


def normalising_layers(network: Any) -> list[Any]:
    """Return the layers in front that normalise the pixels: Rescaling and Normalization."""
    return _front(network)[0]


def last_activation(network: Any) -> str:
    """Return the name of the activation that makes the output: "softmax", "sigmoid", "linear" or another."""
    for layer in reversed(_operations(network)):
        kind = type(layer).__name__
        if hasattr(layer, "layers"):
            return last_activation(layer)
        if kind in ("Softmax", "Sigmoid"):
            return kind.lower()
        if kind not in _FORM:
            return str(getattr(getattr(layer, "activation", None), "__name__", "linear"))
    return "linear"


def last_head(network: Any) -> Head | None:
    """Return what makes the output of a network, if it is a softmax or a sigmoid."""
    activation = last_activation(network)
    return next((head for head in get_args(Head) if head == activation), None)


def _operations(network: Any) -> list[Any]:
    """Return layers and functions of a network in the order in which they run."""
    return list(getattr(network, "operations", None) or network.layers)


def _front(network: Any) -> tuple[list[Any], bool]:
    """Return the normalising layers in front of a network, and whether it has no others."""
    found: list[Any] = []
    for layer in _operations(network):
        kind = type(layer).__name__
        if kind in _NORMALISING:
            found.append(layer)
        elif hasattr(layer, "layers"):
            inner, whole = _front(layer)
            found += inner
            if not whole:
                return found, False
        # Augmentation does nothing outside of the training.
        elif kind != "InputLayer" and not kind.startswith("Random"):
            return found, False
    return found, True


def _check_input(network: Any, recipe: Recipe, normalisation: Normalisation, title: str) -> Layout:
    inputs = getattr(network, "inputs", None) or []
    if len(inputs) > 1:
        shown = ", ".join(each.name for each in inputs)
        raise NetworkError(
            f"{title}: has the inputs {shown}, but a classifier gets images only: save a network with one input",
            reason="several_inputs",
        )
    stated, sizes = data_format(network), input_sizes(network)
    if sizes is None:
        return stated
    type_text = f"{inputs[0].dtype}[{','.join(str(size or 'N') for size in sizes)}]"
    image = ImageInput(title, inputs[0].name, type_text, sizes)
    if len(sizes) != 4:
        raise NetworkError(
            f"{image}, but a batch of images has four axes: save the network with an input of [N, height, width, 3]",
            reason="input_shape",
        )
    channels = sizes[1] if stated == "NCHW" else sizes[3]
    layout = stated if channels in (0, normalisation.channels) else find_layout(image, recipe, None)
    check_size(image, recipe, layout)
    return layout


def _refuse_second_normalisation(
    network: Any, recipe: Recipe, normalisation: Normalisation, title: str, *, table: str, layout: Layout
) -> None:
    """Raise NetworkError if the recipe divides the pixels, and the first layers of the network do so again."""
    layers = normalising_layers(network)
    if not layers:
        return
    shape = (*recipe.geometry.crop_size, 3)
    images = normalise(np.stack([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]), normalisation)
    values: Any = (images.transpose(0, 3, 1, 2) if layout == "NCHW" else images).astype(np.float32)
    for layer in layers:
        values = layer(values)
    values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if np.abs(values[1] - values[0]).max() < SMALLEST_RANGE:
        names = " and ".join(type(layer).__name__ for layer in layers)
        raise NetworkError(
            f"{recipe.locate(table, 'scale')}: the pixels are normalised here, and once more in the first "
            f"layers of {title} ({names}): its values would lie between {values.min():.3g} and {values.max():.3g}. The "
            'network takes pixels as they are: set scale = "0..255", and remove mean and std',
            reason="normalised_twice",
        )
