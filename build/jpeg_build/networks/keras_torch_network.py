"""Networks of Keras on PyTorch: run, and exported to ONNX, without TensorFlow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jpeg_contract.tensors import OUTPUT
from numpy.typing import NDArray
from onnx import numpy_helper

from jpeg_build.graphs.onnx_graph import finish, keep_output
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.networks.keras_drafts import channels_of, classes_of, geometry_of
from jpeg_build.networks.keras_framework import keras_on_torch
from jpeg_build.networks.keras_layers import (
    check_layers,
    data_format,
    input_sizes,
    last_activation,
    layers_of,
    normalising_layers,
)
from jpeg_build.networks.keras_loading import KerasLoader, labels_of, load_file, title_of
from jpeg_build.recipe.keys import Layout
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import KerasSource

keras = keras_on_torch()

from torch import Tensor, nn  # noqa: E402  # Without PyTorch, the line above names the remedy.

from jpeg_build.networks.pytorch_network import PyTorchNetwork  # noqa: E402

# What keras.applications' own preprocess_input does, by the beginning of the network's name.
_CAFFE = 'scale = "0..255", mean = [103.939, 116.779, 123.68], std = 1, color = "BGR"'
_SYMMETRIC = 'scale = "-1..1"'
_PREPROCESSING = {
    "mobilenet": _SYMMETRIC,
    "xception": _SYMMETRIC,
    "inception": _SYMMETRIC,
    "nasnet": _SYMMETRIC,
    "resnet50v2": _SYMMETRIC,
    "resnet101v2": _SYMMETRIC,
    "resnet152v2": _SYMMETRIC,
    "resnet": _CAFFE,
    "vgg": _CAFFE,
    "densenet": "mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]",
}


class KerasTorchNetwork:
    """A network of Keras, computed by PyTorch.

    Args:
        recipe: Its source is Keras.
        checkpoint: Weights for a network of keras.applications (.weights.h5 or .h5) instead of the recipe's.
        random: Use random weights.

    Raises:
        NetworkError: The network, its weights or its labels are not available, or do not fit the recipe.
    """

    rounds_to_half = False

    def __init__(self, recipe: Recipe, *, checkpoint: Path | None = None, random: bool = False) -> None:
        source = recipe.source
        assert isinstance(source, KerasSource)
        title = title_of(source)
        self.labels: Sequence[str] = labels_of(recipe)
        network, self.weights = KerasLoader(keras, recipe, source, "source").load(checkpoint, random=random)
        layout = check_layers(network, recipe, recipe.normalisation, title)
        # Not a base class: what takes a network of PyTorch also traces it, halves it or copies it.
        self._inner = PyTorchNetwork(
            recipe,
            _ChannelsFirst(network, layout),
            labels=self.labels,
            weights=self.weights,
            title=title,
            output=source.output,
        )

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. Runs the network itself in Keras, on images normalised by NumPy."""
        return self._inner.reference(pixels)

    def export_onnx(self, path: Path) -> None:
        """See Network. Not by Keras's own export, which cannot export all layers with a dynamic batch."""
        self._inner.export_onnx(path)
        model = onnx.load(str(path))
        fold_batch_norms(model)
        finish(model, path)


class _ChannelsFirst(nn.Module):
    """A network of Keras that takes images as those of PyTorch do. Exporters cancel the transpositions."""

    def __init__(self, network: Any, layout: Layout) -> None:
        super().__init__()
        self.network = network
        self.channels_last = layout == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        """Run the network on images, (N, channels, H, W) float32."""
        output: Tensor = self.network(images.permute(0, 2, 3, 1) if self.channels_last else images, training=False)
        return output


def fold_batch_norms(model: Any) -> None:
    """Write, in place, each (x - mean) * scale + offset as x * scale + (offset - mean * scale).

    So Keras on PyTorch computes a batch normalisation. Runtimes fold a product and a sum into the convolution before
    them, and not a difference: MobileNetV2 takes half the time.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    read = Counter([name for node in graph.node for name in node.input] + [output.name for output in graph.output])

    def before(node: Any, operator: str) -> Any | None:
        """Return the node of that operator whose result only this node reads, with a constant; None otherwise."""
        found = producers.get(node.input[0])
        if found is None or found.op_type != operator or read[node.input[0]] != 1:
            return None
        return found if node.input[1] in constants and found.input[1] in constants else None

    for add in [node for node in graph.node if node.op_type == "Add"]:
        if (multiply := before(add, "Mul")) is None or (subtract := before(multiply, "Sub")) is None:
            continue
        mean, scale, offset = (
            numpy_helper.to_array(constants[node.input[1]]).astype(np.float64) for node in (subtract, multiply, add)
        )
        name = f"{add.output[0]}/offset"
        graph.initializer.append(numpy_helper.from_array((offset - mean * scale).astype(np.float32), name))
        multiply.input[0], add.input[1] = subtract.input[0], name
        graph.node.remove(subtract)
    keep_output(model, OUTPUT)


def draft(file: Path) -> Draft:
    """Return what a `.keras` or `.h5` file states of its network.

    Raises:
        NetworkError: The file cannot be loaded.
    """
    network = load_file(keras, file)
    notes: list[str] = []
    activation, values = last_activation(network), _output_values(network)
    output = "probabilities" if activation in ("softmax", "sigmoid") else "logits"
    sigmoid = activation == "sigmoid" and values != 1
    if sigmoid:
        notes.append("the last layer is a sigmoid: each label has a score of its own")
    sizes, layout = input_sizes(network), data_format(network)
    return Draft(
        name=file.stem,
        source={"kind": "keras", "file": str(file), "output": output},
        classes=classes_of(values, notes),
        output="sigmoid" if sigmoid else "softmax",
        geometry=geometry_of(sizes, layout, notes),
        normalisation=_normalisation(network, channels_of(sizes, layout), notes),
        notes=(
            *notes,
            Hint(
                "Keras does not keep the names of the classes: image_dataset_from_directory sorts the folders by name",
                "labels",
            ),
        ),
    )


def _output_values(network: Any) -> int | None:
    shape = getattr(network, "output_shape", None)
    values = [size for size in shape[1:] if size != 1] if isinstance(shape, tuple) else [None]
    return 1 if not values else values[0] if len(values) == 1 else None


def _normalisation(network: Any, channels: int, notes: list[str]) -> dict[str, Any] | None:
    gray = {"color": "GRAY"} if channels == 1 else {}
    if layers := normalising_layers(network):
        kinds = " and ".join(type(layer).__name__ for layer in layers)
        notes.append(f"the network normalises the pixels itself ({kinds}), so that it takes them from 0 to 255")
        return {"scale": "0..255", **gray}
    names = [network.name, *(layer.name for layer in layers_of(network) if hasattr(layer, "layers"))]
    known = next((text for name in names for begin, text in _PREPROCESSING.items() if name.startswith(begin)), None)
    notes.append(
        Hint(
            "the file does not state how the training normalised the pixels: "
            'Rescaling(1. / 255) or x / 255 is scale = "0..1"; x / 127.5 - 1 is scale = "-1..1"'
            + ("" if known is None else f"; keras.applications' preprocess_input for this network is {known}"),
            "scale|mean",
        )
    )
    return gray or None
