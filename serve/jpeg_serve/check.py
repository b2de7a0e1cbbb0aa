"""Whether a model repository can be served: every config, every edge of the ensembles, every served file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jpeg_serve.config_check import check_config
from jpeg_serve.context import make_context
from jpeg_serve.contract_check import check_contract
from jpeg_serve.ensemble_check import check_ensemble
from jpeg_serve.file_check import check_files, check_versions
from jpeg_serve.format_check import check_formats
from jpeg_serve.machine import Machine, ServedWith, this_machine
from jpeg_serve.models import Problem, loaded_by_name, read_models, step_names
from jpeg_serve.path_check import check_paths
from jpeg_serve.serving_backends import ServedClassifier, check_backend, served_classifiers
from jpeg_serve.warm_up_check import check_warm_up

__all__ = ["CheckResult", "Problem", "check_repository", "examine_repository", "models_to_load", "summary"]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        problems: The reasons why the repository cannot be served, in the order of its models.
        classifiers: The classifiers that are loaded, and which backend serves each; none without a tritonserver.
        served_with: Which backend serves, by the backend's name.
    """

    problems: list[Problem]
    classifiers: list[ServedClassifier] = field(default_factory=list)
    served_with: Mapping[str, ServedWith] = field(default_factory=dict)


def check_repository(repository: Path, machine: Machine | None = None, *, load: Sequence[str] = ()) -> list[Problem]:
    """Return the problems that `examine_repository` finds; none if the repository can be served."""
    return examine_repository(repository, machine, load=load).problems


def examine_repository(repository: Path, machine: Machine | None = None, *, load: Sequence[str] = ()) -> CheckResult:
    """Find everything that keeps a repository from being served, without starting a server.

    Models that no ensemble uses may be unbuilt, and so may versions that no policy chooses: they are not served.

    Args:
        repository: The model repository.
        machine: The machine that serves, None for this one.
        load: Names of models to load instead of the ensembles.
    """
    models, problems = read_models(repository)
    if problems and not load and not any(model.is_ensemble for model in models.values()):
        return CheckResult(problems)  # which models are served is unknown
    context = make_context(models, machine or this_machine(), load)
    for model in models.values():
        problems += check_config(model)
        problems += check_warm_up(model)
        if model in context.served or model.built_as:
            problems += check_contract(model)
    for model in models.values():
        if model.is_ensemble:
            problems += check_ensemble(model, context)
    problems += [
        Problem(str(repository), f"has no model {name}, which is to be loaded", "model_missing")
        for name in load
        if name not in models
    ]
    for model in context.served:
        problems += check_backend(model, context.served_with, context.machine)
        problems += check_formats(model, context.machine)
        problems += check_versions(model, context)
        outside = list(check_paths(model))
        problems += outside or check_files(model, context)
    return CheckResult(problems, served_classifiers(context.served, context.served_with), context.served_with)


def models_to_load(repository: Path, load: Sequence[str] = ()) -> list[str]:
    """Return the models that Triton loads by their names (`loaded_by_name`); all models if there is no ensemble."""
    models, _ = read_models(repository)
    return loaded_by_name(models, load)


def summary(repository: Path) -> str:
    """Return one line about a repository without problems: the steps of its ensembles."""
    models, _ = read_models(repository)
    ensembles = [model for model in models.values() if model.is_ensemble]
    steps = [f"{model.name} = {' -> '.join(step_names(model.config))}" for model in ensembles]
    return "; ".join([f"{repository}: no problem found", *steps])
