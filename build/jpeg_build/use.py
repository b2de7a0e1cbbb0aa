"""Choose the classifier that the ensemble uses, and its version."""

from __future__ import annotations

from pathlib import Path

import msgspec
from jpeg_contract.forms import ClassifierForm
from jpeg_contract.model_config import CONFIG, choose_classifier, chosen_classifier, pin_version
from jpeg_contract.remedies import build_command
from jpeg_contract.report import ConfigSettings, Report, find_report
from jpeg_contract.tensors import ENSEMBLE, POSTPROCESS, PREPROCESS

from jpeg_build import configs, repository
from jpeg_build.artefacts import (
    NEWEST,
    recipe_in_place,
    reported_engines,
    require_built,
    served_report,
    served_version,
)
from jpeg_build.errors import RepositoryError


def use(root: Path, form: ClassifierForm, version: str | None) -> list[str]:
    """Change the one word in the ensemble's config, and the version that the classifier serves.

    Args:
        root: The model repository.
        form: Of the classifier.
        version: A number; "newest"; None leaves the classifier's policy as it is.

    Returns:
        Lines that say what changed.

    Raises:
        RepositoryError: That classifier or version was not built, or from another recipe than the steps around it,
            which the server refuses.
    """
    report = require_built(root, form, version)
    _require_same_recipe(root, form, version, report)
    changes = []
    ensemble = repository.read_config(root, ENSEMBLE)
    path = root / ENSEMBLE / CONFIG
    if ensemble is None:
        raise RepositoryError(f"{path} is missing: build a recipe with jpeg-build")
    if chosen_classifier(ensemble) != form.model:
        try:
            text = choose_classifier(path.read_text(encoding="utf-8"), form.model)
        except ValueError as error:
            raise RepositoryError(f"{path}: {error}: edit the classifier's name yourself") from error
        repository.write_config(root, ENSEMBLE, text)
        changes.append(f"{ENSEMBLE} now uses {form.model} ({report.recipe}, {report.precision})")
    classifier = repository.read_config(root, form.model)
    if version is not None and classifier is not None:
        pinned = pin_version(classifier, None if version == NEWEST else int(version))
        # What the config says for the artefact is that version's.
        before = served_report(root, form)
        was = None if before is None else before.config
        configs.apply_settings(pinned, report.precision, _settings(root, form, version, report), was)
        if pinned != classifier:
            repository.write_config(root, form.model, configs.to_text(pinned))
            changes.append(f"{form.model} now serves {_which(version)}")
    return changes or [f"{ENSEMBLE} uses {form.model} already"]


def _require_same_recipe(root: Path, form: ClassifierForm, version: str | None, report: Report) -> None:
    recipe, sha256 = recipe_in_place(root)
    if not sha256 or report.recipe_sha256 == sha256:
        return
    again = build_command(recipe, form.name, root, version=served_version(root, form, version))
    back = build_command(report.recipe, form.name, root)
    raise RepositoryError(
        f"{form.model} was built from the recipe {report.recipe}, and {PREPROCESS} and "
        f"{POSTPROCESS} are of {recipe}"
        f"{' in another state' if report.recipe == recipe else ''}: build it with {again}"
        + (f", or go back to its recipe with {back}" if report.recipe != recipe else ""),
        reason="recipe_differs",
    )


def _settings(root: Path, form: ClassifierForm, version: str, report: Report) -> ConfigSettings:
    """Return the settings of a version; of all its engines, where there is one for each kind of GPU."""
    if not report.config.engines:
        return report.config
    folder = root / form.model / str(served_version(root, form, version))
    engines = reported_engines(folder, report)
    for file in folder.glob("model_sm*.plan"):
        other = find_report(file)
        engines |= reported_engines(folder, other) if other is not None else {}
    return msgspec.structs.replace(report.config, engines=engines)


def _which(version: str) -> str:
    return "its newest version" if version == NEWEST else f"version {version}"
