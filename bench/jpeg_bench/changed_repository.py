"""Copies of a model repository that differ from it in one thing, for the time of a measurement."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jpeg_contract.model_names import own_name
from jpeg_contract.tensors import ENSEMBLE, POSTPROCESS

from jpeg_bench.errors import BenchError

if TYPE_CHECKING:
    from jpeg_contract.model_config import ModelConfig

# Smaller files are copied, so that nothing that a server does in the copy can reach the user's.
_LINKED_BYTES = 1 << 20


@contextmanager
def repository_with_instances(repository: Path, count: int) -> Iterator[Path]:
    """Copy a model repository, with this many instances of preprocess and of the classifier, until the block ends.

    Args:
        repository: Model repository.
        count: Number of instances.

    Raises:
        BenchError: The repository has no ensemble.
    """
    configs = _configs(repository)
    with copied(repository) as changed:
        for name, config in configs.items():
            if name not in (ENSEMBLE, POSTPROCESS):
                for group in config.instance_group:
                    group.count = count
                _write(changed / name, config)
        yield changed


@contextmanager
def repository_with_ensembles(repository: Path, count: int) -> Iterator[tuple[Path, list[str]]]:
    """Copy a model repository, with this many ensembles of equal models, until the block ends.

    Args:
        repository: Model repository.
        count: Number of ensembles.

    Returns:
        The copy, and the names of the ensembles.

    Raises:
        BenchError: The repository has no ensemble.
    """
    configs = _configs(repository)
    names = [ENSEMBLE, *(f"copy{number}" for number in range(2, count + 1))]
    with copied(repository) as changed:
        for ensemble in names[1:]:
            for name, config in configs.items():
                copy = type(config)()
                copy.CopyFrom(config)
                copy.name = ensemble if name == ENSEMBLE else own_name(ensemble, name)
                for step in copy.ensemble_scheduling.step:
                    step.model_name = own_name(ensemble, step.model_name)
                shutil.copytree(changed / name, changed / copy.name)
                _write(changed / copy.name, copy)
        yield changed, names


def _configs(repository: Path) -> dict[str, ModelConfig]:
    """Return the configs of the ensemble and its steps, by their names."""
    from jpeg_serve.models import read_models

    models, problems = read_models(repository)
    if ENSEMBLE not in models:
        detail = f" ({problems[0]})" if problems else ""
        raise BenchError(f"{repository} has no ensemble {ENSEMBLE}{detail}", reason="ensemble_missing")
    ensemble = models[ENSEMBLE].config
    steps = [step.model_name for step in ensemble.ensemble_scheduling.step]
    return {ENSEMBLE: ensemble, **{name: models[name].config for name in steps}}


@contextmanager
def copied(repository: Path) -> Iterator[Path]:
    """Copy a model repository until the block ends. Artefacts are linked, not copied."""
    with tempfile.TemporaryDirectory(prefix=".jpeg-bench-", dir=_folder_for_links(repository)) as folder:
        changed = Path(folder) / "model_repository"
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(repository, changed, ignore=ignored, copy_function=_link_or_copy)
        # jpeg-serve prefers the Python-based backends beside a model repository.
        if (backends := repository.resolve().parent / "backends").is_dir():
            (Path(folder) / "backends").symlink_to(backends)
        yield changed


def _write(folder: Path, config: ModelConfig) -> None:
    from jpeg_contract.model_config import CONFIG, text_format

    (folder / CONFIG).write_text(text_format.MessageToString(config), encoding="utf-8")


def _folder_for_links(repository: Path) -> Path | None:
    """Return a folder on the file system of the repository, where files can be linked; None for the usual one."""
    beside = repository.resolve().parent
    usual = Path(tempfile.gettempdir())
    other = usual.stat().st_dev != repository.stat().st_dev
    return beside if other and os.access(beside, os.W_OK) else None


def _link_or_copy(source: str, target: str) -> str:
    """Link a large file, or copy it."""
    if Path(source).stat().st_size >= _LINKED_BYTES:
        try:
            # The content of a link, as a copy would have: the check refuses links out of a version's folder.
            os.link(os.path.realpath(source), target)
        except OSError:
            pass  # another file system
        else:
            return target
    return str(shutil.copy2(source, target))
