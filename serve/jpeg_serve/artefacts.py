"""Are the files of a served version there, what their reports say they are, and fit for this machine?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """Where artefacts are looked at: all models of the repository, and the machine."""

    models: Mapping[str, Model]
    machine: Machine

    @property
    def recipe(self) -> str:
        """Name of the repository's recipe."""
        return recipe_of(dict(self.models))

    def build(self, model: Model, version: Version | None = None, report: Mapping[str, Any] | None = None) -> str:
        """The command that builds this version of a classifier again, as it was."""
        said = report or {}
        asked = said.get("asked")
        asked = asked if isinstance(asked, dict) else {}
        recipe = str(said.get("recipe") or self.recipe or "RECIPE")
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
        served = served_models(dict(self.models))
        built = [other for other in self.models.values() if other not in served and self._could_be_served(other)]
        commands = " or ".join(f"jpeg-build use {other.built_as}{_where(other)}" for other in built)
        return f"; or use {commands}" if built and model.built_as else ""

    def _could_be_served(self, model: Model) -> bool:
        if not model.built_as or not model.file:
            return False
        recipes = {other.parameter("recipe_sha256") for other in self.models.values()}
        for version in model.served():
            artefact = version.folder / model.file
            report = read_report(artefact)
            if not artefact.exists() or not isinstance(report, dict) or report.get("recipe_sha256") not in recipes:
                return False
            gpus = gpus_of(model, report, self.machine)
            if any(misfits(model.backend, requires_of(report), self.machine, gpus, "")):
                return False
        return bool(model.served()) and not any(instance_misfits(model.config, self.machine))


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
        yield Problem(said, f"{report}, so nobody knows what {artefact.name} is; {remedy}")
        return
    stated = report.get("artefact")
    if not isinstance(stated, dict) or not isinstance(report.get("recipe_sha256"), str):
        yield Problem(said, f"is not a report of jpeg-build; {remedy}")
        return
    build = place.build(model, version, report)
    remedy = f"build it: {build}{place.others(model)}"
    if stated.get("file") != artefact.name or stated.get("sha256") != artefact_sha256(artefact):
        yield Problem(said, f"speaks of another {artefact.name} (its sha256 differs); {remedy}")
    for tensor, built in (
        *((tensor, report.get("input")) for tensor in model.config.input),
        *((tensor, [report.get("classes")]) for tensor in model.config.output),
    ):
        if list(tensor.dims) != built:
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
    requires = report.get("requires")
    return requires if isinstance(requires, dict) else {}


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
