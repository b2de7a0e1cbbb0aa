"""Target `recipe`: any bytes as a recipe, a TOML file that `jpeg-build` reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from jpeg_build.errors import RecipeError
from jpeg_build.recipe.recipe import RECIPES, Recipe, load_recipe
from jpeg_contract.settings import PreprocessSettings

from coverage_fuzz import text_mutator
from coverage_fuzz.check import Check, Target, require

REASONS = frozenset(
    {
        "classes_differ",
        "invalid_geometry",
        "invalid_labels",
        "invalid_recipe",
        "invalid_toml",
        "invalid_value",
        "missing_key",
        "network_not_found",
        "path_outside",
        "recipe_not_found",
        "unknown_key",
        "weights_differ",
    }
)
_ONNX = b"""\
classes = 2
labels = "labels.txt"
[geometry]
resize_size = 40
crop_size = [32, 30]
interpolation = "bicubic"
[normalisation]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
color = "BGR"
[source]
kind = "onnx"
file = "net.onnx"
output = "probabilities"
layout = "NHWC"
output_name = "scores"
"""
_KERAS = b"""\
classes = 2
labels = "labels.txt"
geometry = {resize_size = [40, 50], crop_size = 32, antialias = false, exif_orientation = false}
normalisation.mean = [0, 0.25, 1.0]
normalisation.std = [1, 1.0, 0.0001]
[source]
kind = "keras"
network = "ResNet50"
weights = "weights.h5"
output = "logits"
"""
_SAVED_MODEL = b"""\
classes = 2
labels = "labels.txt"
[geometry]
resize_size = 40
crop_size = 32
[normalisation]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[source]
kind = "torchvision"
network = "resnet50"
weights = "DEFAULT"
differs_from_weights = true
[tensorflow]
kind = "saved_model"
folder = "saved"
output = "logits"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""


class RecipeCheck:
    """The rules of the target.

    - A recipe is read, or refused with a reason code and `PATH:LINE:` in front.
    - What is read is as the recipe's classes say, has one digest, and its geometry survives in config.pbtxt.

    Args:
        folder: An empty one, for the recipe and the files that it may name.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
        (folder / "net.onnx").write_bytes(b"no network")
        (folder / "weights.h5").write_bytes(b"no weights")
        (folder / "saved").mkdir(exist_ok=True)
        (folder / "saved" / "saved_model.pb").write_bytes(b"no network")
        self._path = folder / "fuzzed.toml"

    def __call__(self, data: bytes) -> None:
        self._path.write_bytes(data)
        try:
            recipe = load_recipe(self._path)
        except RecipeError as error:
            self._check_refusal(error, data)
            return
        _check_recipe(recipe)
        require(load_recipe(self._path) == recipe, "read twice, a recipe differs")

    def _check_refusal(self, error: RecipeError, data: bytes) -> None:
        require(error.reason in REASONS, f"the reason code is {error.reason}")
        found = re.match(rf"{re.escape(str(self._path))}:(?:(\d+):)? ", str(error))
        require(found is not None, "the message does not begin with the path")
        if found is not None and found[1] is not None:
            # Python takes more characters than TOML for the end of a line.
            lines = len(data.decode("utf-8", "replace").splitlines()) + 1
            require(1 <= int(found[1]) <= lines, "there is no such line")


def _check_recipe(recipe: Recipe) -> None:
    require(recipe.classes >= 2, "fewer than two classes")
    require(recipe.labels is None or len(recipe.labels) == recipe.classes, "another number of labels")
    networks = [recipe.normalisation] + ([] if recipe.tensorflow is None else [recipe.tensorflow.normalisation])
    for each in networks:
        require(all(0 <= value <= 1 for value in each.mean), "a mean outside of [0, 1]")
        require(all(math.isfinite(value) and value > 0 for value in each.std), "a standard deviation")
    require(re.fullmatch("[0-9a-f]{64}", recipe.sha256), "the digest of the recipe")
    require(re.search(r":\d+: \[source\] kind$", recipe.locate("source", "kind")), "the place of a key")
    settings = PreprocessSettings(recipe.geometry, exif_orientation=recipe.exif_orientation)
    read = PreprocessSettings.from_parameters(settings.to_parameters())
    require(read == settings, "the geometry is another one in config.pbtxt")


def _seeds() -> Iterator[bytes]:
    yield from (_ONNX, _KERAS, _SAVED_MODEL)
    yield from (path.read_bytes() for path in sorted(RECIPES.glob("*.toml")))
    yield b"\xef\xbb\xbf" + _ONNX
    yield _ONNX.replace(b"\n", b"\r\n")
    # Of TOML itself: what its grammar lets nest, and long numbers.
    yield b"a = " + b"[" * 2000 + b"]" * 2000
    yield b"a = " + b"{b = " * 1200 + b"1" + b"}" * 1200
    yield b"a" + b".a" * 1500 + b" = 1"
    yield b"classes = " + b"9" * 5000
    yield _ONNX.replace(b'"labels.txt"', b'"labels\\u0000.txt"')
    yield _ONNX.replace(b'"net.onnx"', b'"' + b"x" * 300 + b'"')
    yield _ONNX.replace(b"[0.5, 0.5, 0.5]", b"[nan, inf, -inf]")


def _make_check(folder: Path) -> Check:
    return RecipeCheck(folder)


_WORDS = (
    *(b"classes labels geometry normalisation source tensorflow resize_size crop_size interpolation antialias").split(),
    *b"exif_orientation mean std color kind network weights sha256 package differs_from_weights file output".split(),
    *b"layout output_name folder = [ ] [[ ]] { } , . # '''".split(),
    *(f'"{word}"'.encode() for word in ("onnx", "torchvision", "keras", "saved_model", "logits", "probabilities")),
    *(f'"{word}"'.encode() for word in ("weights", "imagenet", "labels.txt", "net.onnx", "saved", "RGB", "NCHW")),
    b'"""',
    b"\n",
    b"\xe2\x80\xa8",
)
TARGET = Target(_make_check, _seeds, text_mutator.mutator(_WORDS), 8192, _WORDS)
