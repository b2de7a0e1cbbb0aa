"""Recipes: the one place that knows geometry, normalisation, labels and the source of a network."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from jpeg_preprocess import Geometry, Interpolation, LabelFileError, read_labels

from jpeg_build.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parents[1] / "recipes"

# Beyond these, pixels would all become one number, or no number.
MIN_STD, MAX_STD = 1e-4, 1e4

Color = Literal["RGB", "BGR"]
Layout = Literal["NCHW", "NHWC"]
Output = Literal["logits", "probabilities"]
Triple = tuple[float, float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Normalisation:
    """(pixel / 255 - mean) / std, for each channel in the order of `color`; mean in [0, 1], std above 0."""

    mean: Triple
    std: Triple
    color: Color = "RGB"


@dataclass(frozen=True)
class TorchvisionSource:
    """A network of torchvision.

    network, weights: names as torchvision.models.get_model and get_model_weights take them.
    sha256: of the weights file, if it is to be checked. package: an installed package that carries the file.
    """

    network: str
    weights: str
    sha256: str | None
    package: str | None


@dataclass(frozen=True)
class OnnxSource:
    """A user's own ONNX file: one float image input, and one output of logits or probabilities.

    layout: order of the input's axes; None takes it from the place of the 3 channels.
    sha256: of the file, and of the files beside it that hold its weights, if there are any, when the recipe was loaded.
    """

    file: Path
    sha256: str
    output: Output
    layout: Layout | None


@dataclass(frozen=True)
class KerasSource:
    """A network of keras.applications.

    network: its name there, such as "ResNet50". weights: a file of weights, or "imagenet", which Keras takes from its
    cache ($KERAS_HOME/models) or downloads. package: an installed package that carries the file; weights is then its
    name. sha256: of the file, when the recipe was loaded; with a package what the recipe states; None for "imagenet".
    output: logits, or the probabilities of the network's own activation.
    """

    network: str
    weights: Path | Literal["imagenet"]
    package: str | None
    sha256: str | None
    output: Output


@dataclass(frozen=True)
class SavedModelSource:
    """A user's own SavedModel with one float image input, NHWC, and one output of logits or probabilities.

    sha256: of the digests of all its files, with their names, when the recipe was loaded.
    """

    folder: Path
    sha256: str
    output: Output


TensorflowSource = KerasSource | SavedModelSource


@dataclass(frozen=True)
class TensorflowNetwork:
    """What `--backend tf_trt` takes: a network, and the normalisation that it was trained with."""

    source: TensorflowSource
    normalisation: Normalisation


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. labels is None if they come with the weights.

    source, normalisation: the network that is exported to ONNX; source is that of `tensorflow` in a recipe whose only
    network is one of TensorFlow. tensorflow: the network for `--backend tf_trt`, None if the recipe has none.
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
    def word(self) -> str:
        """What a command takes for this recipe: its name, if it is one of build/recipes, else its path."""
        return self.name if self.path.parent == RECIPES else str(self.path)

    @property
    def sha256(self) -> str:
        """Identity of what the recipe says, not of how it is written: comments and order do not count.

        It covers the contents of the label file and of the files of the networks, and no path.
        """
        said = dataclasses.asdict(self)
        del said["path"]
        sources = [said["source"]]
        if self.tensorflow is None:
            del said["tensorflow"]  # so that recipes without one keep the identity they had
        else:
            sources.append(said["tensorflow"]["source"])
        for source in sources:
            source.pop("file", None)
            source.pop("folder", None)
            if isinstance(source.get("weights"), Path):
                source["weights"] = source["weights"].name
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def onnx_network(self) -> TorchvisionSource | OnnxSource:
        """The network that can be exported to ONNX. Raises RecipeError if the recipe has none."""
        if isinstance(self.source, (KerasSource, SavedModelSource)):
            raise RecipeError(
                f"{self.path}: its network is one of TensorFlow, which --backend tf_trt takes; for the other "
                'backends, say [source] kind = "torchvision" or "onnx", and put this one under [tensorflow]'
            )
        return self.source

    def tensorflow_network(self) -> TensorflowNetwork:
        """The network for `--backend tf_trt`. Raises RecipeError, saying what to add, if the recipe has none."""
        if self.tensorflow is None:
            raise RecipeError(
                f"{self.path}: has no network for --backend tf_trt: add a table [tensorflow] with "
                'kind = "keras" and network = "ResNet50", or kind = "saved_model" and a folder, '
                "and its own mean and std (docs/recipes.md)"
            )
        return self.tensorflow


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _onnx_sha256(path: Path) -> str:
    """SHA-256 of an ONNX file; if its weights are in files of their own, of all digests together."""
    digests = [file_sha256(path)]
    try:
        import onnx

        initializers = onnx.load(str(path), load_external_data=False).graph.initializer
    except Exception:
        return digests[0]  # what is wrong with it is said when it is loaded as a network
    locations = {entry.value for tensor in initializers for entry in tensor.external_data if entry.key == "location"}
    digests += [file_sha256(path.parent / place) for place in sorted(locations) if (path.parent / place).is_file()]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """Hexadecimal SHA-256 over the digests of all files below a folder, with their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = "".join(f"{file_sha256(path)} {path.relative_to(folder).as_posix()}\n" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def find_recipe(name_or_path: str) -> Path:
    """The recipe's file: a path, or the name of one in build/recipes.

    Raises RecipeError, naming the recipes there are.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise RecipeError(f"{path}: there is no such file")
        return path
    named = RECIPES / f"{name_or_path}.toml"
    if named.is_file():
        return named
    here = Path(f"{name_or_path}.toml")
    if here.is_file():
        return here
    known = sorted(file.stem for file in RECIPES.glob("*.toml"))
    raise RecipeError(
        f"there is no recipe {name_or_path!r}; give the path of a .toml file or one of {', '.join(known)}"
    )


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises RecipeError, whose message begins with PATH:LINE of what to mend.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        raise RecipeError(f"{path}:{found[1] if found else 1}: is not valid TOML: {error}") from error

    top = _Table(path, text, "", tables)
    geometry, normalisation, source = (top.table(name) for name in ("geometry", "normalisation", "source"))
    classes = _classes(top)
    checked_normalisation, checked_source = _normalisation(normalisation), _source(source)
    tensorflow = None
    if "tensorflow" in tables:
        tensorflow_table = top.table("tensorflow")
        tensorflow = _tensorflow(tensorflow_table)
        tensorflow_table.refuse_unknown()
    if isinstance(checked_source, (KerasSource, SavedModelSource)):
        if tensorflow is not None:
            raise tensorflow_table.error("", "[source] is a network of TensorFlow already: one of the two is too many")
        tensorflow = TensorflowNetwork(checked_source, checked_normalisation)
    recipe = Recipe(
        name=path.stem,
        path=path,
        classes=classes,
        labels=_labels(top, classes),
        geometry=_geometry(geometry),
        exif_orientation=geometry.get("exif_orientation", bool, True),
        normalisation=checked_normalisation,
        source=checked_source,
        tensorflow=tensorflow,
    )
    for table in (top, geometry, normalisation, source):
        table.refuse_unknown()
    if recipe.labels is None and not isinstance(recipe.source, TorchvisionSource):
        raise top.error("labels", '"weights" goes with kind = "torchvision" only; name a text file, one label a line')
    return recipe


def _classes(top: _Table) -> int:
    classes: int = top.need("classes", int)
    if classes < 2:
        raise top.error("classes", f"is {classes}, but must be at least 2")
    return classes


def _labels(top: _Table, classes: int) -> tuple[str, ...] | None:
    labels = top.need("labels", str)
    if labels == "weights":
        return None
    try:
        return tuple(read_labels(top.path.parent / labels, classes))
    except LabelFileError as error:
        raise top.error("labels", str(error)) from error


def _geometry(table: _Table) -> Geometry:
    resize_size = table.need("resize_size", int, list)
    crop_size = table.need("crop_size", int, list)
    try:
        return Geometry(
            resize_size=resize_size if isinstance(resize_size, int) else table.size("resize_size", resize_size),
            crop_size=(crop_size, crop_size) if isinstance(crop_size, int) else table.size("crop_size", crop_size),
            interpolation=table.choice("interpolation", Interpolation, "bilinear"),
            antialias=table.get("antialias", bool, True),
        )
    except ValueError as error:
        # The message begins with the key it is about, or speaks of how two of them go together.
        key = next((key for key in ("crop_size", "antialias", "resize_size") if str(error).startswith(key)), "")
        raise table.error(key, str(error).removeprefix(f"{key} ")) from error


def _normalisation(table: _Table) -> Normalisation:
    mean, std = table.triple("mean"), table.triple("std")
    if not all(0 <= value <= 1 for value in mean):
        raise table.error("mean", "must lie in [0, 1]: if yours is for pixels in [0, 255], divide mean and std by 255")
    if not all(MIN_STD <= value <= MAX_STD for value in std):
        raise table.error("std", f"must lie between {MIN_STD:g} and {MAX_STD:g}, for pixels in [0, 1]")
    return Normalisation(mean, std, table.choice("color", Color, "RGB"))


def _source(table: _Table) -> TorchvisionSource | OnnxSource | KerasSource | SavedModelSource:
    kind = table.choice("kind", Literal["torchvision", "onnx", "keras", "saved_model"], None)
    if kind in ("keras", "saved_model"):
        return _tensorflow_source(table, kind)
    if kind == "onnx":
        file = table.path.parent / table.need("file", str)
        if not file.is_file():
            raise table.error("file", f"there is no file {file}")
        layout = table.choice("layout", Layout, None) if "layout" in table.values else None
        return OnnxSource(file, _onnx_sha256(file), table.choice("output", Output, None), layout)
    return TorchvisionSource(
        table.need("network", str), table.need("weights", str), _stated_sha256(table), table.get("package", str, None)
    )


def _tensorflow(table: _Table) -> TensorflowNetwork:
    kind = table.choice("kind", Literal["keras", "saved_model"], None)
    return TensorflowNetwork(_tensorflow_source(table, kind), _normalisation(table))


def _tensorflow_source(table: _Table, kind: str) -> TensorflowSource:
    if kind == "saved_model":
        folder = table.path.parent / table.need("folder", str)
        if not (folder / "saved_model.pb").is_file():
            raise table.error("folder", f"there is no SavedModel in {folder} (a folder with saved_model.pb)")
        return SavedModelSource(folder, folder_sha256(folder), table.choice("output", Output, None))
    network, named = table.need("network", str), table.need("weights", str)
    stated, package = _stated_sha256(table), table.get("package", str, None)
    output: Output = table.choice("output", Output, "logits")
    if named == "imagenet":
        for key in ("sha256", "package"):
            if key in table.values:
                raise table.error(
                    key, 'goes with the name of a file as weights; "imagenet" are those that Keras checks'
                )
        return KerasSource(network, "imagenet", None, None, output)
    file = table.path.parent / named
    if package is not None:
        # The package may not be installed where the recipe is only read: its file is looked for when it is needed.
        return KerasSource(network, Path(named), package, stated, output)
    if not file.is_file():
        raise table.error("weights", f'there is no file {file}; name one, or "imagenet" for those of Keras')
    found = file_sha256(file)
    if stated is not None and stated != found:
        raise table.error("sha256", f"is not that of {file}, which is {found}")
    return KerasSource(network, file, None, found, output)


def _stated_sha256(table: _Table) -> str | None:
    sha256: str | None = table.get("sha256", str, None)
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise table.error("sha256", "must be 64 hexadecimal digits in lower case")
    return sha256


class _Table:
    """One table of a recipe. Keeps count of the keys that were asked for, so that others can be refused."""

    def __init__(self, path: Path, text: str, name: str, values: Mapping[str, Any]) -> None:
        self.path, self.name, self.values = path, name, values
        self._text = text
        self._asked: set[str] = set()

    def table(self, name: str) -> _Table:
        return _Table(self.path, self._text, name, self.need(name, dict))

    def need(self, key: str, *kinds: type[Any]) -> Any:
        self._asked.add(key)
        if key not in self.values:
            near = difflib.get_close_matches(key, [other for other in self.values if other not in self._asked], n=1)
            if near:
                raise self.error(near[0], f"is unknown, and {key} is missing; did you mean {key}?")
            raise self.error("", f"{self._full(key)} is missing")
        value = self.values[key]
        # In Python, True is an int; in a recipe it is not.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise self.error(key, f"is {json.dumps(value, default=str)}, but must be {wanted}")
        return value

    def get(self, key: str, kind: type[T], default: Any) -> Any:
        self._asked.add(key)
        return self.need(key, kind) if key in self.values else default

    def choice(self, key: str, choices: Any, default: Any) -> Any:
        """One of the texts of a Literal; no default (None) means that the key is needed."""
        value = self.need(key, str) if default is None else self.get(key, str, default)
        if value not in get_args(choices):
            listed = ", ".join(f'"{choice}"' for choice in get_args(choices))
            raise self.error(key, f'is "{value}", but must be one of {listed}')
        return value

    def triple(self, key: str) -> Triple:
        values = self.need(key, list)
        if len(values) != 3 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            raise self.error(key, f"is {values}, but must be three numbers, one a channel")
        return float(values[0]), float(values[1]), float(values[2])

    def size(self, key: str, values: list[Any]) -> tuple[int, int]:
        if len(values) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise self.error(key, f"is {values}, but must be one number of pixels or [height, width]")
        return values[0], values[1]

    def refuse_unknown(self) -> None:
        for key in self.values:
            if key not in self._asked:
                near = difflib.get_close_matches(key, sorted(self._asked), n=1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(self._asked))}"
                raise self.error(key, f"is unknown; {hint}")

    def error(self, key: str, message: str) -> RecipeError:
        about = f"{self._full(key)}: " if key else ""
        return RecipeError(f"{self.path}:{self._line_of(key)}: {about}{message}")

    def _full(self, key: str) -> str:
        return f"[{self.name}] {key}" if self.name else key

    def _line_of(self, key: str) -> int:
        """The line of `key` in this table; of the table's head if the key is not written as `key = ...`."""
        current, head = "", 1
        for number, line in enumerate(self._text.splitlines(), start=1):
            header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
            if header:
                current = header[1].strip("\"'")
                if current in (self.name, key):
                    head = number
                if current == key:
                    return number
            elif current == self.name and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return head


_KINDS: dict[type[Any], str] = {
    bool: "true or false",
    dict: "a table",
    int: "a whole number",
    list: "a list",
    str: "a text in quotes",
}
