"""Images that carry a number, and the classifier that reads it.

A number has 10 bits. An image shows them as a grid of 4 x 4 bright and dark blocks: the bits, then six of their
parities, so that two numbers differ in at least four blocks. JPEG, noise and resizing change the mean of a block by a
few per cent only, so the classifier's best of 1,024 classes is the number of the image, also where a part of another
image got into it.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 10
NUMBERS = 1 << BITS
CROP = 64
RECIPE = "identity"

_GRID = 4
_BLOCK = CROP // _GRID
_DARK, _BRIGHT = 56, 200
# Each parity sums five bits; every bit is in three parities, and no two bits are in the same three.
_PARITIES = ((0, 1, 2, 3, 4), (0, 1, 5, 6, 7), (0, 2, 5, 8, 9), (1, 3, 6, 8, 9), (2, 4, 6, 7, 8), (3, 4, 5, 7, 9))
_GAIN = 6.0  # the score of the best class is then above 0.999

_RECIPE = f"""\
classes = {NUMBERS}
labels = "{RECIPE}.txt"

[geometry]
resize_size = {CROP}
crop_size = {CROP}

[normalisation]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[source]
kind = "onnx"
file = "{RECIPE}.onnx"
output = "logits"
"""


@cache
def codes() -> NDArray[np.int8]:
    """Return the blocks of every number: (1024, 16) int8, +1 bright, -1 dark."""
    bits = np.arange(NUMBERS)[:, None] >> np.arange(BITS) & 1
    parities = [bits[:, parity].sum(axis=1, keepdims=True) & 1 for parity in _PARITIES]
    blocks: NDArray[np.int8] = (2 * np.concatenate([bits, *parities], axis=1) - 1).astype(np.int8)
    return blocks


def draw(number: int, size: int = CROP, *, noise: int = 12, seed: int = 0) -> NDArray[np.uint8]:
    """Draw the image of a number.

    Args:
        number: 0 to 1023.
        size: Width and height in pixels, at least 16.
        noise: Largest deviation of a pixel from its block, 0 to 50. More noise makes a larger file.
        seed: Another seed draws another image of the same number.

    Returns:
        (size, size, 3) uint8, RGB.
    """
    block = np.arange(size) * _GRID // size
    grid = np.where(codes()[number] > 0, _BRIGHT, _DARK).reshape(_GRID, _GRID)
    image = np.repeat(grid[np.ix_(block, block)][..., None], 3, axis=2).astype(np.int16)
    if noise:
        random = np.random.default_rng([number, size, seed])
        image += random.integers(-noise, noise + 1, (size, size, 3), np.int16)
    return image.astype(np.uint8)


def encode(pixels: NDArray[np.uint8], *, quality: int = 90, progressive: bool = False) -> bytes:
    """Encode pixels (H, W, 3) as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, progressive=progressive)
    return stream.getvalue()


def write_recipe(folder: Path, *, mistaken: bool = False) -> Path:
    """Write the network, its labels and its recipe, and return the recipe: the argument of jpeg-build.

    Args:
        folder: Where to write; it exists.
        mistaken: A network of the same shapes whose every answer is the next number.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    # Each block's mean of the three channels, times its sign in the code of each class.
    matrix = np.tile(codes().T.astype(np.float32), (3, 1)) * (_GAIN / 3)
    if mistaken:
        matrix = np.roll(matrix, 1, axis=1)
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["blocks"], kernel_shape=[_BLOCK] * 2, strides=[_BLOCK] * 2),
            helper.make_node("Flatten", ["blocks"], ["flat"]),
            helper.make_node("Gemm", ["flat", "matrix"], ["logits"]),
        ],
        RECIPE,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, CROP, CROP])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUMBERS])],
        [numpy_helper.from_array(np.ascontiguousarray(matrix), "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / f"{RECIPE}.onnx")
    (folder / f"{RECIPE}.txt").write_text("".join(f"{number}\n" for number in range(NUMBERS)), encoding="utf-8")
    recipe = folder / f"{RECIPE}.toml"
    recipe.write_text(_RECIPE, encoding="utf-8")
    return recipe
