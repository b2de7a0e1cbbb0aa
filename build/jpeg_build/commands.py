"""Commands of this project as the user can paste them: with the repository that he named."""

from __future__ import annotations

import shlex
from pathlib import Path

# What the commands take by themselves.
DEFAULT_REPOSITORY = Path("model_repository")


def install_command(extra: str) -> str:
    """What brings an extra of this project into the Python environment: the project is in no package index."""
    return f"pip install -e '.[{extra}]' in this project's folder"


def build_command(
    recipe: str, backend: str, repository: Path, *, version: int | None = None, precision: str | None = None
) -> str:
    """`jpeg-build RECIPE --backend BACKEND ...`."""
    words = ["jpeg-build", recipe, "--backend", backend]
    if precision is not None:
        words += ["--precision", precision]
    if version is not None:
        words += ["--version", str(version)]
    return _joined(words, repository)


def use_command(backend: str, repository: Path, *, version: int | None = None) -> str:
    """`jpeg-build use BACKEND ...`."""
    words = ["jpeg-build", "use", backend]
    if version is not None:
        words += ["--version", str(version)]
    return _joined(words, repository)


def reload_command(repository: Path) -> str:
    """`jpeg-serve reload ...`."""
    return _joined(["jpeg-serve", "reload"], repository)


def _joined(words: list[str], repository: Path) -> str:
    if repository != DEFAULT_REPOSITORY:
        words = [*words, "--model-repository", str(repository)]
    # RECIPE stands for a name that is not known; the shell's quotes would hide that.
    return shlex.join(words)
