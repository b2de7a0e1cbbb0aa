"""The networks that recipes name: what the tables [source] and [tensorflow] say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jpeg_contract.artefacts import artefact_sha256, file_sha256
from jpeg_contract.inside import PathOutside, inside, tree_inside

from jpeg_build.recipe.keys import (
    TENSORFLOW_KINDS,
    HuggingFaceTable,
    KerasTable,
    Layout,
    ModuleTable,
    OnnxTable,
    Output,
    SavedModelTable,
    TimmTable,
    TorchTable,
    TorchvisionTable,
    UltralyticsTable,
)
from jpeg_build.recipe.pointers import refuse_pointer
from jpeg_build.recipe.table import Table


@dataclass(frozen=True)
class TorchvisionSource:
    """A network of torchvision.

    Attributes:
        network: Name for `torchvision.models.get_model`.
        weights: Name for `torchvision.models.get_model_weights`; None with a checkpoint that has its own labels.
        sha256: Expected digest of the weights file; None to accept any. With a checkpoint, the checkpoint's when the
            recipe was loaded.
        package: An installed distribution that carries the weights file.
        differs_from_weights: Accept geometry and normalisation other than those of the weights.
        checkpoint: A state dict of the fine-tuned network; None takes torchvision's weights.
    """

    network: str
    weights: str | None = None
    sha256: str | None = None
    package: str | None = None
    differs_from_weights: bool = False
    checkpoint: Path | None = None


@dataclass(frozen=True)
class TimmSource:
    """A network of timm.

    Attributes:
        network: Name for `timm.create_model`, such as "convnext_tiny.fb_in22k".
        checkpoint: A state dict of the fine-tuned network; None takes timm's own weights.
        sha256: Of the checkpoint when the recipe was loaded.
        differs_from_weights: Accept geometry and normalisation other than timm's.
    """

    network: str
    checkpoint: Path | None
    sha256: str | None
    differs_from_weights: bool = False


@dataclass(frozen=True)
class HuggingFaceSource:
    """An image classifier of Hugging Face's transformers.

    Attributes:
        folder: Folder with config.json, preprocessor_config.json and safetensors; None for one of the hub.
        network: Name on the hub; None for a folder.
        revision: Of the hub: a commit or a tag.
        sha256: Over the folder's files when the recipe was loaded; None for one of the hub.
        differs_from_weights: Accept geometry and normalisation other than those of preprocessor_config.json.
    """

    folder: Path | None
    network: str | None
    revision: str | None
    sha256: str | None
    differs_from_weights: bool = False


@dataclass(frozen=True)
class UltralyticsSource:
    """A checkpoint of an Ultralytics classifier.

    Attributes:
        file: The checkpoint.
        sha256: Of the file when the recipe was loaded.
        differs_from_weights: Accept geometry and normalisation other than those of the checkpoint.
    """

    file: Path
    sha256: str
    differs_from_weights: bool = False


@dataclass(frozen=True)
class ModuleSource:
    """A function in a Python file that returns a `torch.nn.Module`.

    Attributes:
        file: The Python file.
        function: Its name; it is called without arguments.
        checkpoint: A state dict for the module; None if the function loads the weights.
        sha256: Over the file and the checkpoint when the recipe was loaded.
        output: Kind of the output's values.
    """

    file: Path
    function: str
    checkpoint: Path | None
    sha256: str
    output: Output


@dataclass(frozen=True)
class TorchSource:
    """A file of `torch.jit.save` or `torch.export.save`. sha256: of the file when the recipe was loaded."""

    file: Path
    sha256: str
    output: Output


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
    """A network that Keras saved, or one of keras.applications.

    Attributes:
        network: Name in `keras.applications`, such as "ResNet50"; None for a file.
        weights: A weights file; or "imagenet", which Keras takes from its cache ($KERAS_HOME/models) or downloads.
        package: An installed distribution that carries the weights file, of which `weights` is the name.
        sha256: Of the file, or of the weights file, when the recipe was loaded; with `package`, as the recipe states
            it; None for "imagenet".
        output: Kind of the output's values: with "logits", a network of keras.applications is made without its last
            activation.
        file: A `.keras` or `.h5` file of a whole network; None for one of keras.applications.
    """

    network: str | None
    weights: Path | Literal["imagenet"] | None
    package: str | None
    sha256: str | None
    output: Output
    file: Path | None = None


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
Source = (
    TorchvisionSource
    | TimmSource
    | HuggingFaceSource
    | UltralyticsSource
    | ModuleSource
    | TorchSource
    | OnnxSource
    | TensorflowSource
)

# Those that carry the names of their classes.
LABELLED = (TorchvisionSource, TimmSource, HuggingFaceSource, UltralyticsSource)


def read_source(table: Table) -> Source:
    """Read the table [source]. Raises RecipeError."""
    kind = table.kind()
    if kind in TENSORFLOW_KINDS:
        return read_tensorflow_source(table)
    source: Source = _READERS[kind](table)
    return source


def _torchvision(table: Table) -> TorchvisionSource:
    fields = table.read(TorchvisionTable)
    sha256, checkpoint = fields.sha256, None
    if fields.checkpoint is None and fields.weights is None:
        raise table.error(
            "",
            f"{table.full_key('weights')} is missing: name torchvision's weights of the network, or your own in "
            "checkpoint",
            reason="missing_key",
        )
    if fields.checkpoint is not None:
        for key in ("sha256", "package"):
            if key in table.values:
                raise table.error(key, "goes with torchvision's own weights, and checkpoint replaces them")
        checkpoint = _file(table, "checkpoint", fields.checkpoint)
        sha256 = file_sha256(checkpoint)
    return TorchvisionSource(
        fields.network, fields.weights, sha256, fields.package, fields.differs_from_weights, checkpoint
    )


def _timm(table: Table) -> TimmSource:
    fields = table.read(TimmTable)
    if fields.checkpoint is None:
        return TimmSource(fields.network, None, None, fields.differs_from_weights)
    checkpoint = _file(table, "checkpoint", fields.checkpoint)
    return TimmSource(fields.network, checkpoint, file_sha256(checkpoint), fields.differs_from_weights)


def _hugging_face(table: Table) -> HuggingFaceSource:
    fields = table.read(HuggingFaceTable)
    if (fields.folder is None) == (fields.network is None):
        raise table.error(
            "", "give either folder, with config.json inside, or network, a name on the hub", reason="missing_key"
        )
    if fields.folder is None:
        return HuggingFaceSource(None, fields.network, fields.revision, None, fields.differs_from_weights)
    if fields.revision is not None:
        raise table.error("revision", "goes with network only: a folder has one state")
    folder = table.beside("folder", fields.folder, tree_inside)
    if not is_file(folder / "config.json"):
        raise table.error(
            "folder", f"no model of Hugging Face in {folder} (a folder with config.json)", reason="network_not_found"
        )
    return HuggingFaceSource(folder, None, None, artefact_sha256(folder), fields.differs_from_weights)


def _ultralytics(table: Table) -> UltralyticsSource:
    fields = table.read(UltralyticsTable)
    file = _file(table, "file", fields.file)
    return UltralyticsSource(file, file_sha256(file), fields.differs_from_weights)


def _module(table: Table) -> ModuleSource:
    fields = table.read(ModuleTable)
    name, _, function = fields.module.rpartition(":")
    file = _file(table, "module", name)
    checkpoint = None if fields.checkpoint is None else _file(table, "checkpoint", fields.checkpoint)
    digests = [file_sha256(each) for each in (file, checkpoint) if each is not None]
    return ModuleSource(file, function, checkpoint, _joined(digests), fields.output)


def _torch(table: Table) -> TorchSource:
    fields = table.read(TorchTable)
    file = _file(table, "file", fields.file)
    return TorchSource(file, file_sha256(file), fields.output)


def _onnx(table: Table) -> OnnxSource:
    fields = table.read(OnnxTable)
    file = _file(table, "file", fields.file)
    return OnnxSource(file, _onnx_sha256(table, file), fields.output, fields.layout, fields.output_name)


_READERS: dict[str, Any] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "hugging_face": _hugging_face,
    "ultralytics": _ultralytics,
    "module": _module,
    "torch": _torch,
    "onnx": _onnx,
}


def _file(table: Table, key: str, name: str) -> Path:
    """Return the path of a file that the recipe names.

    Raises:
        RecipeError: It lies elsewhere, or is not there.
        NetworkError: Git LFS has not fetched it.
    """
    file = table.beside(key, name)
    if not is_file(file):
        raise table.error(key, f"no such file: {file}", reason="network_not_found")
    refuse_pointer(file)
    return file


def read_tensorflow_source(table: Table) -> TensorflowSource:
    """Read a network of TensorFlow. Raises RecipeError."""
    if table.kind() == "saved_model":
        saved = table.read(SavedModelTable)
        folder = table.beside("folder", saved.folder, tree_inside)
        if not is_file(folder / "saved_model.pb"):
            raise table.error(
                "folder", f"no SavedModel in {folder} (a folder with saved_model.pb)", reason="network_not_found"
            )
        return SavedModelSource(folder, artefact_sha256(folder), saved.output, saved.output_name)
    keras = table.read(KerasTable)
    return _keras_file(table, keras) if keras.file is not None else _keras_application(table, keras)


def _keras_file(table: Table, keras: KerasTable) -> KerasSource:
    for key in ("network", "weights", "package"):
        if key in table.values:
            raise table.error(key, "goes with a network of keras.applications, and file is a whole network")
    assert keras.file is not None
    file = _file(table, "file", keras.file)
    found = file_sha256(file)
    if keras.sha256 not in (None, found):
        raise table.error("sha256", f"is not the digest of {file}, which is {found}", reason="weights_differ")
    return KerasSource(None, None, None, found, keras.output, file)


def _keras_application(table: Table, keras: KerasTable) -> KerasSource:
    if keras.network is None or keras.weights is None:
        missing = "network" if keras.network is None else "weights"
        raise table.error(
            "",
            f"{table.full_key(missing)} is missing: give file, a network that Keras saved, or network and weights of "
            "keras.applications",
            reason="missing_key",
        )
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
    if not is_file(file):
        raise table.error(
            "weights", f'no such file: {file}; name one, or "imagenet" for Keras\'s own', reason="network_not_found"
        )
    found = file_sha256(file)
    if keras.sha256 not in (None, found):
        raise table.error("sha256", f"is not the digest of {file}, which is {found}", reason="weights_differ")
    return KerasSource(keras.network, file, None, found, keras.output)


def is_file(path: Path) -> bool:
    """Whether there is a file; False also if its name is too long, or its folder cannot be searched."""
    try:
        return path.is_file()
    except OSError:
        return False


def _onnx_sha256(table: Table, path: Path) -> str:
    """Return the SHA-256 of an ONNX file; if its weights lie in files of their own, over all digests.

    Raises:
        RecipeError: One of those files lies outside of the ONNX file's folder.
    """
    try:
        weights = onnx_weights(path)
    except PathOutside as error:
        raise table.error("file", f"the file of weights of {path.name} {error}", reason=error.reason) from error
    return _joined([file_sha256(file) for file in (path, *weights)])


def onnx_weights(path: Path) -> list[Path]:
    """Return the files of weights that an ONNX file names and that are there.

    Raises:
        PathOutside: One of them lies outside of the ONNX file's folder.
    """
    graph = _onnx_graph(path)
    tensors = () if graph is None else graph.initializer
    locations = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [file for place in sorted(locations) if is_file(file := inside(path.parent, place))]


def _joined(digests: list[str]) -> str:
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def output_size(source: OnnxSource) -> int | None:
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
