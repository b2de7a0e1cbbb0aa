"""model.json: what an artefact is, where it comes from, and how near it is to the network."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jpeg_build.configs import ArtefactSettings
from jpeg_build.emitters import Emitted
from jpeg_build.network import Weights
from jpeg_build.parity import Parity, Tolerance
from jpeg_build.recipe import Recipe, file_sha256

FORMAT = 1

Report = dict[str, Any]

# A new version of one of these may give another artefact.
_TOOLS = (
    "triton-jpeg-classifier",
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-bindings",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "torch-tensorrt",
    "tensorflow",
    "tensorflow-cpu",
    "polygraphy",
    "numpy",
    "pillow",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that take part in a build."""
    found = {"python": platform.python_version()}
    for package in _TOOLS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def artefact_sha256(path: Path) -> str:
    """SHA-256 of an artefact: of its bytes, if it is one file.

    Of a folder, or of an OpenVINO model's two files: of the text made of a line "<sha256>  <name>" for each file, in
    the order of the names, which are relative to the folder.
    """
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    elif path.suffix == ".xml":
        files = {file.name: file for file in (path, path.with_suffix(".bin"))}
    else:
        return file_sha256(path)
    lines = "".join(f"{file_sha256(files[name])}  {name}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def artefact_bytes(path: Path) -> int:
    """Size of an artefact, with all of its files."""
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path, *path.rglob("*")]
    return sum(file.stat().st_size for file in files if file.is_file())


def report_path(artefact: Path) -> Path:
    """Where the report on an artefact lies: model.json, or model_sm90.json for model_sm90.plan."""
    return artefact.with_suffix(".json")


def make(
    recipe: Recipe,
    *,
    backend: str,
    precision: str,
    emitted: Emitted,
    settings: ArtefactSettings,
    weights: Weights,
    parity: Parity,
    tolerance: Tolerance,
) -> Report:
    """The report on a checked artefact. It holds no path of the machine and no time: equal builds, equal reports."""
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "recipe_sha256": recipe.sha256,
        "backend": backend,
        "precision": precision,
        "classes": recipe.classes,
        "input": [*recipe.geometry.crop_size, 3],
        "artefact": {
            "file": emitted.artefact.name,
            "bytes": artefact_bytes(emitted.artefact),
            "sha256": artefact_sha256(emitted.artefact),
        },
        "requires": dict(emitted.requires),
        "details": dict(emitted.details),
        "config": asdict(settings),
        "weights": {"source": weights.source, "sha256": weights.sha256},
        "parity": asdict(parity),
        "tolerance": asdict(tolerance),
        "versions": versions(),
    }


def settings_of(report: Report) -> ArtefactSettings:
    """What an artefact decides in its config."""
    return ArtefactSettings(**report.get("config", {}))


def write(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Report | None:
    """A report, or None if there is none that can be read, or it is not of this format."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(report, dict) and report.get("format") == FORMAT
    if not complete or not all(isinstance(report.get(key), dict) for key in ("artefact", "weights", "versions")):
        return None
    return dict(report) if {"file", "sha256"} <= report["artefact"].keys() and "source" in report["weights"] else None
