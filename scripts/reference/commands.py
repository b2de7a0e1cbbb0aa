"""The page of the commands: their help, as cyclopts knows it."""

from __future__ import annotations

from cyclopts.docs.markdown import generate_markdown_docs
from jpeg_bench.cli import app as bench
from jpeg_build.cli import app as build
from jpeg_client.cli import app as classify
from jpeg_contract.command_line import App
from jpeg_serve.cli import app as serve
from jpeg_web.cli import app as web

from reference.text import head

_INTRODUCTION = (
    "Each command has the same text behind `--help`, and writes a script for the shell's completion with "
    "`--install-completion`. Results go to stdout, progress and errors to stderr. Exit status: 0 success, 1 failure, 2 "
    "invalid call. An error ends with its [reason code](reason-codes.md) in brackets."
)


def page() -> str:
    """Return the page."""
    return head("Commands", _INTRODUCTION) + "\n".join(map(_command, (build, serve, classify, web, bench)))


def _command(app: App) -> str:
    text = generate_markdown_docs(
        app, heading_level=2, generate_toc=False, exclude_commands=["--install-completion"]
    ).strip()
    examples = str(app.help_epilogue or "").strip()
    return f"{text}\n\n**Examples and exit status of {app.name[0]}**\n\n```text\n{examples}\n```\n"
