"""Recipes: TOML files that describe a network: its source, geometry, normalisation and labels."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
from jpeg_contract.artefacts import artefact_sha256, file_sha256
from jpeg_contract.geometry import Geometry, Interpolation
from jpeg_contract.inside import PathOutside, inside, tree_inside
from jpeg_contract.labels import LabelFileError, read_labels

from jpeg_build.errors import RecipeError
from jpeg_build.recipe_templates import network_file_message

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).with_name("recipes")

Color = Literal["RGB", "BGR"]
Layout = Literal["NCHW", "NHWC"]
Output = Literal["logits", "probabilities"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """(pixel / 255 - mean) / std for each channel.

    Attributes:
        mean: In [0, 1], in the order of `color`.
        std: Above 0, in the order of `color`.
        color: Order of the channels that the network takes.
    """

    mean: Triple
    std: Triple
    color: Color = "RGB"


@dataclass(frozen=True)
class TorchvisionSource:
    """A network of torchvision.

    Attributes:
        network: Name for `torchvision.models.get_model`.
        weights: Name for `torchvision.models.get_model_weights`.
        sha256: Expected digest of the weights file; None to accept any.
        package: An installed distribution that carries the weights file.
        differs_from_weights: Accept geometry and normalisation other than those of the weights.
    """

    network: str
    weights: str
    sha256: str | None = None
    package: str | None = None
    differs_from_weights: bool = False


@dataclass(frozen=True)
class OnnxSource:
    """An ONNX file with one float image input and one output of logits or probabilities.

    Attributes:
        file: The ONNX file.
        sha256: Of the file, and of the files beside it that hold its weights, when the recipe was loaded.
        output: Kind of the output's values.
        layout: Order of the input's axes; None derives it from the place of the three channels.
        output_name: Of the output; None if the file has one.
    """

    file: Path
    sha256: str
    output: Output
    layout: Layout | None = None
    output_name: str | None = None


@dataclass(frozen=True)
class KerasSource:
    """A network of keras.applications.

    Attributes:
        network: Name in `keras.applications`, such as "ResNet50".
        weights: A weights file; or "imagenet", which Keras takes from its cache ($KERAS_HOME/models) or downloads.
        package: An installed distribution that carries the weights file, of which `weights` is the name.
        sha256: Of the weights file when the recipe was loaded; with `package`, as the recipe states it; None for
            "imagenet".
        output: Kind of the output's values: with "logits", the network is made without its last activation.
    """

    network: str
    weights: Path | Literal["imagenet"]
    package: str | None
    sha256: str | None
    output: Output


@dataclass(frozen=True)
class SavedModelSource:
    """A SavedModel with one float image input, NHWC, and one output of logits or probabilities.

    Attributes:
        folder: Folder with saved_model.pb.
        sha256: Over all files of the folder when the recipe was loaded.
        output: Kind of the output's values.
        output_name: Of the output; None if the signature has one.
    """

    folder: Path
    sha256: str
    output: Output
    output_name: str | None = None


TensorflowSource = KerasSource | SavedModelSource


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
        labels: One for each class; None if they come with torchvision's weights.
        geometry: Resize and crop.
        exif_orientation: Turn images as their EXIF orientation states.
        normalisation: Of the network of `source`.
        source: The network that is exported to ONNX; in a recipe with a TensorFlow network only, that one.
        tensorflow: The network for `--backend tf_trt`; None if the recipe has none.
    """

    name: str
    path: Path
    classes: int
    labels: tuple[str, ...] | None
    geometry: Geometry
    exif_orientation: bool
    normalisation: Normalisation
    source: TorchvisionSource | OnnxSource | KerasSource | SavedModelSource
    tensorflow: TensorflowNetwork | None = None

    @property
    def argument(self) -> str:
        """The RECIPE argument of a command: the name of a recipe of this package, otherwise the path."""
        return self.name if self.path.parent == RECIPES else str(self.path)

    @property
    def sha256(self) -> str:
        """Digest of the recipe's contents, label file and network files; comments, order and paths do not count."""
        contents = dataclasses.asdict(self)
        del contents["path"]
        sources = [contents["source"]]
        # A key that is absent does not count, so that a new key leaves the digests of other recipes as they are.
        if self.tensorflow is None:
            del contents["tensorflow"]
        else:
            sources.append(contents["tensorflow"]["source"])
        for source in sources:
            for key in ("file", "folder", "differs_from_weights"):
                source.pop(key, None)
            if source.get("output_name") is None:
                source.pop("output_name", None)
            if isinstance(source.get("weights"), Path):
                source["weights"] = source["weights"].name
        return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()

    def locate(self, table: str, key: str) -> str:
        """Return `PATH:LINE: [table] key` for messages; the table's first line if it does not have the key."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            text = ""
        return f"{self.path}:{_line_of(text, table, key)}: {_full_key(table, key)}"

    def onnx_network(self) -> TorchvisionSource | OnnxSource:
        """Return the network that can be exported to ONNX.

        Raises:
            RecipeError: The recipe has none.
        """
        if isinstance(self.source, (KerasSource, SavedModelSource)):
            raise RecipeError(
                f"{self.locate('source', 'kind')}: is a network of TensorFlow, for --backend tf_trt only. For "
                'the other backends, set [source] kind = "torchvision" or "onnx", and move this one to [tensorflow]',
                reason="tensorflow_only",
            )
        return self.source

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


# The tables of a recipe. A description completes the sentence "must be ...".


def _described(description: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(**limits, extra_json_schema={"description": description})


_Text = Annotated[str, _described("a text in quotes")]
_Flag = Annotated[bool, _described("true or false")]
_Sha256 = Annotated[str, _described("64 hexadecimal digits in lower case", pattern="^[0-9a-f]{64}$")]
# Geometry refuses sizes below 1. Not here: msgspec 0.22 crashes in a garbage collection on a union of a constrained int
# and a tuple of them.
_Size = Annotated[int | tuple[int, int], _described("a number of pixels, or [height, width]")]
_Mean = Annotated[float, msgspec.Meta(ge=0, le=1)]
# Beyond these, pixels would all become one number, or none.
_Std = Annotated[float, msgspec.Meta(ge=1e-4, le=1e4)]
_FOR_255 = "for pixels in [0, 1]. If yours are for pixels in [0, 255], divide mean and std by 255"


class _GeometryTable(msgspec.Struct):
    resize_size: _Size
    crop_size: _Size
    interpolation: Interpolation = "bilinear"
    antialias: _Flag = True
    exif_orientation: _Flag = True


class _NormalisationTable(msgspec.Struct):
    mean: Annotated[tuple[_Mean, _Mean, _Mean], _described(f"three numbers in [0, 1], one per channel, {_FOR_255}")]
    std: Annotated[
        tuple[_Std, _Std, _Std], _described(f"three numbers in [0.0001, 10000], one per channel, {_FOR_255}")
    ]
    color: Color = "RGB"


class _TorchvisionTable(msgspec.Struct):
    network: _Text
    weights: _Text
    sha256: _Sha256 | None = None
    package: _Text | None = None
    differs_from_weights: _Flag = False


class _OnnxTable(msgspec.Struct):
    file: _Text
    output: Output
    layout: Layout | None = None
    output_name: _Text | None = None


class _KerasTable(msgspec.Struct):
    network: _Text
    weights: _Text
    sha256: _Sha256 | None = None
    package: _Text | None = None
    output: Output = "logits"


class _SavedModelTable(msgspec.Struct):
    folder: _Text
    output: Output
    output_name: _Text | None = None


class _RecipeTable(msgspec.Struct):
    classes: Annotated[int, _described("an integer of at least 2", ge=2)]
    labels: Annotated[str, _described('the name of a text file with one label per line, or "weights"')]
    geometry: Annotated[dict[str, Any], _described("a table")]
    normalisation: Annotated[dict[str, Any], _described("a table")]
    source: Annotated[dict[str, Any], _described("a table")]
    tensorflow: Annotated[dict[str, Any], _described("a table")] | None = None


_TABLES: dict[str, type[msgspec.Struct]] = {
    "": _RecipeTable,
    "geometry": _GeometryTable,
    "normalisation": _NormalisationTable,
}
_TENSORFLOW_KINDS: dict[str, type[msgspec.Struct]] = {"keras": _KerasTable, "saved_model": _SavedModelTable}
_KINDS: dict[str, type[msgspec.Struct]] = {"torchvision": _TorchvisionTable, "onnx": _OnnxTable, **_TENSORFLOW_KINDS}


def find_recipe(name_or_path: str) -> Path:
    """Return a recipe's file.

    Args:
        name_or_path: A path, or the name of a recipe of this package or of one in the working directory.

    Raises:
        RecipeError: There is none, or the file is a network. The message lists the recipes, or shows a recipe for that
            network.
    """
    path = Path(name_or_path)
    if message := network_file_message(path):
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
        f"there is no recipe {name_or_path!r}{hint}: give the path of a .toml file, or one of {', '.join(known)}",
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

    top = _Table(path, text, "", values)
    tables = {
        name: _Table(path, text, name, values[name])
        for name in ("geometry", "normalisation", "source", "tensorflow")
        if isinstance(values.get(name), dict)
    }
    # A misspelt key is both unknown and missing: unknown ones are reported first, in all tables.
    for table in (top, *tables.values()):
        table.refuse_unknown()
    fields = top.read(_RecipeTable)
    geometry = tables["geometry"].read(_GeometryTable)
    normalisation, source = _normalisation(tables["normalisation"]), _source(tables["source"])
    tensorflow = None
    if "tensorflow" in tables:
        table = tables["tensorflow"]
        if isinstance(source, (KerasSource, SavedModelSource)):
            raise table.error("", "[source] is a network of TensorFlow already: remove one of the two")
        tensorflow = TensorflowNetwork(_tensorflow_source(table), _normalisation(table))
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
        tensorflow=tensorflow,
    )


def _labels(
    top: _Table, fields: _RecipeTable, source: TorchvisionSource | OnnxSource | TensorflowSource
) -> tuple[str, ...] | None:
    if fields.labels == "weights":
        if not isinstance(source, TorchvisionSource):
            raise top.error(
                "labels", '"weights" goes with kind = "torchvision" only; name a text file, one label per line'
            )
        return None
    try:
        labels = tuple(read_labels(top.beside("labels", fields.labels)))
    except LabelFileError as error:
        raise top.error("labels", str(error), reason=error.reason) from error
    if len(labels) == fields.classes:
        return labels
    outputs = _output_size(source) if isinstance(source, OnnxSource) else None
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


def _geometry(table: _Table, fields: _GeometryTable) -> Geometry:
    crop_size = fields.crop_size
    try:
        return Geometry(
            resize_size=fields.resize_size,
            crop_size=(crop_size, crop_size) if isinstance(crop_size, int) else crop_size,
            interpolation=fields.interpolation,
            antialias=fields.antialias,
        )
    except ValueError as error:
        # The message begins with the key that it concerns.
        key = next((key for key in ("crop_size", "antialias", "resize_size") if str(error).startswith(key)), "")
        raise table.error(key, str(error).removeprefix(f"{key} "), reason="invalid_geometry") from error


def _normalisation(table: _Table) -> Normalisation:
    fields = table.read(_NormalisationTable)
    return Normalisation(fields.mean, fields.std, fields.color)


def _source(table: _Table) -> TorchvisionSource | OnnxSource | TensorflowSource:
    kind = table.kind()
    if kind in _TENSORFLOW_KINDS:
        return _tensorflow_source(table)
    if kind == "onnx":
        onnx = table.read(_OnnxTable)
        file = table.beside("file", onnx.file)
        if not _is_file(file):
            raise table.error("file", f"no such file: {file}", reason="network_not_found")
        return OnnxSource(file, _onnx_sha256(table, file), onnx.output, onnx.layout, onnx.output_name)
    fields = table.read(_TorchvisionTable)
    return TorchvisionSource(fields.network, fields.weights, fields.sha256, fields.package, fields.differs_from_weights)


def _tensorflow_source(table: _Table) -> TensorflowSource:
    if table.kind() == "saved_model":
        saved = table.read(_SavedModelTable)
        folder = table.beside("folder", saved.folder, tree_inside)
        if not _is_file(folder / "saved_model.pb"):
            raise table.error(
                "folder", f"no SavedModel in {folder} (a folder with saved_model.pb)", reason="network_not_found"
            )
        return SavedModelSource(folder, artefact_sha256(folder), saved.output, saved.output_name)
    keras = table.read(_KerasTable)
    if keras.weights == "imagenet":
        for key in ("sha256", "package"):
            if key in table.values:
                raise table.error(
                    key, 'goes with a weights file only; "imagenet" are the weights that Keras itself checks'
                )
        return KerasSource(keras.network, "imagenet", None, None, keras.output)
    if keras.package is not None:
        # The package may be absent where the recipe is only read: its file is looked up when it is needed.
        return KerasSource(keras.network, Path(keras.weights), keras.package, keras.sha256, keras.output)
    file = table.beside("weights", keras.weights)
    if not _is_file(file):
        raise table.error(
            "weights", f'no such file: {file}; name one, or "imagenet" for Keras\'s own', reason="network_not_found"
        )
    found = file_sha256(file)
    if keras.sha256 not in (None, found):
        raise table.error("sha256", f"is not the digest of {file}, which is {found}", reason="weights_differ")
    return KerasSource(keras.network, file, None, found, keras.output)


def _is_file(path: Path) -> bool:
    """Whether there is a file; False also if its name is too long, or its folder cannot be searched."""
    try:
        return path.is_file()
    except OSError:
        return False


def _onnx_sha256(table: _Table, path: Path) -> str:
    """Return the SHA-256 of an ONNX file; if its weights lie in files of their own, over all digests.

    Raises:
        RecipeError: One of those files lies outside of the ONNX file's folder.
    """
    digests = [file_sha256(path)]
    graph = _onnx_graph(path)
    tensors = () if graph is None else graph.initializer
    locations = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    for place in sorted(locations):
        try:
            weights = inside(path.parent, place)
        except PathOutside as error:
            raise table.error("file", f"the file of weights of {path.name} {error}", reason=error.reason) from error
        digests += [file_sha256(weights)] if _is_file(weights) else []
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _output_size(source: OnnxSource) -> int | None:
    """Return the number of values per image of an ONNX file's output; None if it is not one known number."""
    graph = _onnx_graph(source.file)
    outputs = [
        [dim.dim_value for dim in output.type.tensor_type.shape.dim[1:] if dim.dim_value != 1]
        for output in (() if graph is None else graph.output)
        if source.output_name in (None, output.name)
    ]
    return outputs[0][0] or None if len(outputs) == 1 and len(outputs[0]) == 1 else None


def _onnx_graph(path: Path) -> Any:
    """Return the graph of an ONNX file without its external weights; None if it cannot be read here."""
    try:
        import onnx

        return onnx.load(str(path), load_external_data=False).graph
    except Exception:
        return None  # Loading the network reports the fault.


T = TypeVar("T", bound=msgspec.Struct)


class _Table:
    """One table of a recipe, with the lines of its keys.

    Args:
        path: Of the recipe.
        text: Of the recipe.
        name: Of the table; empty for the keys above the first table.
        values: As TOML parses them.
    """

    def __init__(self, path: Path, text: str, name: str, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values
        self._text, self._name = text, name

    def kind(self) -> str:
        """Return the value of `kind`. Raises RecipeError if it is missing or unknown."""
        kinds = _kinds_of(self._name)
        known = ", ".join(f'"{kind}"' for kind in kinds)
        if "kind" not in self.values:
            raise self.error(
                "", f"{_full_key(self._name, 'kind')} is missing; it must be one of {known}", reason="missing_key"
            )
        kind = self.values["kind"]
        if not isinstance(kind, str) or kind not in kinds:
            raise self._value_error("kind", f"one of {known}")
        return str(kind)

    def read(self, kind: type[T]) -> T:
        """Convert the table to a typed class.

        Raises:
            RecipeError: A key is missing, or its value is not of the class's type.
        """
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for name, field in fields.items():
            if field.required and name not in self.values:
                raise self.error(
                    "",
                    f"{_full_key(self._name, name)} is missing; it must be {_describe(field.type)}",
                    reason="missing_key",
                )
        try:
            return msgspec.convert(self.values, kind)
        except msgspec.ValidationError as error:
            key = str(error).rpartition("`$.")[2].partition("[")[0].strip("`")
            raise self._value_error(key, _describe(fields[key].type)) from error

    def beside(self, key: str, name: str, find: Callable[[Path, str], Path] = inside) -> Path:
        """Return the path of a file beside the recipe or below, or of one beside the project's recipes.

        Raises RecipeError if it lies elsewhere: a recipe from somebody else reads no other files.

        Args:
            key: Of this table.
            name: Its value.
            find: `inside`, or `tree_inside` for a folder.
        """
        path = Path(name)
        try:
            return find(RECIPES, path.name) if path.parent == RECIPES else find(self.path.parent, name)
        except PathOutside as error:
            raise self.error(key, str(error), reason=error.reason) from error

    def refuse_unknown(self) -> None:
        """Raise RecipeError for a key that the table does not have, with the key that was probably meant."""
        known = _keys_of(self._name, self.values.get("kind"))
        for key in self.values:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            if home := _home_of(key, self._name):
                hint = f"it belongs {home}"
            elif near:
                hint = f"did you mean {near[0]}?"
            else:
                hint = f"known here: {', '.join(sorted(known))}"
            raise self.error(key, f"is unknown; {hint}", reason="unknown_key")

    def error(self, key: str, message: str, *, reason: str | None = None) -> RecipeError:
        """Make an error at the line of a key; with "", at the table's first line."""
        about = f"{_full_key(self._name, key)}: " if key else ""
        return RecipeError(f"{self.path}:{_line_of(self._text, self._name, key)}: {about}{message}", reason=reason)

    def _value_error(self, key: str, expected: str) -> RecipeError:
        value = json.dumps(self.values[key], default=str)
        return self.error(key, f"is {value}, but must be {expected}", reason="invalid_value")


def _kinds_of(table: str) -> Mapping[str, type[msgspec.Struct]]:
    return _TENSORFLOW_KINDS if table == "tensorflow" else _KINDS


def _keys_of(table: str, kind: object = None) -> list[str]:
    """Return the keys of a table; of a network, those of all kinds if its kind is not known."""
    if table in _TABLES:
        return list(_TABLES[table].__struct_fields__)
    kinds = _kinds_of(table)
    structs = [kinds[kind]] if isinstance(kind, str) and kind in kinds else [*kinds.values()]
    if table == "tensorflow":
        structs.append(_NormalisationTable)
    return list(dict.fromkeys(["kind", *(key for struct in structs for key in struct.__struct_fields__)]))


def _home_of(key: str, table: str) -> str:
    """Return the place of a key that a table does not have: "to [geometry]"; empty if no table has it."""
    if table not in _TABLES:
        kinds = [f'"{kind}"' for kind, struct in _kinds_of(table).items() if key in struct.__struct_fields__]
        if kinds:
            return f"to kind = {' or '.join(kinds)}"
    if key in _keys_of(""):
        return "above the first table" if key in ("classes", "labels") else "at the top, as a table of its own"
    homes = [other for other in ("geometry", "normalisation", "source") if key in _keys_of(other)]
    return f"to [{homes[0]}]" if homes else ""


def _describe(kind: Any) -> str:
    """Complete "must be ..." for the type of a key."""
    if get_origin(kind) is Annotated:
        for meta in get_args(kind)[1:]:
            if meta.extra_json_schema:
                return str(meta.extra_json_schema["description"])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    return _describe(next(arm for arm in get_args(kind) if arm is not type(None)))


def _full_key(table: str, key: str) -> str:
    return f"[{table}] {key}" if table else key


def _line_of(text: str, table: str, key: str) -> int:
    """Return the line of a key of a table; the table's first line if the key does not have one of its own."""
    current, head = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            current = header[1].strip("\"'")
            if current == key and not table:
                return number
            if current == table:
                head = number
            continue
        written = re.match(r"\s*([\w.\"'-]+)\s*=", line)
        if written is None:
            continue
        name = re.sub(r"[\"']", "", f"{current}.{written[1]}" if current else written[1])
        if key and name == (f"{table}.{key}" if table else key):
            return number
        # `geometry = {...}` and `geometry.crop_size = 224` are the table itself.
        if head == 1 and table and not current and name.partition(".")[0] == table:
            head = number
    return head
