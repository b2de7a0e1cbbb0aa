"""The page of the parameters in config.pbtxt: the typed classes that read them, and their docstrings."""

from __future__ import annotations

import msgspec
from jpeg_contract.forms import ONNX, OPENVINO, TENSORRT, TF_TRT, TORCH_TENSORRT, ClassifierForm
from jpeg_contract.geometry import Geometry
from jpeg_contract.parameters import expected_value
from jpeg_contract.routes import RouterParameters
from jpeg_contract.settings import (
    Limits,
    PostprocessParameters,
    PostprocessSettings,
    PreprocessParameters,
    PreprocessSettings,
)

from reference.text import attributes, code, head, table

_INTRODUCTION = (
    "A parameter stands in a model's `config.pbtxt` as "
    '`parameters { key: "max_pixels" value { string_value: "50000000" } }`. '
    "A running server reads it at its next start: `jpeg-serve restart`. "
    "`jpeg-serve check` refuses unknown names and wrong values. "
    "[Preprocessing](../preprocessing.md) and [Classifiers](../classifiers.md#parameters) say when to change which."
)


def page() -> str:
    """Return the page."""
    preprocess = {**attributes(Geometry), **attributes(Limits), **attributes(PreprocessSettings)}
    parts = [
        _section("`preprocess`", "", PreprocessParameters, preprocess),
        _section("`postprocess`", "", PostprocessParameters, attributes(PostprocessSettings)),
        _section(
            "`router`",
            "`jpeg-build use --split` and `--shadow` write this model.",
            RouterParameters,
            attributes(RouterParameters),
        ),
        *map(_form, (ONNX, OPENVINO, TENSORRT, TORCH_TENSORRT, TF_TRT)),
    ]
    return head("Config parameters", _INTRODUCTION) + "".join(parts).rstrip() + "\n"


def _form(form: ClassifierForm) -> str:
    levels = ", ".join(map(str, form.graph_levels))
    note = f"Of the backend `{form.backend}`."
    if levels:
        note += f" `optimization {{ graph {{ level }} }}` may be {levels}."
    if form is ONNX:
        note += " Parameters that begin with `session.` go to ONNX Runtime's session options."
    meanings = {name: text for kind in reversed(form.parameters.__mro__) for name, text in attributes(kind).items()}
    return _section(f"`{form.model}`", note, form.parameters, meanings)


def _section(title: str, note: str, struct: type[msgspec.Struct], meanings: dict[str, str]) -> str:
    rows = [
        (
            code(field.encode_name),
            expected_value(field).removeprefix("it must be ") or "a text",
            _default(field),
            meanings[field.name],
        )
        for field in msgspec.structs.fields(struct)
    ]
    text = f"{note}\n\n" if note else ""
    return f"## {title}\n\n{text}{table(('parameter', 'value', 'default', 'meaning'), rows)}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is None or field.default == "":
        return "none"
    return code(str(field.default).lower() if isinstance(field.default, bool) else str(field.default))
