"""The reference side of a comparison: images as the network takes them, and checks of its input and outputs.

Any framework: `recipe` states facts about a network that nothing else checks, so that each wrong one is refused with
the line to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from jpeg_contract.settings import Head
from numpy.typing import NDArray

from jpeg_build.errors import NetworkError
from jpeg_build.recipe.keys import Layout, Output
from jpeg_build.recipe.normalisation import GRAY_WEIGHTS, Normalisation
from jpeg_build.recipe.outputs import OutputKind
from jpeg_build.recipe.recipe import Recipe

# Logits may all lie in [0, 1] by chance: fewer values than this do not show a sigmoid.
SIGMOID_VALUES = 32

SIGMOID = (
    'Without output = "sigmoid" above the first table, the scores are those of a softmax: one label of several for '
    "each image. Add that line if each label has a score of its own; otherwise, export the network without its sigmoid "
    'and set [source] output = "logits"'
)


@dataclass(frozen=True)
class ImageInput:
    """The input of a network.

    Attributes:
        network: File or name of the network, for messages.
        name: Of the tensor.
        type_text: Data type and shape, for messages: "float[N,3,224,224]".
        sizes: Of its axes; 0 for one that is not fixed.
    """

    network: str
    name: str
    type_text: str
    sizes: Sequence[int]

    def __str__(self) -> str:
        return f"{self.network}: input {self.name} is {self.type_text}"


def normalise(pixels: NDArray[np.uint8], normalisation: Normalisation) -> NDArray[np.float64]:
    """Normalise pixels by NumPy, which the classifier's graph does by code of its own.

    Args:
        pixels: (N, H, W, 3) uint8, RGB, [0, 255].
        normalisation: See Normalisation.

    Returns:
        (N, H, W, channels) float64, channels in the order of `normalisation.color`.
    """
    images = pixels.astype(np.float64) / 255
    if normalisation.color == "BGR":
        images = images[..., ::-1]
    elif normalisation.color == "GRAY":
        images = (images @ np.array(GRAY_WEIGHTS))[..., None]
    normalised: NDArray[np.float64] = (images - np.array(normalisation.mean)) / np.array(normalisation.std)
    return normalised


def probe_images(recipe: Recipe) -> NDArray[np.uint8]:
    """Return plain colours and noise, (N, H, W, 3) uint8, as many as the checks of a network's output need."""
    count = max(2, min(16, 2 * SIGMOID_VALUES // recipe.classes))
    shape = (*recipe.geometry.crop_size, 3)
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (count - count // 2, *shape), np.uint8)
    colors = random.integers(0, 256, (count // 2, 1, 1, 3), np.uint8)
    return np.concatenate([noise, np.broadcast_to(colors, (count // 2, *shape))])


def find_layout(image: ImageInput, recipe: Recipe, stated: Layout | None) -> Layout:
    """Derive the order of an input's axes from its shape.

    Args:
        image: An input with four axes.
        recipe: For messages.
        stated: The recipe's `layout`.

    Raises:
        NetworkError: The shape fits neither order, contradicts the stated one, or leaves the order open.
    """
    wanted = recipe.normalisation.channels
    channels = {"NCHW": image.sizes[1], "NHWC": image.sizes[3]}
    if 1 in channels.values() and wanted not in channels.values():
        raise NetworkError(
            f"{recipe.locate('normalisation', 'color')}: {image}, which is one channel: set [normalisation] "
            'color = "GRAY", with one number for mean and for std',
            reason="gray_network",
        )
    possible: list[Layout] = [layout for layout in get_args(Layout) if channels[layout] in (0, wanted)]
    if not possible:
        hint = (
            "images have three channels: axis 1 (NCHW) or axis 3 (NHWC) must be 3"
            if wanted == 3
            else f"{recipe.locate('normalisation', 'color')} makes one channel: for gray images three times, write "
            "three numbers for mean and for std"
        )
        raise NetworkError(f"{image}, but {hint}", reason="channels_differ")
    if stated is not None and stated not in possible:
        raise NetworkError(
            f'{recipe.locate("source", "layout")}: is "{stated}", but {image}: set layout = "{possible[0]}"',
            reason="layout_differs",
        )
    fixed = [layout for layout in possible if channels[layout] == wanted] or possible
    if stated is None and len(fixed) > 1:
        raise NetworkError(
            f"{image}, which leaves the order of the axes open. Add to [source] of {recipe.path} the line "
            'layout = "NCHW" (channels first, as PyTorch exports) or layout = "NHWC" (channels last, as TensorFlow)',
            reason="layout_unknown",
        )
    return stated or fixed[0]


def check_size(image: ImageInput, recipe: Recipe, layout: Layout) -> None:
    """Raise NetworkError if the input takes images of another size than the recipe's crop."""
    height, width = recipe.geometry.crop_size
    found = image.sizes[2:4] if layout == "NCHW" else image.sizes[1:3]
    if all(size in (0, wanted) for size, wanted in zip(found, (height, width), strict=True)):
        return
    needed = [size or wanted for size, wanted in zip(found, (height, width), strict=True)]
    text = str(needed[0]) if needed[0] == needed[1] else str(needed)
    resize = recipe.geometry.resize_at_least
    hint = ", and resize_size to at least that" if resize[0] < needed[0] or resize[1] < needed[1] else ""
    raise NetworkError(
        f"{recipe.locate('geometry', 'crop_size')}: makes images of {height}x{width} pixels, but {image}: set "
        f"crop_size = {text}{hint}",
        reason="crop_size_differs",
    )


def check_shape(shape: Sequence[int], recipe: Recipe, network: str, output: str) -> bool:
    """Check that an output is one value for each class, or one value for two classes.

    Args:
        shape: (N, classes), or with further axes of size 1.
        recipe: It states the number of classes.
        network: File or name of the network, for messages.
        output: Name of the output, for messages.

    Returns:
        Whether it is one value for two classes.

    Raises:
        NetworkError: The output is neither.
    """
    values = [size for size in shape[1:] if size != 1] or [1]
    if len(shape) < 2 or len(values) > 1:
        raise NetworkError(
            f"{network}: output {output} is of shape {list(shape)}, and not one value for each class: [N, "
            f"{recipe.classes}]. A network for segmentation or detection, or without its classifying layer, does not "
            "classify images",
            reason="output_shape",
        )
    found = values[0]
    if found == recipe.classes:
        return False
    if found == 1 and recipe.classes == 2 and recipe.output == "softmax":
        return True
    labels = "" if recipe.labels is None else f", and its label file has {len(recipe.labels)} labels"
    if found == 1:
        remedy = (
            "one value is a sigmoid's: set classes = 2 and name both labels, that of low values first; or classes = 1 "
            'and output = "sigmoid"'
        )
    elif found == recipe.classes + 1:
        remedy = f"set classes = {found} and add a label; ImageNet networks with 1001 outputs have `background` first"
    else:
        remedy = f"set classes = {found} and give a label file with {found} lines, or take another network"
    raise NetworkError(
        f"{recipe.locate('', 'classes')}: is {recipe.classes}{labels}, but output {output} of "
        f"{network} has {found} values: {remedy}",
        reason="classes_differ",
    )


def check_values(
    values: NDArray[np.float32],
    recipe: Recipe,
    table: str,
    stated: Output,
    network: str,
    *,
    trained: bool = True,
    ending: Head | None = None,
) -> OutputKind:
    """Check that an output is of the kind that the recipe states; the scores would be wrong without any other sign.

    Args:
        values: (N, classes) float32, of the network's output; or (N, 1) for two classes.
        recipe: For messages.
        table: Its table that describes the network.
        stated: The kind that it states.
        network: File or name of the network, for messages.
        trained: False for random weights, whose logits may all lie in [0, 1]: nothing is checked.
        ending: The operator that makes the values, where the network shows it; None otherwise. One value for an image
            may lie in [0, 1] by chance.

    Returns:
        The kind of the output.

    Raises:
        NetworkError: Logits for probabilities or the reverse, or the values of a sigmoid where the recipe states a
            softmax.
    """
    kind = OutputKind(stated, recipe.output, single=values.shape[1] < recipe.classes)
    if not trained or not np.isfinite(values).all():
        return kind  # The build reports values that are not finite, with the photos.
    bounded = bool((values >= 0).all() and (values <= 1 + 1e-3).all())
    sums = values.sum(axis=1)
    inside = bool(((values > 0) & (values < 1)).any())
    like_sigmoid = bounded and (ending == "sigmoid" or (inside and values.size >= SIGMOID_VALUES))
    found: Output = "probabilities" if bounded and np.allclose(sums, 1, atol=1e-2) else "logits"
    if recipe.output == "sigmoid" or kind.single:
        # Outputs that lie in [0, 1] by chance are too few to tell.
        found = "probabilities" if like_sigmoid else "logits" if not bounded else stated
    elif found == "logits" and like_sigmoid:
        raise NetworkError(
            f"{network}: its outputs lie in [0, 1] and do not sum to 1 (for one image to {sums[0]:.3g}), as those of a "
            f"sigmoid. {SIGMOID}",
            reason="sigmoid_output",
        )
    if found != stated:
        raise NetworkError(
            f'{recipe.locate(table, "output")}: is "{stated}", but the outputs of {network} are {found} (for one image '
            f'they sum to {sums[0]:.3g}): set output = "{found}"',
            reason="output_differs",
        )
    return kind
