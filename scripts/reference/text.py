"""Parts of a Markdown page."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

import docstring_parser


def head(title: str, introduction: str) -> str:
    """Return the beginning of a page."""
    return f"# {title}\n\n<!-- Made from the code by `make reference`: edit the code. -->\n\n{introduction}\n\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, followed by a blank line."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines) + "\n"


def code(text: str) -> str:
    """Return a text as code, on one line."""
    text = " ".join(text.split())
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def attributes(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says about its attributes, each on one line."""
    described = docstring_parser.parse(inspect.getdoc(kind) or "").params
    return {each.arg_name: " ".join((each.description or "").split()) for each in described}
