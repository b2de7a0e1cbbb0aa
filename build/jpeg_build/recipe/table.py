"""One table of a recipe, and the lines of its keys for messages."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from jpeg_contract.inside import PathOutside, inside

from jpeg_build.errors import RecipeError
from jpeg_build.recipe.keys import describe, home_of, keys_of, kinds_of

RECIPES = Path(__file__).parents[1] / "recipes"

T = TypeVar("T", bound=msgspec.Struct)


class Table:
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
        kinds = kinds_of(self._name)
        known = ", ".join(f'"{kind}"' for kind in kinds)
        if "kind" not in self.values:
            raise self.error(
                "", f"{full_key(self._name, 'kind')} is missing; it must be one of {known}", reason="missing_key"
            )
        kind = self.values["kind"]
        if not isinstance(kind, str) or kind not in kinds:
            raise self.value_error("kind", f"one of {known}")
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
                    f"{full_key(self._name, name)} is missing; it must be {describe(field.type)}",
                    reason="missing_key",
                )
        try:
            return msgspec.convert(self.values, kind)
        except msgspec.ValidationError as error:
            key = str(error).rpartition("`$.")[2].partition("[")[0].strip("`")
            raise self.value_error(key, describe(fields[key].type)) from error

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
        known = keys_of(self._name, self.values.get("kind"))
        for key in self.values:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            if home := home_of(key, self._name):
                hint = f"it belongs {home}"
            elif near:
                hint = f"did you mean {near[0]}?"
            else:
                hint = f"known here: {', '.join(sorted(known))}"
            raise self.error(key, f"is unknown; {hint}", reason="unknown_key")

    def error(self, key: str, message: str, *, reason: str | None = None) -> RecipeError:
        """Make an error at the line of a key; with "", at the table's first line."""
        about = f"{full_key(self._name, key)}: " if key else ""
        return RecipeError(f"{self.path}:{line_of(self._text, self._name, key)}: {about}{message}", reason=reason)

    def full_key(self, key: str) -> str:
        """Return `[table] key`."""
        return full_key(self._name, key)

    def value_error(self, key: str, expected: str) -> RecipeError:
        """Make an error for a value that must be something else."""
        value = json.dumps(self.values[key], default=str)
        return self.error(key, f"is {value}, but must be {expected}", reason="invalid_value")


def full_key(table: str, key: str) -> str:
    """Return `[table] key`."""
    return f"[{table}] {key}" if table else key


def line_of(text: str, table: str, key: str) -> int:
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
