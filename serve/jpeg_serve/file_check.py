"""The files of the served versions: whether they exist, match their reports, and run on this machine."""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from jpeg_contract.artefacts import artefact_sha256, report_path
from jpeg_contract.labels import LabelFileError, read_labels
from jpeg_contract.model_config import PRECISION_TAG
from jpeg_contract.parameters import SettingsError, read_parameters
from jpeg_contract.remedies import use_command
from jpeg_contract.report import Report, ReportError, find_report, read_report
from jpeg_contract.tensors import LABELS_FILE, OUTPUT

from jpeg_serve.compatibility import build_for_each, gpus_used, incompatibilities, instance_incompatibilities
from jpeg_serve.config_check import shape
from jpeg_serve.context import CheckContext, where_of
from jpeg_serve.ensemble_check import version_list
from jpeg_serve.models import PYTHON, Model, Problem, Version
from jpeg_serve.warm_up_check import check_warm_up_files

# The class that the Python backend looks up in a model.py.
_MODEL_CLASS = "TritonPythonModel"
# A model with this parameter runs in a Python of its own, maybe of another version; see Triton's python_backend.
_OWN_PYTHON = "EXECUTION_ENV_PATH"
_MODEL_FOLDER = "$$TRITON_MODEL_DIRECTORY"

# CPython 3.11 counts the depth of its parser for all threads together (gh-106905): several servers are checked at once.
_PARSING = threading.Lock()


def check_files(model: Model, context: CheckContext) -> Iterator[Problem]:
    """Check every version that Triton serves: its artefact exists, is the one of its report, and runs here."""
    yield from _check_label_files(model, context)
    if model.is_ensemble:
        if not model.versions():
            yield Problem(model.name, "has no version folder: create an empty folder 1 in it", "version_missing")
        return
    yield from check_warm_up_files(model)
    yield from _check_instances(model, context)
    if model.file is None:
        return
    if not model.versions():
        yield Problem(
            model.name, f"has no version folder with a {model.file}{_remedy(model, context)}", "version_missing"
        )
    for version in model.served():
        if not version.is_proper:
            yield Problem(
                where_of(model, version),
                f"Triton takes this folder for version {version.number}, and would serve it: rename or remove it",
                "version_folder",
            )
        elif model.backend == PYTHON:
            yield from _check_python_model(model, version, version.folder / model.file)
        elif model.config.cc_model_filenames:
            yield from _check_engines(model, version, context)
        else:
            yield from _check_artefact(model, version, version.folder / model.file, context)


def check_versions(model: Model, context: CheckContext) -> Iterator[Problem]:
    """Check that the version policy chooses versions, and only versions that exist."""
    policy = model.config.version_policy
    numbers = [version.number for version in model.versions()]
    if policy.HasField("latest") and not policy.latest.num_versions:
        yield Problem(
            model.where,
            "version_policy latest serves 0 versions: write num_versions: 1, or remove the policy",
            "version_policy",
        )
    if policy.HasField("specific") and not policy.specific.versions:
        yield Problem(
            model.where, "version_policy specific names no version: name one, or remove the policy", "version_policy"
        )
    for number in model.missing_versions():
        remedy = "name one that exists, or remove the policy to serve the newest"
        if model.built_as and numbers:
            uses = context.built_versions(model)[:1]
            remedy = ", or ".join([*uses, f"build it with --version {number}"])
        present = f"there is {version_list(numbers)}" if numbers else "there is none"
        yield Problem(
            model.where,
            f"version_policy names version {number}, which does not exist; {present}: {remedy}",
            "version_missing",
        )


def _remedy(model: Model, context: CheckContext, version: Version | None = None, report: Report | None = None) -> str:
    """Return the end of a sentence: how an artefact comes into its place, or the alternatives."""
    if model.form is None:
        return ""
    if not model.built_as:
        return f": jpeg-build builds no model of this name; put the files of a build there{context.alternatives(model)}"
    return f"; build it: {context.build(model, version, report)}{context.alternatives(model)}"


def _check_instances(model: Model, context: CheckContext) -> Iterator[Problem]:
    for _, artefact in model.artefacts() if model.form is not None else ():
        report = find_report(artefact)
        if report is not None and report.requires.compute_capability:
            return  # the problems of the artefact include those of the instances
    for reason, message in instance_incompatibilities(model.config, context.machine):
        yield Problem(model.where, f"{message}{context.alternatives(model)}", reason)


def _check_python_model(model: Model, version: Version, file: Path) -> Iterator[Problem]:
    where = where_of(model, version, file.name)
    try:
        source = file.read_bytes()
    except FileNotFoundError:
        yield Problem(where, "is missing", "model_missing")
        return
    except OSError as error:
        yield Problem(where, f"cannot be read: {error.strerror}", "model_missing")
        return
    if environment := model.parameter(_OWN_PYTHON):
        path = Path(environment.replace(_MODEL_FOLDER, str(model.folder)))
        if not path.exists():
            yield Problem(
                model.where, f"parameter {_OWN_PYTHON} names {path}, which does not exist", "environment_missing"
            )
        return
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, str(file), "exec", dont_inherit=True)
            tree = ast.parse(source)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        yield Problem(f"{where}{line}", f"cannot be compiled: {error.msg}", "model_invalid")
    except ValueError as error:
        yield Problem(where, f"cannot be compiled: {error}", "model_invalid")
    else:
        if not _defines(tree, _MODEL_CLASS):
            yield Problem(where, f"defines no class {_MODEL_CLASS}, which Triton requires", "model_invalid")


def _defines(tree: ast.AST, name: str) -> bool:
    """Whether a module defines or imports a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return True
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.asname or alias.name for alias in node.names}
            if names & {name, "*"}:
                return True
    return False


def _check_engines(model: Model, version: Version, context: CheckContext) -> Iterator[Problem]:
    """Check the engines for the GPUs of this machine, of those for each kind of GPU."""
    where = where_of(model, version)
    named = dict(model.config.cc_model_filenames)
    default = version.folder / str(model.file)
    machine, used = context.machine, {}
    alternatives = context.alternatives(model)
    if machine.natives is not None:
        used = gpus_used(model.config, machine.gpus.capabilities)
        if not used:
            cause = machine.gpus.why_none or "instance_group names none of those here"
            yield Problem(
                where,
                f"holds engines for GPUs of compute capability {', '.join(sorted(named))}, and here is none "
                f"({cause}): serve it on a machine with one{alternatives}",
                "gpu_missing",
            )
    for capability in sorted(set(used.values())):
        if capability in named or default.exists():
            gpus = {index: gpu for index, gpu in used.items() if gpu == capability}
            artefact = version.folder / named.get(capability, default.name)
            yield from _check_artefact(model, version, artefact, context, gpus)
        else:
            gpus = {index: gpu for index, gpu in used.items() if gpu == capability}
            build = build_for_each(context.build(model, version), gpus, machine, beside=True)
            yield Problem(
                where,
                f"has engines for GPUs of compute capability {', '.join(sorted(named))}, but none for "
                f"{capability}, which is here: build it on this machine: {build}"
                f"{alternatives}",
                "gpu_capability",
            )
    for capability, file in sorted(named.items()):
        if capability not in used.values() and not report_path(version.folder / file).is_file():
            yield Problem(
                model.where,
                f"cc_model_filenames names {file} for GPUs of compute capability {capability}, but "
                f"{report_path(Path(file))} is not in version {version.number}: on such a machine, "
                f"{build_for_each(context.build(model, version), {0: capability}, machine, beside=True)}, or remove "
                "the entry",
                "report_missing",
            )


def _check_artefact(
    model: Model, version: Version, artefact: Path, context: CheckContext, gpus: Mapping[int, str] | None = None
) -> Iterator[Problem]:
    form = model.form
    if form is None:
        return
    missing = [file for file in _required_files(artefact) if not file.exists()]
    for file in missing:
        yield Problem(
            where_of(model, version, file.name),
            f"is missing{_remedy(model, context, version)}",
            "artefact_missing",
        )
    if missing:
        return
    where_report = where_of(model, version, report_path(artefact).name)
    try:
        report = read_report(artefact)
    except ReportError as error:
        yield Problem(where_report, f"{error}{_remedy(model, context, version)}", error.reason)
        return
    build = context.build(model, version, report)
    remedy = _remedy(model, context, version, report)
    stated = report.artefact
    if stated.file != artefact.name or stated.sha256 != artefact_sha256(artefact):
        yield Problem(
            where_report, f"describes another {artefact.name} (its sha256 differs){remedy}", "artefact_altered"
        )
    tensors: list[tuple[Any, list[int]]] = [
        *((tensor, report.input) for tensor in model.config.input),
        *((tensor, [report.classes]) for tensor in model.config.output),
    ]
    for tensor, built in tensors:
        if list(tensor.dims) != built and model.name not in context.mixed:
            yield Problem(
                model.where,
                f"{tensor.name} has dims {shape(tensor)}, but the artefact has {built}{remedy}",
                "artefact_shape",
            )
    try:
        conflict = form.conflict(
            read_parameters(form.parameters, model.parameters, strict_names=False), report.precision
        )
    except SettingsError:
        conflict = ""  # `contract_check` reports it
    if conflict:
        yield Problem(model.where, conflict, "parameter_conflict")
    use = use_command(form.name, model.folder.parent, version=version.number, ensemble=model.ensemble)
    stated_precision = model.config.metric_tags.get(PRECISION_TAG, report.precision)
    if stated_precision != report.precision and version == model.served()[-1]:
        yield Problem(
            model.where,
            f"metric_tags states the precision {stated_precision} to clients and metrics, but the artefact is in "
            f"{report.precision}: {use}, or correct the entry",
            "precision_differs",
        )
    if gpus is None:
        gpus = context.gpus_of(model, report)
    served_with = context.served_with.get(form.backend)
    for reason, message in incompatibilities(form, report.requires, context.machine, served_with, gpus, build=build):
        where = where_of(model, version, artefact.name)
        yield Problem(where, f"{message}{context.alternatives(model)}", reason)


def _required_files(artefact: Path) -> list[Path]:
    """Return the artefact, and the files that belong beside it."""
    return [artefact, artefact.with_suffix(".bin")] if artefact.suffix == ".xml" else [artefact]


def _check_label_files(model: Model, context: CheckContext) -> Iterator[Problem]:
    """Check the files that name the classes: one label for each element of a tensor."""
    if model.is_postprocess:
        for tensor in model.config.input:
            if tensor.name == OUTPUT:
                yield from _check_labels(model, model.parameter("labels_file") or LABELS_FILE, tensor, context)
    for tensor in model.config.output:
        if tensor.label_filename:
            yield from _check_labels(model, tensor.label_filename, tensor, context)


def _check_labels(model: Model, file: str, tensor: Any, context: CheckContext) -> Iterator[Problem]:
    classes = prod(tensor.dims) if tensor.dims and all(dim > 0 for dim in tensor.dims) else None
    try:
        read_labels(model.folder / file, classes)
    except LabelFileError as error:
        message = str(error).replace(f"{model.folder}/", f"{model.name}/")
        remedy = f": build the recipe again: {context.build(model)}" if model.is_ours else ""
        where, _, cause = message.partition(": ")
        yield Problem(where, f"{cause}{remedy}", error.reason)
