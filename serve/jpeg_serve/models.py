"""The models of a repository, their version folders, and the versions that Triton serves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpeg_contract import model_config
from jpeg_contract.forms import FORMS, ClassifierForm, form_of_backend, form_of_model
from jpeg_contract.inside import is_inside
from jpeg_contract.model_config import CONFIG, ConfigError, ModelConfig
from jpeg_contract.model_names import ensemble_of, is_postprocess, is_preprocess, is_router
from jpeg_contract.routes import Route
from jpeg_contract.tensors import IMAGE, LABEL

ENSEMBLE_PLATFORM = "ensemble"
PYTHON = "python"
PYTHON_MODEL = "model.py"

# Triton 2.51 takes every folder for a version whose name begins with a number, and skips those with a leading zero.
# Tried: it loads 0, and looks for 5 where a folder is called 5x.
_VERSION = re.compile(r"[+-]?[0-9]+")
_PROPER_VERSION = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Problem:
    """A reason why a repository cannot be served.

    Attributes:
        where: File in the repository, with a line where there is one.
        message: The fault and its remedy.
        reason: Stable code in snake_case.
    """

    where: str
    message: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.reason}]"


@dataclass(frozen=True)
class Version:
    """A version folder.

    Attributes:
        number: The version that Triton takes the folder's name for.
        folder: Its path.
    """

    number: int
    folder: Path

    @property
    def is_proper(self) -> bool:
        """Whether the name is the number and nothing else; Triton finds the files of such folders only."""
        return _PROPER_VERSION.fullmatch(self.folder.name) is not None


@dataclass(frozen=True)
class Model:
    """A folder of the repository with a config that can be parsed."""

    name: str
    folder: Path
    config: ModelConfig

    @property
    def where(self) -> str:
        """The config, as problems name it."""
        return f"{self.name}/{CONFIG}"

    @property
    def is_ensemble(self) -> bool:
        """Whether it runs other models."""
        return bool(self.config.platform == ENSEMBLE_PLATFORM or self.config.HasField("ensemble_scheduling"))

    @property
    def backend(self) -> str:
        """Name of the backend that runs it, also where the config has a platform only."""
        config = self.config
        return str(config.backend or _backends_by_platform().get(config.platform, config.platform))

    @property
    def form(self) -> ClassifierForm | None:
        """The classifier form that its backend serves, None for a model of another kind."""
        return None if self.is_ensemble else form_of_backend(self.backend)

    @property
    def built_as(self) -> str:
        """Name of the classifier form that jpeg-build builds under this model's name; empty if it builds none."""
        form = form_of_model(self.name)
        return form.name if form is not None else ""

    @property
    def ensemble(self) -> str:
        """The ensemble that jpeg-build makes this step for; its own name for an ensemble."""
        return self.name if self.is_ensemble else ensemble_of(self.name)

    @property
    def classifies(self) -> bool:
        """Whether it is an ensemble of this project: images in, labels out."""
        inputs = {tensor.name for tensor in self.config.input}
        outputs = {tensor.name for tensor in self.config.output}
        return self.is_ensemble and inputs == {IMAGE} and LABEL in outputs

    @property
    def is_preprocess(self) -> bool:
        """Whether it is this project's model that decodes."""
        return is_preprocess(self.name) and self.backend == PYTHON

    @property
    def is_postprocess(self) -> bool:
        """Whether it is this project's model that labels."""
        return is_postprocess(self.name) and self.backend == PYTHON

    @property
    def is_router(self) -> bool:
        """Whether it is this project's model that hands requests on to one of two classifiers."""
        return is_router(self.name) and self.backend == PYTHON

    @property
    def route(self) -> Route | None:
        """Where a router's requests go; None for another model, and for a route that cannot be read."""
        return model_config.route_of(self.config) if self.is_router else None

    @property
    def is_ours(self) -> bool:
        """Whether it is a stage of this project, to which the contract between the stages applies."""
        return self.is_preprocess or self.is_postprocess or self.is_router or self.form is not None

    @property
    def file(self) -> str | None:
        """Name of the file or folder that Triton loads from a version folder, None if it depends on the backend."""
        default = PYTHON_MODEL if self.backend == PYTHON else self.form.artefact if self.form is not None else None
        return self.config.default_model_filename or default

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters, names to texts."""
        return model_config.parameters(self.config)

    def parameter(self, name: str) -> str:
        """Return a parameter's text, empty if there is none."""
        return self.parameters.get(name, "")

    def versions(self) -> list[Version]:
        """Return the version folders that exist, the newest last."""
        found = []
        for folder in self.folder.iterdir():
            name = _VERSION.match(folder.name)
            skipped = len(folder.name) > 1 and folder.name[0] == "0"
            if folder.is_dir() and name is not None and not skipped:
                found.append(Version(int(name[0]), folder))
        return sorted(found, key=lambda version: version.number)

    def served(self) -> list[Version]:
        """Return the versions that Triton serves, by the config's version_policy; without one, the newest.

        Source: ModelVersionPolicy in model_config.proto.
        """
        versions, policy = self.versions(), self.config.version_policy
        if policy.HasField("all"):
            return versions
        if policy.HasField("specific"):
            return [version for version in versions if version.number in policy.specific.versions]
        count = policy.latest.num_versions if policy.HasField("latest") else 1
        return versions[max(0, len(versions) - count) :]

    def artefacts(self) -> list[tuple[Version, Path]]:
        """Return the artefacts that Triton may load, of the versions that it serves; they may be missing.

        Names that lead out of their version's folder are left out: `path_check` reports them.
        """
        if self.file is None:
            return []
        files = [*self.config.cc_model_filenames.values(), self.file]
        return [
            (version, version.folder / file)
            for version in self.served()
            for file in dict.fromkeys(files)
            if is_inside(version.folder, file)
        ]

    def missing_versions(self) -> list[int]:
        """Return the versions that the policy names and that do not exist."""
        present = {version.number for version in self.versions()}
        return [number for number in self.config.version_policy.specific.versions if number not in present]


def read_models(repository: Path) -> tuple[dict[str, Model], list[Problem]]:
    """Read the configs of a repository.

    Returns:
        The models by their names, and the problems of those that cannot be read.
    """
    if not repository.is_dir():
        message = "there is no such folder; name it with --model-repository DIR"
        return {}, [Problem(str(repository), message, "repository_missing")]
    models: dict[str, Model] = {}
    problems = []
    # A volume with a file system of its own has lost+found at its root.
    folders = [path for path in repository.iterdir() if not path.name.startswith(".") and path.name != "lost+found"]
    for folder in sorted(path for path in folders if path.is_dir()):
        where = f"{folder.name}/{CONFIG}"
        try:
            models[folder.name] = Model(folder.name, folder, model_config.read(folder / CONFIG))
        except ConfigError as error:
            remedy = "; write it, or build the model with jpeg-build" if error.missing else ""
            where = f"{where}:{error.line}" if error.line else where
            problems.append(Problem(where, f"{error}{remedy}", error.reason))
    if not models and not problems:
        problems.append(Problem(str(repository), "holds no model; build one with jpeg-build", "repository_empty"))
    return models, problems


def served_models(models: Mapping[str, Model], load: Sequence[str] = ()) -> list[Model]:
    """Return the models that Triton loads.

    Args:
        models: All models of the repository.
        load: Names of the models to load; none takes the ensembles, or all models if there is no ensemble.

    Returns:
        These models and, through ensembles, their steps.
    """
    ensembles = [model.name for model in models.values() if model.is_ensemble]
    waiting = list(load or ensembles or models)
    wanted: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in wanted or name not in models:
            continue
        wanted.add(name)
        waiting += models_used(models[name].config)
    return [model for model in models.values() if model.name in wanted]


def served_ensembles(models: Mapping[str, Model], load: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the ensembles of this project that Triton loads, and the names of their steps.

    Args:
        models: All models of the repository.
        load: See `served_models`.
    """
    return {
        model.name: [each for step in step_names(model.config) for each in _with_answering(models, step)]
        for model in served_models(models, load)
        if model.classifies
    }


def _with_answering(models: Mapping[str, Model], step: str) -> list[str]:
    """Return a step and, of a router, the classifiers that answer for it: a shadow takes no part in the flow."""
    route = models[step].route if step in models else None
    return [step, *(route.answering if route is not None else [])]


def models_used(config: ModelConfig) -> list[str]:
    """Return the models that a model runs: the steps of an ensemble, the classifiers of a router; else none."""
    route = model_config.route_of(config)
    return route.models if route is not None else step_names(config)


def loaded_by_name(models: Mapping[str, Model], load: Sequence[str] = ()) -> list[str]:
    """Return the models that Triton loads by their names: not those that it finds as the steps of ensembles.

    Args:
        models: All models of the repository.
        load: See `served_models`.
    """
    ensembles = [model.name for model in models.values() if model.is_ensemble]
    routes = [model.route for model in served_models(models, load)]
    targets = [target for route in routes if route is not None for target in route.models]
    return list(dict.fromkeys([*(load or ensembles or models), *targets]))


def step_names(config: ModelConfig) -> list[str]:
    """Return the names of an ensemble's steps, in their order; none for another model."""
    return [str(step.model_name) for step in config.ensemble_scheduling.step]


def recipe_of(models: Mapping[str, Model], ensemble: str) -> str:
    """Return the name of the recipe that an ensemble is built from: that of the model that labels, else of any step.

    Args:
        models: All models of the repository.
        ensemble: Name of the ensemble.
    """
    steps = [name for name in (step_names(models[ensemble].config) if ensemble in models else []) if name in models]
    mine = [model.name for model in models.values() if model.ensemble == ensemble]
    names = sorted([*steps, *mine], key=lambda name: not models[name].is_postprocess)
    recipes = (models[name].parameter("recipe") for name in [*names, *models])
    return next((recipe for recipe in recipes if recipe), "")


def _backends_by_platform() -> dict[str, str]:
    return {form.platform: form.backend for form in FORMS.values() if form.platform}
