"""`jpeg-build init`: write the recipe of a network."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jpeg_contract.command_line import Progress
from jpeg_contract.inside import is_inside
from jpeg_contract.remedies import first_build_command

from jpeg_build.errors import BuildError, CallError, RecipeError
from jpeg_build.init.facts import NO_FACTS, Facts, Prompt, Questions, choose, complete, own_labels
from jpeg_build.init.labels import find_labels
from jpeg_build.init.source import Hints, Origin, find_origin, make_draft
from jpeg_build.init.text import recipe_text
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.recipe.keys import KINDS
from jpeg_build.recipe.recipe import load_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class NewRecipe:
    """One recipe that is requested.

    Attributes:
        source: The network, as the user names it.
        facts: What the user states on it.
        output: The recipe's file; None takes the network's folder and name.
        checkpoint: Weights for a network that `source` names.
        force: Replace a recipe that is there.
    """

    source: str
    facts: Facts = NO_FACTS
    output: Path | None = None
    checkpoint: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Written:
    """A recipe that is in place.

    Attributes:
        path: The recipe.
        is_new: It was written.
        labels: The label file that was written beside it, if any.
        notes: Lines for the user.
        runs_code: Building it runs Python code that it names.
    """

    path: Path
    is_new: bool
    labels: Path | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    runs_code: bool = False


def write_recipe(wanted: NewRecipe, prompt: Prompt | None, progress: Progress) -> Written:
    """Write the recipe of a network.

    Args:
        wanted: The request.
        prompt: Puts questions to the user; None without a terminal.
        progress: Takes the steps of the work.

    Raises:
        CallError: A recipe is there already, or options are missing.
        BuildError: The network is not available, or the recipe does not fit it. No file is left behind.
    """
    origin = _origin(wanted)
    path = recipe_path(origin, wanted.output)
    labels_path = path.with_suffix(".txt")
    if path.exists() and not wanted.force:
        raise _exists(path)
    questions = Questions(prompt)
    progress(f"looking at {wanted.source}")
    draft = make_draft(origin, _hints(wanted.facts, None, None))
    layout = choose("layout", draft, wanted.facts, questions)
    output_name = choose("output_name", draft, wanted.facts, questions)
    if layout is not None or output_name is not None:
        draft = make_draft(origin, _hints(wanted.facts, layout, output_name))
    notes = _open_notes(draft, wanted.facts, path.parent)
    # Before the questions: they help to answer them.
    for note in notes:
        progress(f"note: {note}")
    tables, labels = complete(draft, wanted.facts, questions, path.parent)
    questions.finish(wanted.source)
    assert labels is not None
    chosen = {key: value for key, value in (("layout", layout), ("output_name", output_name)) if value is not None}
    named = origin.table(lambda file: str(_name_in(path.parent, file)))
    source = {**chosen, **tables["source"], **named}
    order = ["kind", *KINDS[source["kind"]].__struct_fields__]
    tables["source"] = {key: source[key] for key in order if key in source}
    existing = None if isinstance(labels, str) else _file_with(labels, path.parent, wanted.facts, labels_path)
    if not isinstance(labels, str) and existing is None and labels_path.exists() and not wanted.force:
        raise CallError(
            f"{labels_path}: is there already, with other labels: --force replaces it", reason="recipe_exists"
        )
    title = f"Recipe of {wanted.source}, by jpeg-build init. docs/recipes.md explains every key."
    named_labels = labels if existing is None else existing.relative_to(path.parent).as_posix()
    runs_code = _place(path, title, tables, named_labels, labels_path)
    written = labels_path if existing is None and not isinstance(labels, str) else None
    notes_left = [note for note in draft.notes if not isinstance(note, Hint)]
    return Written(path, True, written, notes_left, runs_code=runs_code)


def _open_notes(draft: Draft, facts: Facts, folder: Path) -> list[Hint]:
    """Return the notes on what the user has not stated."""
    stated = set(facts.given())
    if draft.labels is not None or own_labels(draft, folder) is not None:
        stated.add("labels")
    return [note for note in draft.notes if isinstance(note, Hint) and note.is_open(stated)]


def find_or_write(wanted: NewRecipe, prompt: Prompt | None, progress: Progress) -> Written:
    """Return the recipe of a network; write it if it is not there.

    Raises:
        CallError: A recipe of that name is of another network, or differs from the options.
        BuildError: See `write_recipe`.
    """
    origin = _origin(wanted)
    path = recipe_path(origin, wanted.output)
    if not path.exists():
        return write_recipe(wanted, prompt, progress)
    _check_same(path, origin, wanted.facts)
    return Written(path, False)


def is_network(source: str) -> bool:
    """Whether RECIPE is a network, for which there may be no recipe yet.

    Raises:
        BuildError: It names one that is not there.
    """
    return find_origin(source) is not None


def recipe_path(origin: Origin, output: Path | None) -> Path:
    """Return the file of a network's recipe: beside the network's file, or for a named one in the working directory.

    Raises:
        CallError: The network's files lie outside of the recipe's folder.
    """
    if output is not None and output.suffix != ".toml":
        raise CallError(f"--output {output}: a recipe is a .toml file")
    folders = [file.parent for file in origin.files] or [Path()]
    possible = [output.parent] if output is not None else [*folders, Path()]
    for folder in possible:
        if all(_name_in(folder, file) is not None for file in origin.files):
            return output or folder / f"{origin.name}.toml"
    listed = ", ".join(map(str, origin.files))
    where = f"outside of {possible[0]}, the folder of --output" if output is not None else "in different folders"
    raise CallError(
        f"{listed}: {where}, and a recipe names files beside itself or below only: put them into the folder of the "
        "recipe",
        reason="path_outside",
    )


def _origin(wanted: NewRecipe) -> Origin:
    origin = find_origin(wanted.source, network=wanted.facts.network, checkpoint=wanted.checkpoint)
    if origin is None:
        raise CallError(
            f"{wanted.source}: is no network: give timm:NAME, hf:FOLDER, torchvision:NAME, ultralytics:FILE.pt, "
            "module:FILE.py:FUNCTION, keras:NAME, or the path of a file (.onnx, .keras, .h5, .pt, .pth, .pth.tar, "
            ".pt2, .safetensors) or folder (SavedModel, Hugging Face)",
            reason="network_not_found",
        )
    return origin


def _hints(facts: Facts, layout: Any, output_name: str | None) -> Hints:
    crop = facts.tables()["geometry"].get("crop_size")
    return Hints(
        layout=layout or facts.layout,
        output_name=output_name or facts.output_name,
        crop_size=None if crop is None else (crop, crop) if isinstance(crop, int) else tuple(crop),
    )


def _name_in(folder: Path, file: Path) -> str | None:
    """Return the name of a file relative to a folder; None if it lies outside."""
    name = os.path.relpath(file, folder).replace(os.sep, "/")
    return name if is_inside(folder, name) else None


def _file_with(labels: Sequence[str], folder: Path, facts: Facts, usual: Path) -> Path | None:
    """Return a label file in the recipe's folder that has these labels already."""
    given = [] if facts.labels is None else [Path(facts.labels)]
    for path in (*given, usual, *(folder / name for name in ("labels.txt", "classes.txt", "class_names.txt"))):
        if path.suffix == ".txt" and path.is_file() and (name := _name_in(folder, path)) is not None:
            try:
                if find_labels(str(path)) == list(labels):
                    return folder / name
            except CallError:
                continue
    return None


def _place(
    path: Path, title: str, tables: dict[str, dict[str, Any]], labels: Sequence[str] | str, labels_path: Path
) -> bool:
    """Write recipe and labels, check them by loading, and rename them into place; return whether a build runs code."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    aside: list[Path] = []

    def write(text: str, suffix: str) -> Path:
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=f".{path.stem}-", suffix=suffix)
        aside.append(Path(name))
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        # As a file that the user makes: mkstemp's is closed to others.
        mask = os.umask(0)
        os.umask(mask)
        aside[-1].chmod(0o666 & ~mask)
        return aside[-1]

    try:
        top = tables[""]
        if isinstance(labels, str):
            draft_labels, top["labels"] = None, labels
        else:
            draft_labels = write("".join(f"{label}\n" for label in labels), ".txt")
            top["labels"] = draft_labels.name
        draft = write(recipe_text(title, tables), ".toml")
        try:
            runs_code = load_recipe(draft).runs_code
        except RecipeError as error:
            raise RecipeError(str(error).replace(str(draft), str(path)), reason=error.reason) from error
        if draft_labels is not None:
            top["labels"] = labels_path.name
            draft = write(recipe_text(title, tables), ".toml")
            draft_labels.replace(labels_path)
        draft.replace(path)
        return runs_code
    finally:
        for file in aside:
            file.unlink(missing_ok=True)


def _check_same(path: Path, origin: Origin, facts: Facts) -> None:
    """Raise CallError if a recipe is not of this network, or the options are others."""
    recipe = load_recipe(path)
    values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    stated = origin.table(lambda file: _name_in(path.parent, file) or str(file))
    source = values["source"]
    for key, value in stated.items():
        # A file of weights may be named without its network: the recipe has it.
        same = os.path.normpath(str(source.get(key))) == os.path.normpath(value)
        if not same:
            raise _exists(path, f"its [source] {key} is {source.get(key)!r}, not {value!r}")
    for table, keys in facts.tables().items():
        for key, value in keys.items():
            found = (values.get(table, {}) if table else values).get(key)
            if found != value:
                raise _exists(path, f"its {f'[{table}] ' if table else ''}{key} is {found}, not {value}")
    if facts.labels is not None and list(recipe.labels or ()) != find_labels(facts.labels):
        raise _exists(path, "it has other labels")


def _exists(path: Path, difference: str = "") -> CallError:
    try:
        runs_code = load_recipe(path).runs_code
    except BuildError:
        runs_code = False  # building it says what is wrong with it
    return CallError(
        f"{path}: is there already{f', and {difference}' if difference else ''}: build it with "
        f"{first_build_command(str(path), runs_code=runs_code)}, edit it, let init replace it with --force, "
        "or write another one with --output NAME.toml",
        reason="recipe_exists",
    )
