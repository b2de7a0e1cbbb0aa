"""Which classifier, and which version of it, the ensemble uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jpeg_build import configs, repository
from jpeg_build import report as reports
from jpeg_build.artefacts import NEWEST, recipe_in_place, require_built, served_report, served_version
from jpeg_build.commands import build_command
from jpeg_build.errors import RepositoryError
from jpeg_build.targets import Target


def use(root: Path, target: Target, version: str | None) -> list[str]:
    """Change the one word in the ensemble's config, and the version that the classifier serves.

    version: a number; "newest"; None leaves the classifier's policy as it is. Returns lines that say what changed.

    Raises RepositoryError if that classifier, or that version, was not built, or from another recipe than the steps
    around it: the server would refuse it.
    """
    report = require_built(root, target, version)
    _require_same_recipe(root, target, version, report)
    said = []
    ensemble = repository.read_config(root, configs.ENSEMBLE)
    path = root / configs.ENSEMBLE / repository.CONFIG
    if ensemble is None:
        raise RepositoryError(f"{path} is missing: build a recipe with jpeg-build")
    if configs.chosen_classifier(ensemble) != target.model:
        try:
            text = configs.choose_classifier(path.read_text(encoding="utf-8"), target.model)
        except ValueError as error:
            raise RepositoryError(f"{path}: {error}: edit the classifier's name yourself") from error
        repository.write_config(root, configs.ENSEMBLE, text)
        said.append(f"{configs.ENSEMBLE} now uses {target.model} ({report['recipe']}, {report['precision']})")
    classifier = repository.read_config(root, target.model)
    if version is not None and classifier is not None:
        pinned = configs.pin_version(classifier, None if version == NEWEST else int(version))
        # What the config says for the artefact is that version's.
        before = served_report(root, target)
        was = None if before is None else reports.settings_of(before)
        configs.apply_settings(pinned, _settings(root, target, version, report), was)
        if pinned != classifier:
            repository.write_config(root, target.model, configs.to_text(pinned))
            said.append(f"{target.model} now serves {_which(version)}")
    return said or [f"{configs.ENSEMBLE} uses {target.model} already"]


def _require_same_recipe(root: Path, target: Target, version: str | None, report: reports.Report) -> None:
    recipe, sha256 = recipe_in_place(root)
    if not sha256 or report.get("recipe_sha256") == sha256:
        return
    again = build_command(recipe, target.name, root, version=served_version(root, target, version))
    back = build_command(str(report["recipe"]), target.name, root)
    raise RepositoryError(
        f"{target.model} was built from the recipe {report['recipe']}, and {configs.PREPROCESS} and "
        f"{configs.POSTPROCESS} are of {recipe}"
        f"{' in another state' if report['recipe'] == recipe else ''}: build it with {again}"
        + (f", or go back to its recipe with {back}" if report["recipe"] != recipe else "")
    )


def _settings(root: Path, target: Target, version: str, report: reports.Report) -> configs.ArtefactSettings:
    """Of a version; of all its engines, where there is one for each kind of GPU."""
    settings = reports.settings_of(report)
    if not settings.engines:
        return settings
    number = served_version(root, target, version)
    engines = dict(settings.engines)
    for file in (root / target.model / str(number)).glob("model_sm*.json"):
        other = reports.read(file)
        engines |= reports.settings_of(other).engines if other is not None else {}
    return dataclasses.replace(settings, engines=engines)


def _which(version: str) -> str:
    return "its newest version" if version == NEWEST else f"version {version}"
