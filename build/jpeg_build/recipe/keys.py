"""The tables of a recipe: their keys, what these mean, and the types and limits of their values.

docs/reference/recipe-keys.md is made from this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from jpeg_contract.geometry import CropRounding, Interpolation, ResizeSide
from jpeg_contract.settings import DEFAULT_FORMATS, Head, ImageFormat

Color = Literal["RGB", "BGR", "GRAY"]
Layout = Literal["NCHW", "NHWC"]
Output = Literal["logits", "probabilities"]
"""Of a network's output: before or behind the softmax or sigmoid."""


def _described(description: str, **limits: Any) -> msgspec.Meta:
    """Annotate a type; the description completes the sentence "must be ..."."""
    return msgspec.Meta(**limits, extra_json_schema={"description": description})


_Text = Annotated[str, _described("a text in quotes")]
_Flag = Annotated[bool, _described("true or false")]
_Sha256 = Annotated[str, _described("64 hexadecimal digits in lower case", pattern="^[0-9a-f]{64}$")]
# Geometry refuses sizes below 1. Not here: msgspec 0.22 crashes in a garbage collection on a union of a constrained int
# and a tuple of them.
_Size = Annotated[int | tuple[int, int], _described("a number of pixels, or [height, width]")]
_Rgb = Annotated[tuple[int, int, int], _described("three numbers from 0 to 255: red, green, blue")]
_PerChannel = Annotated[
    float | tuple[float, ...],
    _described("a number, or three numbers in the order of the network's channels"),
]
_FORMAT_NAMES = ", ".join(f'"{name}"' for name in get_args(ImageFormat))


class GeometryTable(msgspec.Struct):
    """[geometry].

    Attributes:
        crop_size: Side of the centre crop in pixels, or its height and width.
        resize_size: Length of the side `resize_side` before the crop, or height and width to resize without keeping the
            ratio. This or `crop_percent` is required.
        crop_percent: The crop's share of the resized image, as timm's `crop_pct`: `resize_size` is `crop_size /
            crop_percent`, rounded down.
        resize_side: Which side `resize_size` is the length of. "longer" with a crop of that size and `fill` makes a
            letterbox; height and width are then those that the image fits into, with its ratio.
        fill: Colour of what lies outside of the resized image. Without it, the crop must fit into the image.
        crop_rounding: Where the crop lies if an odd number of pixels is left out: "even" rounds the part at the left
            or top to the even number, as torchvision and timm do; "down" to the smaller one, as transformers does.
        interpolation: Filter of the resize, as Pillow names it.
        antialias: Filter before reducing, as Pillow does. False is possible with nearest and bilinear only.
        exif_orientation: Turn photos upright, as their EXIF data say.
    """

    crop_size: _Size
    resize_size: _Size | None = None
    crop_percent: Annotated[float, _described("a number above 0 and up to 1", gt=0, le=1)] | None = None
    resize_side: ResizeSide = "shorter"
    fill: _Rgb | None = None
    crop_rounding: CropRounding = "even"
    interpolation: Interpolation = "bilinear"
    antialias: _Flag = True
    exif_orientation: _Flag = True


class NormalisationTable(msgspec.Struct):
    """[normalisation]; see `normalisation.Normalisation`.

    Attributes:
        mean: Mean of the training, in the range of `scale`. Required without `scale`.
        std: Standard deviation of the training, in the range of `scale`. Required without `scale`.
        scale: Range of the pixels before mean and std, such as "-1..1" or "0..255"; without it, 0 to 1.
        color: Order of the channels that the network takes. "GRAY" is ITU-R BT.601.
    """

    mean: _PerChannel | None = None
    std: _PerChannel | None = None
    scale: _Text | None = None
    color: Color = "RGB"


class TorchvisionTable(msgspec.Struct):
    """[source] kind = "torchvision".

    Attributes:
        network: Name for `torchvision.models.get_model`.
        weights: Name for `torchvision.models.get_model_weights`.
        sha256: Expected digest of the weights file.
        package: An installed distribution that carries the weights file, so that nothing is downloaded.
        checkpoint: Your state dict, instead of these weights.
        differs_from_weights: Accept geometry and normalisation other than those of the weights.
    """

    network: _Text
    weights: _Text | None = None
    sha256: _Sha256 | None = None
    package: _Text | None = None
    checkpoint: _Text | None = None
    differs_from_weights: _Flag = False


class TimmTable(msgspec.Struct):
    """[source] kind = "timm".

    Attributes:
        network: Name for `timm.create_model`, such as "convnext_tiny.fb_in22k".
        checkpoint: Your state dict, instead of timm's weights.
        differs_from_weights: Accept geometry and normalisation other than timm's.
    """

    network: _Text
    checkpoint: _Text | None = None
    differs_from_weights: _Flag = False


class HuggingFaceTable(msgspec.Struct):
    """[source] kind = "hugging_face".

    Attributes:
        folder: Folder with config.json, preprocessor_config.json and safetensors. This or `network` is required.
        network: Name on the hub.
        revision: Of the hub: a commit or a tag.
        differs_from_weights: Accept geometry and normalisation other than those of preprocessor_config.json.
    """

    folder: _Text | None = None
    network: _Text | None = None
    revision: _Text | None = None
    differs_from_weights: _Flag = False


class UltralyticsTable(msgspec.Struct):
    """[source] kind = "ultralytics".

    Attributes:
        file: A checkpoint of a network whose name ends in -cls.
        differs_from_weights: Accept geometry and normalisation other than those of the checkpoint.
    """

    file: _Text
    differs_from_weights: _Flag = False


class ModuleTable(msgspec.Struct):
    """[source] kind = "module".

    Attributes:
        module: A Python file and a function without arguments in it that returns a `torch.nn.Module`.
        checkpoint: State dict of the module, if the function does not load one.
        output: Whether the output lies before or behind the softmax or sigmoid.
    """

    module: Annotated[str, _described('FILE.py:FUNCTION, such as "network.py:make"', pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    checkpoint: _Text | None = None
    output: Output = "logits"


class TorchTable(msgspec.Struct):
    """[source] kind = "torch".

    Attributes:
        file: Of `torch.export.save` or `torch.jit.save`.
        output: Whether the output lies before or behind the softmax or sigmoid.
    """

    file: _Text
    output: Output = "logits"


class OnnxTable(msgspec.Struct):
    """[source] kind = "onnx".

    Attributes:
        file: The ONNX file.
        output: Whether the output lies before or behind the softmax or sigmoid.
        layout: Order of the input's axes. Required if the shape of the input leaves it open.
        output_name: Name of the output. Required if the file has several.
    """

    file: _Text
    output: Output
    layout: Layout | None = None
    output_name: _Text | None = None


class KerasTable(msgspec.Struct):
    """[source] or [tensorflow] kind = "keras".

    Attributes:
        file: A whole network in .keras or .h5. This, or `network` and `weights`, is required.
        network: Name in `keras.applications`.
        weights: A file of weights, or "imagenet", which Keras takes from its cache ($KERAS_HOME/models) or downloads.
        sha256: Expected digest of the weights file.
        package: An installed distribution that carries the weights file.
        output: Whether the output lies before or behind the softmax or sigmoid.
    """

    file: _Text | None = None
    network: _Text | None = None
    weights: _Text | None = None
    sha256: _Sha256 | None = None
    package: _Text | None = None
    output: Output = "logits"


class SavedModelTable(msgspec.Struct):
    """[source] or [tensorflow] kind = "saved_model".

    Attributes:
        folder: Folder with saved_model.pb.
        output: Whether the output lies before or behind the softmax or sigmoid.
        output_name: Name of the output. Required if the signature `serving_default` has several.
    """

    folder: _Text
    output: Output
    output_name: _Text | None = None


class RecipeTable(msgspec.Struct):
    """The keys above the first table, and the tables.

    Attributes:
        classes: Number of classes. A network with one output value has two, or one with `output = "sigmoid"`.
        labels: A text file in UTF-8 whose line i names class i; or "weights" for the labels that the framework keeps
            with the network.
        geometry: How images are resized and cropped.
        normalisation: What the network expects of pixels.
        source: The network: `kind`, and the keys of that kind.
        output: How logits become scores: "softmax" for one class of several, "sigmoid" for each label by itself.
        threshold: Labels with a lower score are left out of a response.
        formats: Formats of the images that the server takes. Of several pictures in one file, the first counts.
        background: Colour that transparent pixels are put on; without it, the colours behind the transparency count.
        tensorflow: The network for `--backend tf_trt`.
    """

    classes: Annotated[int, _described("an integer of at least 1", ge=1)]
    labels: Annotated[str, _described('the name of a text file with one label per line, or "weights"')]
    geometry: Annotated[dict[str, Any], _described("a table")]
    normalisation: Annotated[dict[str, Any], _described("a table")]
    source: Annotated[dict[str, Any], _described("a table")]
    output: Head = "softmax"
    threshold: Annotated[float, _described("a number from 0 to 1", ge=0, le=1)] = 0.0
    formats: Annotated[tuple[ImageFormat, ...], _described(f"a list of {_FORMAT_NAMES}", min_length=1)] = (
        DEFAULT_FORMATS
    )
    background: _Rgb | None = None
    tensorflow: Annotated[dict[str, Any], _described("a table")] | None = None


TABLES: dict[str, type[msgspec.Struct]] = {
    "": RecipeTable,
    "geometry": GeometryTable,
    "normalisation": NormalisationTable,
}
TENSORFLOW_KINDS: dict[str, type[msgspec.Struct]] = {"keras": KerasTable, "saved_model": SavedModelTable}
KINDS: dict[str, type[msgspec.Struct]] = {
    "torchvision": TorchvisionTable,
    "timm": TimmTable,
    "hugging_face": HuggingFaceTable,
    "ultralytics": UltralyticsTable,
    "module": ModuleTable,
    "torch": TorchTable,
    "onnx": OnnxTable,
    **TENSORFLOW_KINDS,
}


def kinds_of(table: str) -> Mapping[str, type[msgspec.Struct]]:
    """Return the kinds of networks that a table takes."""
    return TENSORFLOW_KINDS if table == "tensorflow" else KINDS


def keys_of(table: str, kind: object = None) -> list[str]:
    """Return the keys of a table; of a network, those of all kinds if its kind is not known."""
    if table in TABLES:
        return list(TABLES[table].__struct_fields__)
    kinds = kinds_of(table)
    structs = [kinds[kind]] if isinstance(kind, str) and kind in kinds else [*kinds.values()]
    if table == "tensorflow":
        structs.append(NormalisationTable)
    return list(dict.fromkeys(["kind", *(key for struct in structs for key in struct.__struct_fields__)]))


def home_of(key: str, table: str) -> str:
    """Return the place of a key that a table does not have: "to [geometry]"; empty if no table has it."""
    if table not in TABLES:
        kinds = [f'"{kind}"' for kind, struct in kinds_of(table).items() if key in struct.__struct_fields__]
        if kinds:
            return f"to kind = {' or '.join(kinds)}"
    if key in keys_of(""):
        return (
            "at the top, as a table of its own" if key in ("source", "tensorflow", *TABLES) else "above the first table"
        )
    homes = [other for other in ("geometry", "normalisation", "source") if key in keys_of(other)]
    return f"to [{homes[0]}]" if homes else ""


def describe(kind: Any) -> str:
    """Complete "must be ..." for the type of a key."""
    if get_origin(kind) is Annotated:
        for meta in get_args(kind)[1:]:
            if meta.extra_json_schema:
                return str(meta.extra_json_schema["description"])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    return describe(next(arm for arm in get_args(kind) if arm is not type(None)))
