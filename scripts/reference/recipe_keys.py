"""The page of the recipe's keys: types and defaults of the tables of `jpeg_build.recipe.keys`, and their docstrings."""

from __future__ import annotations

import json

import msgspec
from jpeg_build.recipe.keys import KINDS, TABLES, TENSORFLOW_KINDS, describe

from reference.text import attributes, code, head, table

_INTRODUCTION = (
    "A recipe is a TOML file: [Recipes](../recipes.md) is the guide to it. "
    "Each table lists its keys, what a value must be, and what holds without the key."
)
_TITLES = {"": "Above the first table", "geometry": "`[geometry]`", "normalisation": "`[normalisation]`"}


def page() -> str:
    """Return the page."""
    parts = [_section(_TITLES[name], struct) for name, struct in TABLES.items()]
    parts += [_section(f'`[source]` with `kind = "{kind}"`', struct) for kind, struct in KINDS.items()]
    kinds = " or ".join(f'`"{kind}"`' for kind in TENSORFLOW_KINDS)
    parts.append(
        f"## `[tensorflow]`\n\nThe network for `--backend tf_trt`: `kind` is {kinds}, with the keys of that kind, and "
        "`mean`, `std`, `scale` and `color` of its own, as in `[normalisation]`.\n"
    )
    return head("Recipe keys", _INTRODUCTION) + "".join(parts)


def _section(title: str, struct: type[msgspec.Struct]) -> str:
    meanings = attributes(struct)
    rows = [
        (code(field.name), describe(field.type), _default(field), meanings[field.name])
        for field in msgspec.structs.fields(struct)
    ]
    return f"## {title}\n\n{table(('key', 'value', 'default', 'meaning'), rows)}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    return "none" if field.default is None else code(json.dumps(field.default))
