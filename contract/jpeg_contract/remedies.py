"""Commands of this project as the user can paste them into a terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from jpeg_contract.tensors import ENSEMBLE

DISTRIBUTION = "triton-jpeg-classifier"
DEFAULT_REPOSITORY = Path("model_repository")
# Recipes that jpeg-build finds by their names from any folder.
PROJECT_RECIPES = ("mobilenet_v2", "resnet50")

_TRUST = "--trust-code"


def install_command(*extras: str) -> str:
    """Return what installs extras of this project into the Python environment."""
    return f"pip install '{DISTRIBUTION}[{','.join(extras)}]'"


def missing_package(package: str, extra: str) -> str:
    """Return the sentence on a package that is not installed. extra: of this project, which brings it."""
    in_checkout = f"in a checkout, .venv/bin/pip install -e '.[{extra}]'"
    return f"the package {package} is not installed: {install_command(extra)}; {in_checkout}"


def build_command(
    recipe: str,
    form: str,
    repository: Path = DEFAULT_REPOSITORY,
    *,
    version: int | None = None,
    precision: str | None = None,
    flags: tuple[str, ...] = (),
    ensemble: str = ENSEMBLE,
    runs_code: bool = False,
) -> str:
    """Return `jpeg-build RECIPE --backend FORM ...`.

    Args:
        recipe: Its name or path; RECIPE stands for one that is not known.
        form: Name of the classifier form.
        repository: The model repository; the default one is not written.
        version: Number of the version, None for the newest.
        precision: None for the default.
        flags: More options.
        ensemble: Whose classifier it is.
        runs_code: The recipe names Python code, which is run only if it is trusted.
    """
    words = ["jpeg-build", _recipe_argument(recipe), "--backend", form, *_name_option(ensemble)]
    if precision is not None:
        words += ["--precision", precision]
    words += flags
    words += [_TRUST] * runs_code
    if version is not None:
        words += ["--version", str(version)]
    return _joined(words, repository)


def first_build_command(recipe: str, *, runs_code: bool) -> str:
    """Return `jpeg-build RECIPE`, for a recipe that was just written. See `build_command` for the arguments."""
    return _joined(["jpeg-build", recipe, *[_TRUST] * runs_code])


def remove_command(ensemble: str, repository: Path = DEFAULT_REPOSITORY) -> str:
    """Return `jpeg-build remove ENSEMBLE ...`."""
    return _joined(["jpeg-build", "remove", ensemble], repository)


def use_command(
    form: str, repository: Path = DEFAULT_REPOSITORY, *, version: int | None = None, ensemble: str = ENSEMBLE
) -> str:
    """Return `jpeg-build use FORM ...`."""
    words = ["jpeg-build", "use", form, *_name_option(ensemble)]
    if version is not None:
        words += ["--version", str(version)]
    return _joined(words, repository)


def reload_command(repository: Path = DEFAULT_REPOSITORY) -> str:
    """Return `jpeg-serve reload ...`."""
    return _joined(["jpeg-serve", "reload"], repository)


def restart_command(repository: Path = DEFAULT_REPOSITORY) -> str:
    """Return `jpeg-serve restart ...`."""
    return _joined(["jpeg-serve", "restart"], repository)


def _recipe_argument(recipe: str) -> str:
    """Return RECIPE as it can be run: configs and reports name a recipe without its folder."""
    if recipe in PROJECT_RECIPES or recipe == "RECIPE" or recipe.endswith(".toml"):
        return recipe
    return f"{recipe}.toml" if Path(f"{recipe}.toml").is_file() else f"PATH/{recipe}.toml"


def _name_option(ensemble: str) -> list[str]:
    return [] if ensemble == ENSEMBLE else ["--name", ensemble]


def _joined(words: list[str], repository: Path = DEFAULT_REPOSITORY) -> str:
    if repository != DEFAULT_REPOSITORY:
        words = [*words, "--model-repository", str(repository)]
    return shlex.join(words)
