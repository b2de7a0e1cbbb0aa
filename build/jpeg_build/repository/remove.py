"""Remove an ensemble and its models from a repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from jpeg_contract.model_config import CONFIG
from jpeg_contract.model_names import ensemble_of

from jpeg_build.errors import RepositoryError
from jpeg_build.repository import tree
from jpeg_build.repository.ensembles import ensembles, require_ensemble


def remove(root: Path, name: str) -> list[str]:
    """Remove an ensemble and those of its models that no other ensemble uses.

    A running server keeps them until it is reloaded.

    Args:
        root: The model repository.
        name: Of the ensemble.

    Returns:
        Lines that say what was removed, and what stays.

    Raises:
        RepositoryError: There is no such ensemble, or the repository cannot be written; then nothing is removed.
    """
    every = ensembles(root)
    require_ensemble(root, every, name)
    used: dict[str, list[str]] = {}
    for other, config in every.items():
        for step in config.ensemble_scheduling.step if other != name else ():
            used.setdefault(step.model_name, []).append(other)
    if name in used:
        raise RepositoryError(f"{root / name}: {' and '.join(used[name])} use it: remove them first", reason="in_use")
    mine = sorted(
        path.parent.name
        for path in root.glob(f"*/{CONFIG}")
        if path.parent.name == name or (path.parent.name not in every and ensemble_of(path.parent.name) == name)
    )
    gone = [model for model in mine if model not in used]
    with tree.staging(root) as folder:
        moved: list[str] = []
        try:
            # The ensemble first: without it, its steps are not served.
            for model in sorted(gone, key=lambda model: model != name):
                (root / model).rename(folder / model)
                moved.append(model)
        except OSError as error:
            for model in moved:
                (folder / model).rename(root / model)
            raise RepositoryError(f"{root}: cannot be written: {error.strerror}; nothing was removed") from error
        for model in moved:
            shutil.rmtree(folder / model, ignore_errors=True)
    kept = [f"{model} stays: {' and '.join(used[model])} use it" for model in mine if model in used]
    return [f"removed {', '.join(gone)}", *kept]
