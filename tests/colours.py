"""Recipes of networks that tell colours apart: labels of a test are known, and a build takes a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from support import encode

Rgb = tuple[int, int, int]

RGB: dict[str, Rgb] = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 220), "white": (240, 240, 240)}

_RECIPE = """\
classes = {classes}
labels = "{name}.txt"
{more}
[geometry]
resize_size = {size}
crop_size = {size}

[normalisation]
mean = [0, 0, 0]
std = [1, 1, 1]

[source]
kind = "onnx"
file = "{name}.onnx"
output = "logits"
"""


def colour_recipe(folder: Path, name: str, labels: Mapping[str, Rgb], *, size: int = 32, more: str = "") -> Path:
    """Write a recipe with its network and labels.

    Args:
        folder: Where to.
        name: Of the recipe.
        labels: The colour that each label is best for.
        size: Side of the images that the network takes.
        more: Lines above the first table.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    colours = np.array(list(labels.values()), np.float32) / 255
    # -|x - c|^2 without |x|^2, which all labels share.
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["mean"]),
            helper.make_node("Gemm", ["mean", "colours", "bias"], ["logits"]),
        ],
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)])],
        [
            numpy_helper.from_array(20 * colours.T, "colours"),
            numpy_helper.from_array(-10 * (colours**2).sum(axis=1), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / f"{name}.onnx"))
    (folder / f"{name}.txt").write_text("".join(f"{label}\n" for label in labels))
    recipe = folder / f"{name}.toml"
    recipe.write_text(_RECIPE.format(classes=len(labels), name=name, size=size, more=more))
    return recipe


def plain(colour: str) -> bytes:
    """Return a JPEG of one colour."""
    return encode(Image.new("RGB", (90, 60), RGB[colour]))
