"""Is a model repository fit to be served? Every config, every edge of the ensembles, every report."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG = "config.pbtxt"
REPORT = "model.json"

# What Triton loads from a version folder if the config does not say `default_model_filename`.
_DEFAULT_FILES = {
    "python": "model.py",
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "pytorch": "model.pt",
    "tensorflow": "model.savedmodel",
    "openvino": "model.xml",
}
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
}


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: a file in the repository, with a line where there is one."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Model:
    """A folder of the repository with a config that could be parsed."""

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
        return bool(self.config.platform == "ensemble")

    @property
    def backend(self) -> str:
        """Name of the backend that runs it, also where the config gives a platform only."""
        return str(self.config.backend or _PLATFORMS.get(self.config.platform, self.config.platform))

    def parameter(self, name: str) -> str:
        """A parameter's text, empty if there is none."""
        return str(self.config.parameters[name].string_value) if name in self.config.parameters else ""

    def versions(self) -> list[Path]:
        """The version folders, the newest last."""
        found = [path for path in self.folder.iterdir() if path.is_dir() and path.name.isdigit() and int(path.name) > 0]
        return sorted(found, key=lambda path: int(path.name))


def check_repository(repository: Path) -> list[Problem]:
    """Everything that is wrong with a repository, in the order of its models; an empty list if nothing is.

    A model that no ensemble uses may be unbuilt: it is not served.
    """
    models, problems = _read(repository)
    if problems and not models:
        return problems
    for model in models.values():
        problems += _check_config(model)
    for model in models.values():
        if model.is_ensemble:
            problems += _check_ensemble(model, models)
    recipe = _recipe_of(models)
    for model in _served(models):
        problems += _check_files(model, recipe)
    return problems


def models_to_load(repository: Path) -> list[str]:
    """The ensembles, through which Triton loads their steps; all models if there is no ensemble."""
    models, _ = _read(repository)
    ensembles = [model.name for model in models.values() if model.is_ensemble]
    return ensembles or list(models)


def backends_needed(repository: Path) -> dict[str, str]:
    """The models that are served, and the backend that each of them needs."""
    models, _ = _read(repository)
    return {model.name: model.backend for model in _served(models) if not model.is_ensemble}


def summary(repository: Path) -> str:
    """One line on a repository that has no problem."""
    models, _ = _read(repository)
    parts = [f"{repository}: no problem found"]
    for model in models.values():
        if model.is_ensemble:
            steps = " -> ".join(step.model_name for step in model.config.ensemble_scheduling.step)
            parts.append(f"{model.name} = {steps}")
    return "; ".join(parts)


def _served(models: dict[str, Model]) -> list[Model]:
    """The ensembles and their steps; all models if there is no ensemble."""
    ensembles = [model for model in models.values() if model.is_ensemble]
    steps = {step.model_name for model in ensembles for step in model.config.ensemble_scheduling.step}
    return [model for model in models.values() if not ensembles or model.is_ensemble or model.name in steps]


def _read(repository: Path) -> tuple[dict[str, Model], list[Problem]]:
    if not repository.is_dir():
        return {}, [Problem(str(repository), "there is no such folder; name it with --model-repository DIR")]
    models: dict[str, Model] = {}
    problems = []
    for folder in sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith(".")):
        where = f"{folder.name}/{CONFIG}"
        try:
            text = (folder / CONFIG).read_text(encoding="utf-8")
            models[folder.name] = Model(folder.name, folder, text_format.Parse(text, ModelConfig()))
        except FileNotFoundError:
            problems.append(Problem(where, "is missing; write it, or build the model with jpeg-build"))
        except OSError as error:
            problems.append(Problem(where, f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError as error:
            problems.append(Problem(where, f"is not UTF-8 text (byte {error.start})"))
        except text_format.ParseError as error:
            line = error.GetLine()
            # The message begins with line and column, which `where` says already.
            message = str(error).split(" : ", 1)[-1].replace("\n", " ").strip()
            problems.append(Problem(f"{where}:{line}" if line else where, f"cannot be parsed: {message}"))
    if not models and not problems:
        problems.append(Problem(str(repository), "holds no model; build one with jpeg-build"))
    return models, problems


def _check_config(model: Model) -> Iterator[Problem]:
    config, where = model.config, model.where
    if config.name and config.name != model.name:
        yield Problem(where, f'name is "{config.name}", but the folder is {model.name}: Triton wants them equal')
    if not config.backend and not config.platform:
        yield Problem(where, "says neither backend nor platform")
    if config.max_batch_size < 1:
        yield Problem(
            where,
            f"max_batch_size is {config.max_batch_size}, but the stages exchange batches: set at least 1",
        )
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield Problem(where, f"has no {kind}")
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield Problem(where, f"{kind} {name} is there {count} times")
        for tensor in tensors:
            if tensor.data_type == model_config_pb2.TYPE_INVALID:
                yield Problem(where, f"{kind} {tensor.name} has no data_type")
            if not tensor.dims or any(dim == 0 or dim < -1 for dim in tensor.dims):
                yield Problem(where, f"{kind} {tensor.name} has dims {_dims(tensor)}: each must be a size, or -1")


def _check_ensemble(ensemble: Model, models: dict[str, Model]) -> Iterator[Problem]:
    """Every edge: what a step takes is made before it, once, with the same type and shape."""
    where = ensemble.where
    steps = ensemble.config.ensemble_scheduling.step
    if not steps:
        yield Problem(where, "is an ensemble without steps")
        return
    for step in steps:
        model = models.get(step.model_name)
        if model is None:
            near = ", ".join(sorted(name for name, each in models.items() if not each.is_ensemble))
            yield Problem(where, f"step {step.model_name}: there is no such model that can be read; there are {near}")
            continue
        if ensemble.config.max_batch_size > model.config.max_batch_size:
            yield Problem(
                where,
                f"max_batch_size is {ensemble.config.max_batch_size}, but step {model.name} takes "
                f"{model.config.max_batch_size}: lower the one or raise the other",
            )
        yield from _check_names(where, "input", step.model_name, step.input_map, model.config.input)
        yield from _check_names(where, "output", step.model_name, step.output_map, model.config.output)
    made: dict[str, tuple[str, Any]] = {}
    yield from _check_makers(ensemble, models, made)
    yield from _check_takers(ensemble, models, made)
    yield from _check_order(where, steps)
    yield from _check_recipes(ensemble, [models[step.model_name] for step in steps if step.model_name in models])


def _check_makers(ensemble: Model, models: dict[str, Model], made: dict[str, tuple[str, Any]]) -> Iterator[Problem]:
    """Fills `made`: who makes each tensor of the ensemble, and as what."""
    for tensor in ensemble.config.input:
        made[tensor.name] = (f"the ensemble's input {tensor.name}", tensor)
    for step in ensemble.config.ensemble_scheduling.step:
        model = models.get(step.model_name)
        if model is None:
            # What it would make is not blamed on the steps after it.
            made.update(dict.fromkeys(step.output_map.values(), (step.model_name, None)))
            continue
        for tensor in model.config.output:
            key = step.output_map.get(tensor.name)
            if key and key in made:
                yield Problem(ensemble.where, f"tensor {key} is made twice: by {made[key][0]} and by step {model.name}")
            elif key:
                made[key] = (f"output {tensor.name} of {model.name}", tensor)


def _check_takers(ensemble: Model, models: dict[str, Model], made: dict[str, tuple[str, Any]]) -> Iterator[Problem]:
    where = ensemble.where
    used: set[str] = set()
    for step in ensemble.config.ensemble_scheduling.step:
        used.update(step.input_map.values())
        model = models.get(step.model_name)
        for tensor in model.config.input if model is not None else ():
            key = step.input_map.get(tensor.name)
            if key and key not in made:
                yield Problem(where, f"step {step.model_name} takes tensor {key}, which no input and no step makes")
            elif key:
                yield from _check_edge(where, *made[key], f"input {tensor.name} of {step.model_name}", tensor)
    for tensor in ensemble.config.output:
        if tensor.name not in made:
            yield Problem(where, f"output {tensor.name} is made by no step")
        else:
            yield from _check_edge(where, *made[tensor.name], f"the ensemble's output {tensor.name}", tensor)
    for tensor in ensemble.config.input:
        if tensor.name not in used:
            yield Problem(where, f"input {tensor.name} is taken by no step")


def _check_names(where: str, kind: str, step: str, mapping: Any, tensors: Iterable[Any]) -> Iterator[Problem]:
    known = {tensor.name: bool(getattr(tensor, "optional", False)) for tensor in tensors}
    for name in mapping:
        if name not in known:
            yield Problem(
                where, f"step {step} maps {kind} {name}, which it does not have; it has {', '.join(known) or 'none'}"
            )
    for name, optional in known.items():
        if kind == "input" and name not in mapping and not optional:
            yield Problem(where, f"step {step} gets nothing for its input {name}")


def _check_edge(where: str, source: str, made: Any, target: str, taken: Any) -> Iterator[Problem]:
    if made is None:
        return
    if made.data_type != taken.data_type:
        yield Problem(where, f"{source} is {_type(made)}, but {target} is {_type(taken)}")
    fits = len(made.dims) == len(taken.dims) and all(
        a in (b, -1) or b == -1 for a, b in zip(made.dims, taken.dims, strict=True)
    )
    if not fits:
        yield Problem(where, f"{source} has dims {_dims(made)}, but {target} has {_dims(taken)}")


def _check_order(where: str, steps: Any) -> Iterator[Problem]:
    """Steps that wait for each other."""
    makers = {tensor: step.model_name for step in steps for tensor in step.output_map.values()}
    waits = {step.model_name: {makers[t] for t in step.input_map.values() if t in makers} for step in steps}
    while ready := [name for name, needs in waits.items() if not needs & waits.keys()]:
        for name in ready:
            del waits[name]
    if waits:
        yield Problem(where, f"the steps {', '.join(sorted(waits))} wait for each other")


def _check_recipes(ensemble: Model, steps: list[Model]) -> Iterator[Problem]:
    """All steps come from one recipe: otherwise pixels, network and labels do not belong together."""
    stated: dict[str, tuple[str, str]] = {}
    for step in steps:
        if step.parameter("recipe_sha256"):
            stated[step.name] = (step.parameter("recipe_sha256"), step.parameter("recipe"))
        for version in step.versions()[-1:]:
            report = _read_report(version / REPORT)
            if isinstance(report, dict) and "recipe_sha256" in report:
                stated[step.name] = (str(report["recipe_sha256"]), str(report.get("recipe")))
    if len({digest for digest, _ in stated.values()}) > 1:
        listed = ", ".join(f"{name} from {recipe} ({digest[:8]})" for name, (digest, recipe) in stated.items())
        yield Problem(ensemble.where, f"its steps are built from different recipes: {listed}; build them from one")


def _check_files(model: Model, recipe: str) -> Iterator[Problem]:
    """The artefact is there, and is the one that its report speaks of."""
    versions = model.versions()
    if model.is_ensemble:
        if not versions:
            yield Problem(model.name, "has no version folder: make an empty folder 1 in it")
        return
    remedy = f"build it: jpeg-build {recipe or 'RECIPE'} --backend {model.name.removeprefix('classifier_')}"
    file = model.config.default_model_filename or _DEFAULT_FILES.get(model.backend)
    if file is None:
        return
    if not versions:
        yield Problem(model.name, f"has no version folder with a {file}; {remedy}")
    for version in versions:
        artefact, where = version / file, f"{model.name}/{version.name}"
        if not artefact.exists():
            yield Problem(f"{where}/{file}", f"is missing; {remedy}" if model.backend != "python" else "is missing")
        elif model.backend != "python":
            yield from _check_report(model, artefact, f"{where}/{REPORT}", remedy)
    labels = model.parameter("labels_file")
    if labels:
        yield from _check_labels(model, labels)


def _check_report(model: Model, artefact: Path, where: str, remedy: str) -> Iterator[Problem]:
    report = _read_report(artefact.parent / REPORT)
    if not isinstance(report, dict):
        yield Problem(where, f"{report}, so nobody knows what {artefact.name} is; {remedy}")
        return
    stated = report.get("artefact")
    if not isinstance(stated, dict) or not isinstance(report.get("recipe_sha256"), str):
        yield Problem(where, f"is not a report of jpeg-build; {remedy}")
        return
    if stated.get("file") != artefact.name or (artefact.is_file() and stated.get("sha256") != _sha256(artefact)):
        yield Problem(where, f"speaks of another {artefact.name} (its sha256 differs); {remedy}")
    for tensor, built in (
        *((tensor, report.get("input")) for tensor in model.config.input),
        *((tensor, [report.get("classes")]) for tensor in model.config.output),
    ):
        if list(tensor.dims) != built:
            yield Problem(
                model.where, f"{tensor.name} has dims {_dims(tensor)}, but the artefact has {built}; {remedy}"
            )


def _check_labels(model: Model, labels: str) -> Iterator[Problem]:
    where = f"{model.name}/{labels}"
    try:
        count = len((model.folder / labels).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        yield Problem(where, f"the label file cannot be read: {reason}")
        return
    for tensor in model.config.input:
        if tensor.name == "output__0" and list(tensor.dims) != [count]:
            yield Problem(
                where,
                f"has {count} labels, but {tensor.name} has dims {_dims(tensor)}: build the recipe again",
            )


def _read_report(path: Path) -> dict[str, Any] | str:
    """The report, or what is wrong with it."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError):
        return "is not JSON that can be read"
    return report if isinstance(report, dict) else "is not a report"


def _recipe_of(models: dict[str, Model]) -> str:
    """Name of the recipe that the repository's geometry comes from, for remedies."""
    return next((model.parameter("recipe") for model in models.values() if model.parameter("recipe")), "")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _type(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def _dims(tensor: Any) -> str:
    return f"[{','.join(map(str, tensor.dims))}]"
