"""The commands that change what a repository serves: use, combine, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from jpeg_contract.command_line import note
from jpeg_contract.model_names import ModelNames
from jpeg_contract.remedies import DEFAULT_REPOSITORY, reload_command
from jpeg_contract.tensors import ENSEMBLE

from jpeg_build.cli.arguments import ModelName, Version, find_form
from jpeg_build.cli.reporting import COMMAND
from jpeg_build.errors import CallError


def _percent(_kind: Any, value: float | None) -> None:
    if value is not None and not 0 < value <= 100:
        raise ValueError("must be above 0, and at most 100")


Percent = Annotated[float, Parameter(validator=_percent)]


def use(
    backend: str,
    /,
    *,
    version: Version | None = None,
    split: Percent | None = None,
    shadow: Percent | None = None,
    name: ModelName = ENSEMBLE,
    model_repository: Path = DEFAULT_REPOSITORY,
) -> None:
    """Let a model use another classifier: change one word in its config, and nothing else. Ends a split or shadow.

    Args:
        backend: The classifier form.
        version: Also change which version the classifier serves: a number, or newest (default: as it is).
        split: Let it answer this part of the requests, in percent (default: all), beside the classifier in use.
        shadow: Compare its labels on this part of the requests, in percent (default: none), and answer none.
        name: Name of the model.
        model_repository: The model repository.
    """
    from jpeg_build.repository.use import Trial, try_beside
    from jpeg_build.repository.use import use as choose

    form = find_form(backend, name)
    if split is not None and shadow is not None:
        raise CallError("--split and --shadow exclude each other")
    if split is None and shadow is None:
        lines = choose(model_repository, form, version)
    else:
        trial = Trial("split", split) if split is not None else Trial("shadow", shadow or 0)
        lines = try_beside(model_repository, form, version, trial)
    for line in lines:
        note(COMMAND, line)
    note(COMMAND, f"a server loads it when it starts; a running one, with: {reload_command(model_repository)}")


def combine(name: ModelName, /, *models: str, model_repository: Path = DEFAULT_REPOSITORY) -> None:
    """Make a model that runs the networks of several others on one decoded image.

    Args:
        name: Of the new model.
        models: The others, at least two, that take the same pixels.
        model_repository: The model repository.
    """
    from jpeg_build.repository.combine import combine as write

    if len(models) < 2:
        raise CallError("name at least two models to combine")
    for line in write(model_repository, ModelNames(name), models):
        note(COMMAND, line)
    note(COMMAND, f"a running server loads it with: {reload_command(model_repository)}")


def remove(name: str, /, *, model_repository: Path = DEFAULT_REPOSITORY) -> None:
    """Remove a model, and what only it uses: its classifiers of all forms and versions, labels, configs.

    Args:
        name: Of the model.
        model_repository: The model repository.
    """
    from jpeg_build.repository.remove import remove as delete

    for line in delete(model_repository, name):
        note(COMMAND, line)
    note(COMMAND, f"a running server lets go of it with: {reload_command(model_repository)}")
