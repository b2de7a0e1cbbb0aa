"""Recipes: TOML files that describe a network: its source, geometry, normalisation and labels."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpeg_contract.forms import ClassifierForm
from jpeg_contract.geometry import Geometry, Rgb
from jpeg_contract.labels import LabelFileError, read_labels
from jpeg_contract.remedies import build_command
from jpeg_contract.settings import DEFAULT_FORMATS, Head, ImageFormat

from jpeg_build.artefact_files import artefact_message
from jpeg_build.errors import RecipeError
from jpeg_build.recipe.keys import GeometryTable, RecipeTable
from jpeg_build.recipe.normalisation import Normalisation, read_normalisation
from jpeg_build.recipe.sources import (
    LABELLED,
    KerasSource,
    ModuleSource,
    OnnxSource,
    SavedModelSource,
    Source,
    TensorflowSource,
    output_size,
    read_source,
    read_tensorflow_source,
)
from jpeg_build.recipe.table import RECIPES, Table, full_key, line_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["RECIPES", "Recipe", "TensorflowNetwork", "find_recipe", "is_recipe", "load_recipe"]

# Keys that came later, with the values that leave a recipe as it was before them: they do not count in its digest.
_LATER_KEYS: dict[str, dict[str, Any]] = {
    "": {"output": "softmax", "threshold": 0.0, "formats": DEFAULT_FORMATS, "background": None},
    "geometry": {"resize_side": "shorter", "fill": None, "crop_rounding": "even"},
}


@dataclass(frozen=True)
class TensorflowNetwork:
    """The network for `--backend tf_trt`, with the normalisation that it was trained with."""

    source: TensorflowSource
    normalisation: Normalisation


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        name: File name without `.toml`.
        path: The file.
        classes: Number of classes.
        labels: One for each class; None if they come with the network.
        geometry: Resize and crop.
        exif_orientation: Turn images as their EXIF orientation states.
        normalisation: Of the network of `source`.
        source: The network.
        output: How logits become scores.
        threshold: Labels with a lower score are left out.
        formats: Of the images that the server takes.
        background: Colour that transparent pixels are put on; None takes the colours behind the transparency.
        tensorflow: The network for `--backend tf_trt`; None if the recipe has none.
    """

    name: str
    path: Path
    classes: int
    labels: tuple[str, ...] | None
    geometry: Geometry
    exif_orientation: bool
    normalisation: Normalisation
    source: Source
    output: Head = "softmax"
    threshold: float = 0.0
    formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS
    background: Rgb | None = None
    tensorflow: TensorflowNetwork | None = None

    @property
    def argument(self) -> str:
        """The RECIPE argument of a command: the name of a recipe of this package, otherwise the path."""
        return self.name if self.path.parent == RECIPES else str(self.path)

    @property
    def runs_code(self) -> bool:
        """Whether the network is a program, which is run with --trust-code only."""
        return isinstance(self.source, ModuleSource)

    def build_command(self, form: ClassifierForm, repository: Path, ensemble: str) -> str:
        """Return the command that builds a form from it, for an ensemble of a model repository."""
        return build_command(self.argument, form.name, repository, ensemble=ensemble, runs_code=self.runs_code)

    @property
    def sha256(self) -> str:
        """Digest of the recipe's contents, label file and network files; comments, order and paths do not count."""
        contents = dataclasses.asdict(self)
        del contents["path"]
        for table, later in _LATER_KEYS.items():
            values = contents[table] if table else contents
            for key, default in later.items():
                if values[key] == default:
                    del values[key]
        sources = [contents["source"]]
        if self.tensorflow is None:
            del contents["tensorflow"]
        else:
            sources.append(contents["tensorflow"]["source"])
        for source in sources:
            for key in ("file", "folder", "differs_from_weights"):
                source.pop(key, None)
            for key in ("output_name", "checkpoint"):
                if source.get(key) is None:
                    source.pop(key, None)
            for key in ("weights", "checkpoint"):
                if isinstance(source.get(key), Path):
                    source[key] = source[key].name
        return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()

    def locate(self, table: str, key: str) -> str:
        """Return `PATH:LINE: [table] key` for messages; the table's first line if it does not have the key."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            text = ""
        return f"{self.path}:{line_of(text, table, key)}: {full_key(table, key)}"

    def tensorflow_network(self) -> TensorflowNetwork:
        """Return the network for `--backend tf_trt`.

        Raises:
            RecipeError: The recipe has none; the message shows the table to add.
        """
        if self.tensorflow is None:
            raise RecipeError(
                f"{self.path}: has no network for --backend tf_trt. Add a table [tensorflow] with "
                'kind = "keras" and network = "ResNet50", or kind = "saved_model" and a folder, '
                "and its own mean and std (docs/recipes.md)",
                reason="no_tensorflow_network",
            )
        return self.tensorflow


def is_recipe(text: str) -> bool:
    """Whether a text is the name of a recipe of this package, or ends as the path of a recipe does."""
    return text.endswith(".toml") or (RECIPES / f"{text}.toml").is_file()


def find_recipe(name_or_path: str) -> Path:
    """Return a recipe's file.

    Args:
        name_or_path: A path, or the name of a recipe of this package or of one in the working directory.

    Raises:
        RecipeError: There is none, or the file is an artefact that no network can be made of.
    """
    path = Path(name_or_path)
    if message := artefact_message(path):
        raise RecipeError(message, reason="not_a_recipe")
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise RecipeError(f"{path}: no such file", reason="recipe_not_found")
        return path
    for file in (RECIPES / f"{name_or_path}.toml", Path(f"{name_or_path}.toml")):
        if file.is_file():
            return file
    known = sorted(file.stem for file in RECIPES.glob("*.toml"))
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise RecipeError(
        f"there is no recipe {name_or_path!r}{hint}: give the path of a .toml file, one of {', '.join(known)}, or a "
        "network, such as mine.onnx or timm:NAME (jpeg-build init --help)",
        reason="recipe_not_found",
    )


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: Its message begins with PATH:LINE of the fault.
    """
    try:
        # Windows' editors begin UTF-8 files with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        values = tomllib.loads(text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}", reason="recipe_not_found") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: is not UTF-8 text (byte {error.start}); a recipe is a TOML file", reason="invalid_toml"
        ) from error
    except (ValueError, RecursionError) as error:  # tomllib's own, and Python's for long numbers and deep nesting
        found = re.search(r"line (\d+)", str(error))
        raise RecipeError(
            f"{path}:{found[1] if found else text.count(chr(10)) + 1}: is not valid TOML: {error}",
            reason="invalid_toml",
        ) from error

    top = Table(path, text, "", values)
    tables = {
        name: Table(path, text, name, values[name])
        for name in ("geometry", "normalisation", "source", "tensorflow")
        if isinstance(values.get(name), dict)
    }
    # A misspelt key is both unknown and missing: unknown ones are reported first, in all tables.
    for table in (top, *tables.values()):
        table.refuse_unknown()
    fields = top.read(RecipeTable)
    _check_output(top, fields)
    geometry = tables["geometry"].read(GeometryTable)
    normalisation, source = read_normalisation(tables["normalisation"]), read_source(tables["source"])
    tensorflow = None
    if "tensorflow" in tables:
        table = tables["tensorflow"]
        if isinstance(source, (KerasSource, SavedModelSource)):
            raise table.error("", "[source] is a network of TensorFlow already: remove one of the two")
        tensorflow = TensorflowNetwork(read_tensorflow_source(table), read_normalisation(table))
    elif isinstance(source, (KerasSource, SavedModelSource)):
        tensorflow = TensorflowNetwork(source, normalisation)
    return Recipe(
        name=path.stem,
        path=path,
        classes=fields.classes,
        labels=_labels(top, fields, source),
        geometry=_geometry(tables["geometry"], geometry),
        exif_orientation=geometry.exif_orientation,
        normalisation=normalisation,
        source=source,
        output=fields.output,
        threshold=fields.threshold,
        formats=tuple(dict.fromkeys(fields.formats)),
        background=fields.background,
        tensorflow=tensorflow,
    )


def _check_output(top: Table, fields: RecipeTable) -> None:
    """Raise RecipeError for one class of a softmax, and for a colour that is none."""
    if fields.output == "softmax" and fields.classes == 1:
        raise top.error(
            "classes",
            'is 1, but a softmax needs two classes: for one label with a score of its own, add output = "sigmoid"; '
            "for a network with one output for two classes, set classes = 2 and name both labels",
            reason="invalid_value",
        )
    if "jpeg" not in fields.formats:
        raise top.value_error("formats", 'a list with "jpeg" in it, which the server checks itself with')
    if fields.background is not None and not all(0 <= value <= 255 for value in fields.background):
        raise top.value_error("background", "three numbers from 0 to 255: red, green, blue")


def _labels(top: Table, fields: RecipeTable, source: Source) -> tuple[str, ...] | None:
    if fields.labels == "weights":
        if not isinstance(source, LABELLED):
            raise top.error("labels", "the network has no labels of its own; name a text file, one label per line")
        return None
    try:
        labels = tuple(read_labels(top.beside("labels", fields.labels)))
    except LabelFileError as error:
        raise top.error("labels", str(error), reason=error.reason) from error
    if len(labels) == fields.classes:
        return labels
    outputs = output_size(source) if isinstance(source, OnnxSource) else None
    counts = f"{fields.labels} has {len(labels)} labels, and classes is {fields.classes}"
    if outputs is None:
        raise top.error("labels", f"{counts}: correct the one that is wrong", reason="classes_differ")
    counts += f"; the network has {outputs} outputs"
    if outputs == len(labels):
        raise top.error("classes", f"{counts}: set classes = {outputs}", reason="classes_differ")
    remedy = f"give a file with {outputs} lines"
    raise top.error(
        "labels",
        f"{counts}: {remedy}" if outputs == fields.classes else f"{counts}: set classes = {outputs}, and {remedy}",
        reason="classes_differ",
    )


def _geometry(table: Table, fields: GeometryTable) -> Geometry:
    crop_size = (fields.crop_size, fields.crop_size) if isinstance(fields.crop_size, int) else fields.crop_size
    resize_size = fields.resize_size
    if (resize_size is None) == (fields.crop_percent is None):
        raise table.error(
            "" if resize_size is None else "crop_percent",
            "give either resize_size, or crop_percent: the share of the resized image that the crop is",
            reason="missing_key" if resize_size is None else "invalid_geometry",
        )
    if fields.crop_percent is not None:
        # As timm computes it: of a crop that is not square, for each side.
        height, width = (math.floor(size / fields.crop_percent) for size in crop_size)
        resize_size = height if height == width else (height, width)
    assert resize_size is not None
    try:
        return Geometry(
            resize_size=resize_size,
            crop_size=crop_size,
            interpolation=fields.interpolation,
            antialias=fields.antialias,
            resize_side=fields.resize_side,
            fill=fields.fill,
            crop_rounding=fields.crop_rounding,
        )
    except ValueError as error:
        # The message begins with the key that it concerns.
        keys = ("crop_size", "antialias", "resize_size", "resize_side", "fill")
        key = next((key for key in keys if str(error).startswith(key)), "")
        raise table.error(key, str(error).removeprefix(f"{key} "), reason="invalid_geometry") from error
