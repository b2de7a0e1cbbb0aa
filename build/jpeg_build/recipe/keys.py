"""The tables of a recipe: their keys, and the types and limits of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from jpeg_contract.geometry import Interpolation, ResizeSide
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
    """[geometry]."""

    crop_size: _Size
    resize_size: _Size | None = None
    crop_percent: Annotated[float, _described("a number above 0 and up to 1", gt=0, le=1)] | None = None
    resize_side: ResizeSide = "shorter"
    fill: _Rgb | None = None
    interpolation: Interpolation = "bilinear"
    antialias: _Flag = True
    exif_orientation: _Flag = True


class NormalisationTable(msgspec.Struct):
    """[normalisation]; see `normalisation.Normalisation`."""

    mean: _PerChannel | None = None
    std: _PerChannel | None = None
    scale: _Text | None = None
    color: Color = "RGB"


class TorchvisionTable(msgspec.Struct):
    """[source] kind = "torchvision"."""

    network: _Text
    weights: _Text
    sha256: _Sha256 | None = None
    package: _Text | None = None
    checkpoint: _Text | None = None
    differs_from_weights: _Flag = False


class TimmTable(msgspec.Struct):
    """[source] kind = "timm"."""

    network: _Text
    checkpoint: _Text | None = None
    differs_from_weights: _Flag = False


class HuggingFaceTable(msgspec.Struct):
    """[source] kind = "hugging_face"."""

    folder: _Text | None = None
    network: _Text | None = None
    revision: _Text | None = None
    differs_from_weights: _Flag = False


class UltralyticsTable(msgspec.Struct):
    """[source] kind = "ultralytics"."""

    file: _Text


class ModuleTable(msgspec.Struct):
    """[source] kind = "module"."""

    module: Annotated[str, _described('FILE.py:FUNCTION, such as "network.py:make"', pattern=r"^.+\.py:[A-Za-z_]\w*$")]
    checkpoint: _Text | None = None
    output: Output = "logits"


class TorchTable(msgspec.Struct):
    """[source] kind = "torch"."""

    file: _Text
    output: Output = "logits"


class OnnxTable(msgspec.Struct):
    """[source] kind = "onnx"."""

    file: _Text
    output: Output
    layout: Layout | None = None
    output_name: _Text | None = None


class KerasTable(msgspec.Struct):
    """[source] or [tensorflow] kind = "keras"."""

    file: _Text | None = None
    network: _Text | None = None
    weights: _Text | None = None
    sha256: _Sha256 | None = None
    package: _Text | None = None
    output: Output = "logits"


class SavedModelTable(msgspec.Struct):
    """[source] or [tensorflow] kind = "saved_model"."""

    folder: _Text
    output: Output
    output_name: _Text | None = None


class RecipeTable(msgspec.Struct):
    """The keys above the first table, and the tables."""

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
