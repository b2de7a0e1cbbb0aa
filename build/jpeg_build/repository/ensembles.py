"""The ensembles of a model repository, and which of its models that decode each of them uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jpeg_contract.model_config import CONFIG, ModelConfig, maker, parameters
from jpeg_contract.model_names import ModelNames, is_preprocess, own_name
from jpeg_contract.settings import PreprocessSettings
from jpeg_contract.step_digests import pixels_digest
from jpeg_contract.tensors import PIXELS, PREPROCESS

from jpeg_build.errors import RepositoryError
from jpeg_build.repository import tree


@dataclass(frozen=True)
class PreprocessChoice:
    """The model that decodes for an ensemble.

    Attributes:
        model: Its name.
        is_shared: Another ensemble's, with the settings that this one needs: it stays as it is.
        moved: Other ensembles that used the model until now, and need its old settings: the name of the copy that each
            uses from now on.
    """

    model: str
    is_shared: bool = False
    moved: Mapping[str, str] = field(default_factory=dict)


def ensembles(root: Path) -> dict[str, ModelConfig]:
    """Return the ensembles of a repository by their names; those that cannot be read are left out."""
    found = {}
    for path in sorted(root.glob(f"*/{CONFIG}")):
        name = path.parent.name
        config = tree.readable_config(root, name)
        if config is not None and config.HasField("ensemble_scheduling"):
            found[name] = config
    return found


def require_ensemble(root: Path, every: Mapping[str, ModelConfig], name: str) -> ModelConfig:
    """Return one of a repository's ensembles. Raises RepositoryError if there is none of that name."""
    if name not in every:
        raise RepositoryError(
            f"{root}: has no model {name!r}; it has {', '.join(every) or 'none'}", reason="unknown_model"
        )
    return every[name]


def users_of(every: Mapping[str, ModelConfig], model: str) -> list[str]:
    """Return the names of the ensembles that have a model among their steps."""
    return [
        name
        for name, config in every.items()
        if any(step.model_name == model for step in config.ensemble_scheduling.step)
    ]


def preprocess_of(root: Path, names: ModelNames) -> str:
    """Return the model that decodes for an ensemble, its own if its config does not exist."""
    ensemble = tree.read_config(root, names.ensemble)
    return (maker(ensemble, PIXELS) if ensemble is not None else None) or names.preprocess


def choose_preprocess(root: Path, names: ModelNames, settings: PreprocessSettings) -> PreprocessChoice:
    """Choose the model that decodes for an ensemble: one with these settings, if there is one.

    Args:
        root: The model repository.
        names: Of the ensemble.
        settings: What its recipe needs.
    """
    wanted, every = settings.pixels_sha256, ensembles(root)
    ensemble = tree.read_config(root, names.ensemble)
    current = maker(ensemble, PIXELS) if ensemble is not None else None
    if current is not None:
        others = [name for name in users_of(every, current) if name != names.ensemble]
        if not others:
            return PreprocessChoice(current)
        if _pixels(root, current) == wanted:
            return PreprocessChoice(current, is_shared=current != names.preprocess)
        if current == names.preprocess:
            copy = own_name(others[0], PREPROCESS)
            return PreprocessChoice(current, moved=dict.fromkeys(others, copy))
    for path in sorted(root.glob(f"*/{CONFIG}")):
        model = path.parent.name
        if is_preprocess(model) and users_of(every, model) and _pixels(root, model) == wanted:
            return PreprocessChoice(model, is_shared=model != names.preprocess)
    return PreprocessChoice(names.preprocess)


def _pixels(root: Path, model: str) -> str:
    """Return the digest of what decides the pixels that a model makes; empty if its config cannot be read."""
    config = tree.readable_config(root, model)
    return pixels_digest(parameters(config)) if config is not None else ""
