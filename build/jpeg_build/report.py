"""model.json: what an artefact is, where it comes from, and how near it is to the network."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jpeg_build.network import Weights
from jpeg_build.parity import TOLERANCES, Parity
from jpeg_build.recipe import Recipe, file_sha256

FORMAT = 1
REPORT = "model.json"

# A new version of one of these may give another artefact.
_TOOLS = (
    "triton-jpeg-classifier",
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
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


def make(
    recipe: Recipe, *, backend: str, precision: str, artefact: Path, weights: Weights, parity: Parity
) -> dict[str, Any]:
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
            "file": artefact.name,
            "bytes": artefact.stat().st_size,
            "sha256": file_sha256(artefact),
        },
        "weights": {"source": weights.source, "sha256": weights.sha256},
        "parity": asdict(parity),
        "tolerance": asdict(TOLERANCES[precision]),
        "versions": versions(),
    }


def write(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any] | None:
    """A report, or None if there is none that can be read, or it is not of this format."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    complete = isinstance(report, dict) and report.get("format") == FORMAT
    if not complete or not all(isinstance(report.get(key), dict) for key in ("artefact", "weights", "versions")):
        return None
    return dict(report) if {"file", "sha256"} <= report["artefact"].keys() and "source" in report["weights"] else None
