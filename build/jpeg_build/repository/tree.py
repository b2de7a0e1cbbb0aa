"""The model repository on disk: a build is staged beside it and renamed into it, all or nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from jpeg_contract.folder_lock import FolderLock
from jpeg_contract.model_config import CONFIG, ConfigError, ModelConfig, read
from jpeg_contract.model_names import is_preprocess
from jpeg_contract.resources import resource
from jpeg_contract.staging import REPOSITORY_LOCK, Staging
from jpeg_contract.tensors import POSTPROCESS, PREPROCESS

import jpeg_build
from jpeg_build.errors import RepositoryError
from jpeg_build.repository import configs

SOURCES = resource(jpeg_build.__file__, "models", "model_repository")
"""Where the Python models of this project lie: MODEL/1/model.py."""

_ROUTER = '''\
"""Triton model `router`: hands each request on to one of two classifiers."""

from jpeg_runtime.router import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

_STAGING = Staging(
    FolderLock(
        REPOSITORY_LOCK,
        RepositoryError,
        busy="another jpeg-build is at work there; try again when it is done",
        busy_reason="repository_busy",
    ),
    RepositoryError,
)


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Make a folder to build in: see `jpeg_contract.staging`.

    Raises:
        RepositoryError: The repository cannot be written, or another build holds it.
    """
    with _STAGING.folder(repository) as folder:
        yield folder


def read_config(repository: Path, model: str) -> ModelConfig | None:
    """Return a model's config, or None if there is none yet.

    Raises:
        RepositoryError: It cannot be read: a user's edits are not thrown away.
    """
    path = repository / model / CONFIG
    try:
        return read(path)
    except ConfigError as error:
        if error.missing:
            return None
        where = f"{path}:{error.line}" if error.line else str(path)
        raise RepositoryError(f"{where}: {error}: correct it, or delete the file to have it written again") from error


def readable_config(repository: Path, model: str) -> ModelConfig | None:
    """Return a model's config, or None if there is none that can be read."""
    try:
        return read(repository / model / CONFIG)
    except ConfigError:
        return None


def newest_version(repository: Path, model: str) -> int | None:
    """Return the highest number of a version's folder, or None if there is none."""
    return max(versions(repository, model), default=None)


def versions(repository: Path, model: str) -> list[int]:
    """Return the numbers of the versions' folders, the newest last."""
    folder = repository / model
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))


def write_config(repository: Path, model: str, text: str) -> None:
    """Replace the text of a model's config: written aside and renamed. Raises RepositoryError."""
    with staging(repository) as folder:
        stage_text(folder, model, text)
        place(folder, repository)


def stage_configs(
    repository: Path,
    folder: Path,
    built: Mapping[str, ModelConfig],
    adjust: Mapping[str, Callable[[ModelConfig], None]] | None = None,
) -> None:
    """Write the configs that differ from the repository's into `folder`; the user's choices are kept.

    Args:
        repository: The model repository.
        folder: Of `staging`.
        built: By model.
        adjust: By model, a change to its config, made last.
    """
    for model, config in built.items():
        existing = read_config(repository, model)
        merged = merged_config(existing, config, (adjust or {}).get(model))
        # An unchanged file keeps the user's comments.
        if merged != existing:
            stage_text(folder, model, configs.to_text(merged))


def merged_config(
    existing: ModelConfig | None, built: ModelConfig, adjust: Callable[[ModelConfig], None] | None = None
) -> ModelConfig:
    """Return the config that a build writes, or would write, for a model."""
    merged = built if existing is None else configs.keep_users_choices(built, existing)
    if adjust is not None:
        adjust(merged)
    return merged


def stage_text(folder: Path, model: str, text: str) -> None:
    """Write a model's config into `folder`, as it is."""
    (folder / model).mkdir(parents=True, exist_ok=True)
    (folder / model / CONFIG).write_text(text, encoding="utf-8")


def stage_router(folder: Path, config: ModelConfig) -> None:
    """Stage the model that stands for two classifiers."""
    stage_text(folder, config.name, configs.to_text(config))
    (folder / config.name / "1").mkdir(exist_ok=True)
    (folder / config.name / "1" / "model.py").write_text(_ROUTER, encoding="utf-8")


def stage_sources(repository: Path, folder: Path, models: Sequence[str], ensemble: str) -> None:
    """Stage the Python models of this project and the ensemble's version folder, where they are missing.

    Args:
        repository: The model repository.
        folder: Of `staging`.
        models: Names of the models that decode and label.
        ensemble: Name of the ensemble.
    """
    for model in models:
        if (repository / model / "1" / "model.py").exists():
            continue
        (folder / model / "1").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source_of(model), folder / model / "1" / "model.py")
    if not (repository / ensemble / "1").is_dir():
        (folder / ensemble / "1").mkdir(parents=True, exist_ok=True)
        (folder / ensemble / "1" / ".gitkeep").touch()


def source_of(model: str) -> Path:
    """Return this project's Python model for a model that decodes or labels."""
    return SOURCES / (PREPROCESS if is_preprocess(model) else POSTPROCESS) / "1" / "model.py"


def differs_from_source(path: Path, model: str) -> bool:
    """Whether a repository's Python model is another one than this project's."""
    return path.read_bytes() != source_of(model).read_bytes()


def place(folder: Path, repository: Path) -> None:
    """Rename every file of `folder` to its place in the repository, all or none: see `jpeg_contract.staging`.

    Raises:
        RepositoryError: The repository cannot be written; it is as it was.
    """
    _STAGING.place(folder, repository)
