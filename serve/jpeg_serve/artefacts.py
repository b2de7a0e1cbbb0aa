"""Are the files of a served version there, what their reports say they are, and fit for this machine?"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from jpeg_serve.fitness import gpus_used, instance_misfits, misfits
from jpeg_serve.machine import Machine
from jpeg_serve.models import (
    Model,
    Problem,
    Version,
    artefact_sha256,
    read_report,
    recipe_of,
    report_path,
    served_models,
)
from jpeg_serve.triton_config import model_config_pb2

# What jpeg-build makes for these backends holds TensorRT engines, or, with --no-trt, none.
_WITH_OR_WITHOUT_ENGINES = ("pytorch", "tensorflow")


@dataclass(frozen=True)
class Place:
    """Where artefacts are looked at: all models of the repository, and the machine.

    mixed: steps that come from another recipe than the repository's, which `check_recipes` speaks of.
    """

    models: Mapping[str, Model]
    machine: Machine
    mixed: set[str] = field(default_factory=set)

    @property
    def recipe(self) -> str:
        """Name of the repository's recipe."""
        return recipe_of(self.models)

    def build(self, model: Model, version: Version | None = None, report: Mapping[str, Any] | None = None) -> str:
        """The command that builds this version of a classifier again, as it was."""
        said = report or {}
        asked = said.get("asked", {})
        own = "" if model.name in self.mixed else said.get("recipe", "")
        recipe = str(own or self.recipe or "RECIPE")
        command = f"jpeg-build {recipe} --backend {model.built_as or model.name}"
        if said.get("precision", "fp32") != "fp32":
            command += f" --precision {said['precision']}"
        if asked.get("trt") is False and model.backend in _WITH_OR_WITHOUT_ENGINES:
            command += " --no-trt"
        if asked.get("per_gpu") is True:
            command += " --per-gpu"
        # Without a number, the newest would be built again.
        if version is not None and (version.number != 1 or len(model.versions()) > 1):
            command += f" --version {version.number}"
        return command + _where(model)

    def others(self, model: Model) -> str:
        """What could be used instead of a classifier, as the end of a sentence; empty if nothing is built."""
        recipes = {other.parameter("recipe_sha256") for other in self.models.values()}
        commands = self.built_from(recipes)
        return f"; or use {' or '.join(commands)}" if commands and model.built_as else ""

    def built_from(self, recipes: Collection[str]) -> list[str]:
        """The commands that take another classifier, built from one of these recipes, that would run here."""
        served = served_models(dict(self.models))
        return [
            f"jpeg-build use {other.built_as}{_where(other)}"
            for other in self.models.values()
            if other not in served and self._could_be_served(other, recipes)
        ]

    def built_versions(self, model: Model, recipe: str) -> list[str]:
        """The commands that take another version of a classifier, of this recipe; the newest first."""
        return [
            f"jpeg-build use {model.built_as} --version {version.number}{_where(model)}"
            for version in reversed(model.versions())
            if model.file and version.is_proper and self._is_built(model, version, [recipe])
        ]

    def _could_be_served(self, model: Model, recipes: Collection[str]) -> bool:
        if not model.built_as or not model.served():
            return False
        built = all(self._is_built(model, version, recipes) for version in model.served())
        return built and not any(instance_misfits(model.config, self.machine))

    def _is_built(self, model: Model, version: Version, recipes: Collection[str]) -> bool:
        """Whether a version is there, comes from one of these recipes, and would run here."""
        if not model.file:
            return False
        artefact = version.folder / model.file
        report = read_report(artefact)
        if not artefact.exists() or not isinstance(report, dict) or report["recipe_sha256"] not in recipes:
            return False
        gpus = gpus_of(model, report, self.machine)
        return not any(misfits(model.backend, requires_of(report), self.machine, gpus, ""))


@dataclass(frozen=True)
class _Origin:
    """What a step comes from, by its config or by the report on an artefact."""

    step: Model
    name: str
    digest: str
    recipe: str
    version: Version | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


def check_recipes(ensemble: Model, steps: list[Model], place: Place) -> Iterator[Problem]:
    """All steps come from one recipe: otherwise pixels, network and labels do not belong together.

    Those that come from another one than the first are noted in `place.mixed`: that their tensors differ, too, is
    nothing new.
    """
    origins = [origin for step in steps for origin in _origins(step)]
    others = [origin for origin in origins if origin.digest != origins[0].digest]
    if not others:
        return
    place.mixed.update(origin.step.name for origin in others)
    listed = ", ".join(f"{each.name} from {each.recipe} ({each.digest[:8]})" for each in origins)
    yield Problem(
        ensemble.where,
        f"its steps are built from different recipes: {listed}: {_one_recipe(origins[0], others, steps, place)}",
    )


def _origins(step: Model) -> Iterator[_Origin]:
    if step.parameter("recipe_sha256"):
        yield _Origin(step, step.name, step.parameter("recipe_sha256"), step.parameter("recipe"))
    artefacts = step.artefacts()
    for version, artefact in artefacts:
        report = read_report(artefact)
        if isinstance(report, dict):
            name = f"{step.name}/{version.folder.name}/{artefact.name}" if len(artefacts) > 1 else step.name
            yield _Origin(step, name, report["recipe_sha256"], report["recipe"], version, report)


def _one_recipe(wanted: _Origin, others: list[_Origin], steps: list[Model], place: Place) -> str:
    """What makes all steps come from the wanted recipe: another classifier that is built, else a build."""
    classifiers = [step for step in steps if step.built_as]
    if not classifiers:
        return "build them from one"
    wrong = [other for other in others if other.version is not None]
    uses = []
    if len(wrong) == len(others):  # else the configs differ, which only a build writes
        wrong_steps = [step for step in classifiers if step.name in place.mixed]
        uses = [use for step in wrong_steps for use in place.built_versions(step, wanted.digest)[:1]]
        uses += place.built_from([wanted.digest])
    builds = [place.build(other.step, other.version, {**other.report, "recipe": wanted.recipe}) for other in wrong]
    builds = builds or [place.build(step) for step in classifiers]
    build = f"build from {wanted.recipe or 'one recipe'}: {' and '.join(dict.fromkeys(builds))}"
    return f"{' or '.join(uses)}; or {build}" if uses else build


def _where(model: Model) -> str:
    """The option that names the model's repository to jpeg-build, where it is not the one it takes by itself."""
    repository = model.folder.parent
    return "" if repository == Path("model_repository") else f" --model-repository {shlex.quote(str(repository))}"


def check_files(model: Model, place: Place) -> Iterator[Problem]:
    """Every version that Triton will serve: its artefact is there, is the one that its report speaks of, and runs."""
    if model.is_ensemble:
        if not model.versions():
            yield Problem(model.name, "has no version folder: make an empty folder 1 in it")
        return
    yield from _check_instances(model, place)
    if model.file is None:
        return
    remedy = f"build it: {place.build(model)}{place.others(model)}"
    if not model.versions():
        yield Problem(model.name, f"has no version folder with a {model.file}; {remedy}")
    for version in model.served():
        if not version.is_proper:
            yield Problem(
                f"{model.name}/{version.folder.name}",
                f"Triton takes this folder for version {version.number}, and would serve it: rename or remove it",
            )
        elif model.config.cc_model_filenames:
            yield from _check_engines(model, version, place)
        else:
            yield from _check_artefact(model, version, version.folder / model.file, place)
    if model.parameter("labels_file"):
        yield from _check_labels(model, place)
    for tensor in model.config.output:
        if tensor.label_filename:
            yield from _check_label_file(model, tensor.label_filename, tensor, place)


def _check_instances(model: Model, place: Place) -> Iterator[Problem]:
    for _, artefact in model.artefacts():
        report = read_report(artefact)
        if isinstance(report, dict) and "compute_capability" in requires_of(report):
            return  # what is said of the artefact says it all
    for misfit in instance_misfits(model.config, place.machine):
        yield Problem(model.where, f"{misfit}{place.others(model)}")


def _check_engines(model: Model, version: Version, place: Place) -> Iterator[Problem]:
    """One file for each kind of GPU: those for the GPUs that are here."""
    where = f"{model.name}/{version.folder.name}"
    named = dict(model.config.cc_model_filenames)
    usual = version.folder / str(model.file)
    used: dict[int, str] = {}
    if place.machine.natives is not None:
        used = gpus_used(model.config, place.machine.gpus.capabilities)
        if not used:
            reason = place.machine.gpus.why_none or "instance_group names none that is here"
            yield Problem(
                where,
                f"holds engines for GPUs of compute capability {', '.join(sorted(named))}, and here is none "
                f"({reason}): serve it on a machine with one{place.others(model)}",
            )
    for capability in sorted(set(used.values())):
        if capability in named or usual.exists():
            gpus = {index: gpu for index, gpu in used.items() if gpu == capability}
            artefact = version.folder / named.get(capability, usual.name)
            yield from _check_artefact(model, version, artefact, place, gpus)
        else:
            yield Problem(
                where,
                f"has engines for GPUs of compute capability {', '.join(sorted(named))}, but none for "
                f"{capability}, which is here: build it on this machine: {place.build(model, version)} --per-gpu"
                f"{place.others(model)}",
            )
    for capability, file in sorted(named.items()):
        if capability not in used.values() and not report_path(version.folder / file).is_file():
            yield Problem(
                model.where,
                f"cc_model_filenames names {file} for GPUs of compute capability {capability}, but "
                f"{report_path(Path(file))} is not in version {version.number}: on such a machine, "
                f"{place.build(model, version)} --per-gpu, or remove the entry",
            )


def _check_artefact(
    model: Model, version: Version, artefact: Path, place: Place, gpus: Mapping[int, str] | None = None
) -> Iterator[Problem]:
    where = f"{model.name}/{version.folder.name}"
    python = model.backend == "python"
    remedy = f"build it: {place.build(model, version)}{place.others(model)}"
    missing = [file for file in _files(artefact) if not file.exists()]
    for file in missing:
        yield Problem(f"{where}/{file.name}", "is missing" if python else f"is missing; {remedy}")
    if missing or python:
        return
    report = read_report(artefact)
    said = f"{where}/{report_path(artefact).name}"
    if not isinstance(report, dict):
        yield Problem(said, f"{report}; {remedy}")
        return
    stated = report["artefact"]
    build = place.build(model, version, report)
    remedy = f"build it: {build}{place.others(model)}"
    if stated["file"] != artefact.name or stated["sha256"] != artefact_sha256(artefact):
        yield Problem(said, f"speaks of another {artefact.name} (its sha256 differs); {remedy}")
    for tensor, built in (
        *((tensor, report.get("input")) for tensor in model.config.input),
        *((tensor, [report.get("classes")]) for tensor in model.config.output),
    ):
        if list(tensor.dims) != built and model.name not in place.mixed:
            yield Problem(
                model.where, f"{tensor.name} has dims {_dims(tensor)}, but the artefact has {built}; {remedy}"
            )
    if gpus is None:
        gpus = gpus_of(model, report, place.machine)
    for misfit in misfits(model.backend, requires_of(report), place.machine, gpus, build):
        yield Problem(f"{where}/{artefact.name}", f"{misfit}{place.others(model)}")


def gpus_of(model: Model, report: Mapping[str, Any], machine: Machine) -> dict[int, str]:
    """The GPUs that a model runs on, if its artefact needs one: the driver is not asked for nothing."""
    if "compute_capability" not in requires_of(report) or machine.natives is None:
        return {}
    return gpus_used(model.config, machine.gpus.capabilities)


def requires_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What an artefact needs, by its report. Reports of earlier builds say nothing of it."""
    return dict(report.get("requires", {}))


def _files(artefact: Path) -> list[Path]:
    """The artefact, and what must lie beside it."""
    return [artefact, artefact.with_suffix(".bin")] if artefact.suffix == ".xml" else [artefact]


def _check_labels(model: Model, place: Place) -> Iterator[Problem]:
    """The labels that our postprocess reads: one for each logit that it takes."""
    for tensor in model.config.input:
        if tensor.data_type != model_config_pb2.TYPE_STRING:
            yield from _check_label_file(model, model.parameter("labels_file"), tensor, place)


def _check_label_file(model: Model, labels: str, tensor: Any, place: Place) -> Iterator[Problem]:
    """A file with a label on each line, for each element of a tensor."""
    where = f"{model.name}/{labels}"
    remedy = place.build(model) if model.built_as else f"jpeg-build {place.recipe or 'RECIPE'}"
    try:
        count = len((model.folder / labels).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        yield Problem(where, f"the label file cannot be read: {reason}; build it: {remedy}")
        return
    if all(dim > 0 for dim in tensor.dims) and prod(tensor.dims) != count:
        yield Problem(
            where, f"has {count} labels, but {tensor.name} has dims {_dims(tensor)}: build the recipe again: {remedy}"
        )


def _dims(tensor: Any) -> str:
    return f"[{','.join(map(str, tensor.dims))}]"
