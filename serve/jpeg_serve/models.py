"""The models of a repository, their version folders, and which of those Triton serves."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jpeg_serve.triton_config import ModelConfig, text_format

CONFIG = "config.pbtxt"

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
_CLASSIFIER = "classifier_"

# The newest format of jpeg-build's reports that is understood.
REPORT_FORMAT = 1
_SHOWN = 40


@dataclass(frozen=True)
class _Field:
    """A field of a report. kind: its type in JSON; a list is one of whole numbers. fields: of an object."""

    kind: type
    needed: bool = False
    fields: Mapping[str, _Field] = field(default_factory=dict)


# What is read here of a report. Earlier builds wrote fewer of the fields that are not needed.
_FIELDS = {
    "recipe": _Field(str, needed=True),
    "recipe_sha256": _Field(str, needed=True),
    "precision": _Field(str, needed=True),
    "classes": _Field(int, needed=True),
    "input": _Field(list, needed=True),
    "artefact": _Field(dict, needed=True, fields={name: _Field(str, needed=True) for name in ("file", "sha256")}),
    "requires": _Field(
        dict,
        fields={
            **{name: _Field(str) for name in ("compute_capability", "tensorrt", "torch", "torch_tensorrt")},
            **{name: _Field(bool) for name in ("hardware_compatible", "version_compatible")},
        },
    ),
    "asked": _Field(dict, fields={name: _Field(bool) for name in ("trt", "per_gpu")}),
}

# Triton 2.51 takes every folder for a version whose name begins with a number, and leaves out those with a leading
# zero. Tried: it loads 0, and looks for 5 where a folder is called 5x.
_VERSION = re.compile(r"[+-]?[0-9]+")
_PROPER_VERSION = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: a file in the repository, with a line where there is one."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Version:
    """A version folder. number: what Triton takes its name for."""

    number: int
    folder: Path

    @property
    def is_proper(self) -> bool:
        """Whether the name is the number and nothing else; Triton finds the files of such folders only."""
        return _PROPER_VERSION.fullmatch(self.folder.name) is not None


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

    @property
    def built_as(self) -> str:
        """What jpeg-build calls it, after --backend; empty if it is no classifier."""
        return self.name.removeprefix(_CLASSIFIER) if self.name.startswith(_CLASSIFIER) else ""

    @property
    def file(self) -> str | None:
        """Name of what Triton loads from a version folder, None if that is the backend's secret."""
        return self.config.default_model_filename or _DEFAULT_FILES.get(self.backend)

    def parameter(self, name: str) -> str:
        """A parameter's text, empty if there is none."""
        return str(self.config.parameters[name].string_value) if name in self.config.parameters else ""

    def versions(self) -> list[Version]:
        """The version folders that are there, the newest last."""
        found = []
        for folder in self.folder.iterdir():
            name = _VERSION.match(folder.name)
            left_out = len(folder.name) > 1 and folder.name[0] == "0"
            if folder.is_dir() and name is not None and not left_out:
                found.append(Version(int(name[0]), folder))
        return sorted(found, key=lambda version: version.number)

    def served(self) -> list[Version]:
        """The versions that Triton serves, by the config's version_policy; without one, the newest.

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
        """What Triton may load of the versions that it serves, whether it is there or not."""
        if self.file is None:
            return []
        files = [*self.config.cc_model_filenames.values(), self.file]
        return [(version, version.folder / file) for version in self.served() for file in dict.fromkeys(files)]

    def missing_versions(self) -> list[int]:
        """Versions that the policy names, and that are not there."""
        there = {version.number for version in self.versions()}
        return [number for number in self.config.version_policy.specific.versions if number not in there]


def read_models(repository: Path) -> tuple[dict[str, Model], list[Problem]]:
    """The models of a repository by their names, and what keeps others from being read."""
    if not repository.is_dir():
        return {}, [Problem(str(repository), "there is no such folder; name it with --model-repository DIR")]
    models: dict[str, Model] = {}
    problems = []
    # A volume with a file system of its own has lost+found at its root.
    folders = [path for path in repository.iterdir() if not path.name.startswith(".") and path.name != "lost+found"]
    for folder in sorted(path for path in folders if path.is_dir()):
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


def served_models(models: dict[str, Model], load: Sequence[str] = ()) -> list[Model]:
    """The models named by `load` and, through them, their steps; by default the ensembles, or all if there is none."""
    ensembles = [model.name for model in models.values() if model.is_ensemble]
    wanted = set(load or ensembles or models)
    for model in models.values():
        if model.name in wanted and model.is_ensemble:
            wanted |= {step.model_name for step in model.config.ensemble_scheduling.step}
    return [model for model in models.values() if model.name in wanted]


def recipe_of(models: Mapping[str, Model]) -> str:
    """Name of the recipe that the repository's geometry comes from, for remedies: of the first step that states one."""
    names = [step.model_name for model in models.values() for step in model.config.ensemble_scheduling.step]
    stated = (models[name].parameter("recipe") for name in [*names, *models] if name in models)
    return next((recipe for recipe in stated if recipe), "")


def report_path(artefact: Path) -> Path:
    """Where the report on an artefact lies: model.json beside model.plan, sm90.json beside sm90.plan."""
    return artefact.with_suffix(".json")


def read_report(artefact: Path) -> dict[str, Any] | str:
    """The report on an artefact, or what is wrong with it, as a sentence without its subject."""
    unknown = f"so nobody knows what {artefact.name} is"
    try:
        report = json.loads(report_path(artefact).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"is missing, {unknown}"
    except (OSError, ValueError):
        return f"is not JSON that can be read, {unknown}"
    made = report.get("format") if isinstance(report, dict) else None
    if not isinstance(made, int) or not _is_a(int, made) or made < 1:
        return "is not a report of jpeg-build"
    if made > REPORT_FORMAT:
        return f"was written by a newer jpeg-build (in format {made}, and this jpeg-serve knows {REPORT_FORMAT})"
    if wrong := _wrong_field(report, _FIELDS):
        return f"is damaged ({wrong})"
    return dict(report)


def _wrong_field(report: Mapping[str, Any], fields: Mapping[str, _Field], inside: str = "") -> str:
    """The first field that has not what jpeg-build writes there; empty if there is none."""
    for name, known in fields.items():
        if name not in report:
            if known.needed:
                return f"it has no {inside}{name}"
            continue
        value = report[name]
        if not _is_a(known.kind, value):
            said = json.dumps(value)
            return f"its {inside}{name} is {said if len(said) < _SHOWN else said[:_SHOWN] + '...'}"
        if known.kind is dict and (wrong := _wrong_field(value, known.fields, f"{inside}{name}.")):
            return wrong
    return ""


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is of a type of JSON: true is no number; a list is one of whole numbers."""
    if kind is list:
        return isinstance(value, list) and all(_is_a(int, each) for each in value)
    return type(value) is kind


def artefact_sha256(artefact: Path) -> str:
    """SHA-256 of an artefact, as its report states it.

    Of one file: of its bytes. Of a folder, or of the pair X.xml and X.bin: of the lines "<sha256>  <path>" over all
    its files in the order of their paths.
    """
    if artefact.is_dir():
        files = {file.relative_to(artefact).as_posix(): file for file in artefact.rglob("*") if file.is_file()}
    elif artefact.suffix == ".xml":
        files = {file.name: file for file in (artefact, artefact.with_suffix(".bin"))}
    else:
        return _file_sha256(artefact)
    lines = "".join(f"{_file_sha256(files[path])}  {path}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
