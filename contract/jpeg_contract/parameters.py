"""The checked reading of a config's `parameters`, names to texts, into a typed class."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from jpeg_contract.errors import ReasonedError

T = TypeVar("T", bound=msgspec.Struct)

# Besides true, false, 1 and 0 (triton's backend repository, ParseBoolValue).
_SWITCHES = {"on": "true", "off": "false"}


class SettingsError(ReasonedError, ValueError):
    """A setting of a model is missing, unknown, or has a value that cannot be used; the message says which and why."""

    reason = "invalid_setting"


def parameters_of(model_config: str | Mapping[str, Any]) -> dict[str, str]:
    """Return a model's parameters.

    Args:
        model_config: The "model_config" that Triton hands to a Python model: JSON, or the parsed JSON.
    """
    config = json.loads(model_config) if isinstance(model_config, str) else model_config
    return {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}


def read_parameters(kind: type[T], parameters: Mapping[str, str], *, strict_names: bool = True) -> T:
    """Read texts into a typed class.

    Args:
        kind: The class; its fields have the parameters' names, or `rename` maps them.
        parameters: Names to texts. Those in capitals that `kind` does not have are Triton's own, and left alone.
        strict_names: Refuse a name that `kind` does not have.

    Raises:
        SettingsError: A parameter is missing, unknown, or not what the class says.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name in parameters if strict_names else ():
        if name not in fields and not name.isupper():
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(fields)) or 'none'}"
            raise SettingsError(f"parameter {name} is unknown; {hint}", reason="unknown_parameter")
    for name, field in fields.items():
        if field.required and name not in parameters:
            raise SettingsError(
                f"parameter {name} is missing: build the model again with jpeg-build", reason="missing_parameter"
            )
    texts = {}
    for name, text in parameters.items():
        if name in fields:
            texts[name] = _for_msgspec(text.strip(), _kinds(fields[name]))
    try:
        return msgspec.convert(texts, kind, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        if name not in texts:
            raise SettingsError(str(error)) from error
        expected = _expected(_kinds(fields[name])) or message
        raise SettingsError(f"parameter {name} is {parameters[name]!r}: {expected}") from error


def expected_value(field: msgspec.structs.FieldInfo) -> str:
    """Describe the valid values of a parameter: "it must be ..."; empty for any text."""
    return _expected(_kinds(field))


def _kinds(field: msgspec.structs.FieldInfo) -> tuple[Any, ...]:
    kind = msgspec.inspect.type_info(field.type)
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _for_msgspec(text: str, kinds: tuple[Any, ...]) -> str:
    """Return the text with the native backends' words for booleans, and what msgspec would misread made invalid.

    msgspec reads 50e6 and 3.0 as integers and null as None; the native backends read 50, 3 and an error.
    """
    if any(isinstance(each, msgspec.inspect.BoolType) for each in kinds):
        return _SWITCHES.get(text.lower(), text)
    misread = text.lower() == "null" or (
        any(isinstance(each, msgspec.inspect.IntType) for each in kinds) and not re.fullmatch("-?[0-9]+", text)
    )
    return "" if misread and not any(isinstance(each, msgspec.inspect.StrType) for each in kinds) else text


def _expected(kinds: tuple[Any, ...]) -> str:
    """Describe the valid values as a config states them, not as a JSON schema; empty if msgspec's message is good."""
    for each in kinds:
        if isinstance(each, msgspec.inspect.Metadata) and each.extra_json_schema:
            return f"it must be {each.extra_json_schema['description']}"
        if isinstance(each, msgspec.inspect.LiteralType):
            return f"it must be one of {', '.join(map(str, each.values))}"
        if isinstance(each, msgspec.inspect.BoolType):
            return "it must be true or false"
        if isinstance(each, msgspec.inspect.IntType):
            bounds = [f"at least {each.ge}"] if each.ge is not None else []
            bounds += [f"at most {each.le}"] if each.le is not None else []
            return f"it must be an integer{', ' if bounds else ''}{' and '.join(bounds)}"
    return ""
