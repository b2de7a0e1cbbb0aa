"""The types of arguments that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.model_names import why_no_ensemble

from jpeg_build.errors import CallError

Weights = Literal["recipe", "none"]


def _version_text(_kind: Any, tokens: Sequence[Any]) -> str:
    text = str(tokens[0].value)
    if text != "newest" and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"{text!r} is neither a number from 1 on nor newest")
    return text


def _model_name(_kind: Any, tokens: Sequence[Any]) -> str:
    name = str(tokens[0].value)
    if reason := why_no_ensemble(name):
        raise ValueError(reason)
    return name


Version = Annotated[str, Parameter(converter=_version_text)]

ModelName = Annotated[str, Parameter(converter=_model_name)]


def find_form(backend: str, name: str) -> ClassifierForm:
    """Return the classifier form of a backend for an ensemble. Raises CallError."""
    if backend not in FORMS:
        raise CallError(f"there is no backend {backend!r}; there are {', '.join(FORMS)}")
    return FORMS[backend].of(name)
