"""The command that writes recipes, and the recipe of a build."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpeg_contract.command_line import note
from jpeg_contract.remedies import first_build_command

from jpeg_build.cli.reporting import COMMAND, report_note
from jpeg_build.errors import CallError
from jpeg_build.init.facts import NO_FACTS, Facts, Prompt

if TYPE_CHECKING:
    from jpeg_build.init.write import Written


def init(
    source: str,
    /,
    *,
    output: Path | None = None,
    checkpoint: Path | None = None,
    force: bool = False,
    facts: Facts = NO_FACTS,
) -> None:
    """Write the recipe of a network. What nobody but you knows comes from the options, or from questions on a terminal.

    Args:
        source: timm:NAME, hf:FOLDER or hf:NAME, torchvision:NAME[:WEIGHTS], ultralytics:FILE.pt,
            module:FILE.py:FUNCTION, keras:NAME, or the path of a file (.onnx, .keras, .h5, .pt, .pth, .pth.tar, .pt2,
            .safetensors) or folder (SavedModel, Hugging Face).
        output: The recipe's .toml file (default: beside the network's file, otherwise in the working directory).
        checkpoint: Weights for a network that SOURCE names: timm, torchvision, module or keras.
        force: Replace a recipe that is there.
    """
    from jpeg_build.init.write import NewRecipe, write_recipe

    wanted = NewRecipe(source, facts, output, checkpoint, force=force)
    with contextlib.redirect_stdout(sys.stderr):
        written = write_recipe(wanted, _prompt(), report_note)
    _report_recipe(written)
    command = first_build_command(str(written.path), runs_code=written.runs_code)
    note(COMMAND, f"check it, and build it with: {command}")
    print(written.path)


def recipe_of(text: str, facts: Facts, checkpoint: Path | None) -> tuple[Path, bool]:
    """Return the path of a recipe, and whether it was found for a network that was given in its place."""
    from jpeg_build.init.write import NewRecipe, find_or_write, is_network
    from jpeg_build.recipe.recipe import find_recipe, is_recipe

    given = ["network"] * (facts.network is not None) + [*facts.given()]
    if not is_recipe(text) and (is_network(text) or (given and Path(text).is_file())):
        wanted = NewRecipe(text, facts, checkpoint=checkpoint)
        with contextlib.redirect_stdout(sys.stderr):
            written = find_or_write(wanted, _prompt(), report_note)
        _report_recipe(written)
        return written.path, True
    path = find_recipe(text)
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise CallError(f"{option} is for a network without a recipe, and {path} is a recipe: edit it")
    return path, False


def _report_recipe(written: Written) -> None:
    """Report a recipe that was written, or that is used as it is."""
    for line in written.notes:
        note(COMMAND, f"note: {line}")
    if written.is_new:
        labels = "" if written.labels is None else f" and {written.labels}"
        note(COMMAND, f"wrote {written.path}{labels}")
    else:
        note(COMMAND, f"taking the recipe {written.path}")


def _prompt() -> Prompt | None:
    """Return what puts questions to the user; None without a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    from rich.console import Console
    from rich.markup import escape
    from rich.prompt import Prompt as RichPrompt

    console = Console(stderr=True, highlight=False)

    def prompt(question: str, why: str, *, default: str | None, choices: Sequence[str] | None) -> str:
        console.print(f"[dim]{escape(why)}[/dim]")
        known = None if choices is None else list(choices)
        if default is None:
            return RichPrompt.ask(escape(question), console=console, choices=known)
        return RichPrompt.ask(
            escape(question), console=console, choices=known, default=default, show_default=bool(default)
        )

    return prompt
