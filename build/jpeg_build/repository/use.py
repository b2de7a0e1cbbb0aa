"""Choose the classifier that an ensemble uses, and its version; or split its requests between two."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
from jpeg_contract.forms import ClassifierForm, form_of_model
from jpeg_contract.model_config import (
    CONFIG,
    PRECISION_TAG,
    ModelConfig,
    choose_classifier,
    chosen_classifier,
    pin_version,
    route_of,
)
from jpeg_contract.model_names import ModelNames
from jpeg_contract.remedies import use_command
from jpeg_contract.report import ConfigSettings, Report, find_report
from jpeg_contract.routes import Mode, Route, Target

from jpeg_build.errors import CallError, RepositoryError
from jpeg_build.repository import configs, tree
from jpeg_build.repository.artefacts import (
    NEWEST,
    rebuild_command,
    reported_engines,
    require_built,
    served_report,
    served_version,
)
from jpeg_build.repository.belonging import other_recipe
from jpeg_build.repository.ensembles import ensembles, users_of


@dataclass(frozen=True)
class Trial:
    """How a classifier is tried beside the one in use.

    Attributes:
        mode: See `jpeg_contract.routes.Mode`.
        percent: Part of the requests that it gets.
    """

    mode: Mode
    percent: float


def use(root: Path, form: ClassifierForm, version: str | None) -> list[str]:
    """Change the one word in the ensemble's config, and the version that the classifier serves. Ends a trial.

    Args:
        root: The model repository.
        form: Of the classifier.
        version: A number; "newest"; None leaves the classifier's policy as it is, or as it was before a trial.

    Returns:
        Lines that say what changed.

    Raises:
        RepositoryError: That classifier or version was not built, or from another recipe than the steps around it,
            which the server refuses.
    """
    name = form.ensemble
    if not (root / name / CONFIG).is_file():
        require_built(root, form, version)
    router, ensemble, route = _router(root, ModelNames(name))
    if route is not None and version is None:
        # The policy names the versions of both.
        mine = route.primary if route.primary.model == form.model else route.candidate
        version = str(mine.version) if mine.model == form.model else None
    report = require_built(root, form, version)
    _require_same_recipe(root, form, version, report)
    changes = []
    path = root / name / CONFIG
    chosen = chosen_classifier(ensemble)
    if chosen != form.model:
        tree.write_config(root, name, _renamed(path, form.model))
        changes.append(f"{name} now uses {form.model} ({report.recipe}, {report.precision})")
    classifier = tree.read_config(root, form.model)
    if version is not None and classifier is not None:
        pinned = pin_version(classifier, *([] if version == NEWEST else [int(version)]))
        # What the config says for the artefact is that version's.
        before = served_report(root, form)
        was = None if before is None else before.config
        configs.apply_settings(pinned, report.precision, _settings(root, form, version, report), was)
        if pinned != classifier:
            tree.write_config(root, form.model, configs.to_text(pinned))
            changes.append(f"{form.model} now serves {_which(version)}")
            others = [other for other in users_of(ensembles(root), form.model) if other != name]
            if others:
                changes.append(f"{' and '.join(others)} runs {form.model}, too, and changes with it")
    if router.is_dir() and chosen == router.name:
        with tree.staging(root) as folder:
            router.rename(folder / router.name)
            shutil.rmtree(folder / router.name, ignore_errors=True)
    return changes or [f"{name} uses {form.model} already"]


def try_beside(root: Path, form: ClassifierForm, version: str | None, trial: Trial) -> list[str]:
    """Send a part of an ensemble's requests to another classifier, or to another version of the same one.

    Args:
        root: The model repository.
        form: Of the candidate.
        version: Of the candidate: a number or "newest"; None takes the served one, of the classifier in use the newest.
        trial: Which part, and whether it answers.

    Returns:
        Lines that say what changed.

    Raises:
        RepositoryError: The candidate is not built, or from another recipe; or two versions of one classifier need
            different settings, or another ensemble runs it, too.
        CallError: The candidate is the very classifier in use.
    """
    names = ModelNames(form.ensemble)
    _, ensemble, route = _router(root, names)
    primary = route.primary if route is not None else _in_use(root, names, ensemble)
    candidate = Target(form.model, _version(root, form, version or (NEWEST if primary.model == form.model else None)))
    if candidate == primary:
        raise CallError(f"{candidate} is in use already: {_instead(root, form, candidate.version)}")
    report = require_built(root, form, str(candidate.version))
    _require_same_recipe(root, form, str(candidate.version), report)
    primary_form = form_of_model(primary.model)
    assert primary_form is not None, "the ensemble uses a classifier of this project"
    in_use = require_built(root, primary_form, str(primary.version))
    _require_same_recipe(root, primary_form, str(primary.version), in_use)
    if primary.model == form.model and in_use.config != report.config:
        raise RepositoryError(
            f"{primary} and {candidate} need different settings ({_differences(in_use, report)}), and Triton has one "
            f"config for all versions of a model: build the candidate in another form than {form.name}",
            reason="settings_differ",
        )
    others = [name for name in users_of(ensembles(root), form.model) if name != names.ensemble]
    if primary.model == form.model and others:
        raise RepositoryError(
            f"{' and '.join(others)} runs {form.model}, too, and would get {candidate} for all of its requests: build "
            f"the candidate in another form than {form.name}, or remove the other model first",
            reason="in_use",
        )
    route = Route(trial.mode, trial.percent, primary, candidate)
    made = {}
    for model in route.models:
        existing = tree.read_config(root, model)
        assert existing is not None, "it is built"
        versions = route.versions_of(model)
        made[model] = pin_version(existing, *versions)
        # As `jpeg-serve check` wants it: that of the newest served version.
        newest = report if (model, versions[-1]) == (candidate.model, candidate.version) else in_use
        made[model].metric_tags[PRECISION_TAG] = newest.precision
    router = configs.router_config(names, made[primary.model], made[candidate.model], route, in_use.precision)
    with tree.staging(root) as folder:
        for model, config in made.items():
            tree.stage_text(folder, model, configs.to_text(config))
        tree.stage_router(folder, router)
        tree.stage_text(folder, names.ensemble, _renamed(root / names.ensemble / CONFIG, names.router))
        tree.place(folder, root)
    share = f"{trial.percent:g} % of the requests of {names.ensemble}"
    if trial.mode == "split":
        return [f"{candidate} answers {share}; {primary} answers the others"]
    return [f"{candidate} is compared on {share}; {primary} answers all of them"]


def _router(root: Path, names: ModelNames) -> tuple[Path, ModelConfig, Route | None]:
    """Return the folder of an ensemble's router, the ensemble's config, and the router's route if it is in use."""
    path = root / names.ensemble / CONFIG
    ensemble = tree.read_config(root, names.ensemble)
    if ensemble is None:
        raise RepositoryError(f"{path} is missing: build a recipe with jpeg-build", reason="unknown_model")
    config = tree.read_config(root, names.router) if chosen_classifier(ensemble) == names.router else None
    return root / names.router, ensemble, route_of(config) if config is not None else None


def _in_use(root: Path, names: ModelNames, ensemble: ModelConfig) -> Target:
    model = chosen_classifier(ensemble)
    form = form_of_model(model or "")
    version = served_version(root, form, None) if form is not None else None
    if form is None or version is None:
        raise RepositoryError(
            f"{root / names.ensemble / CONFIG} uses {model}, which is not a classifier that is built: choose one with "
            "jpeg-build use first",
            reason="not_built",
        )
    return Target(form.model, version)


def _instead(root: Path, form: ClassifierForm, version: int) -> str:
    """Return what to do where the only version that serves is to be tried."""
    others = [number for number in tree.versions(root, form.model) if number != version]
    if not others:
        return "build another version beside it with jpeg-build ... --version NUMBER, or name another form"
    keep = use_command(form.name, root, version=others[-1], ensemble=form.ensemble)
    return f"name another version, or choose the one to compare it with first: {keep}"


def _version(root: Path, form: ClassifierForm, version: str | None) -> int:
    require_built(root, form, version)
    number = served_version(root, form, version)
    assert number is not None, "it is built"
    return number


def _differences(one: Report, other: Report) -> str:
    mine, theirs = (msgspec.to_builtins(each.config) for each in (one, other))
    return ", ".join(f"{key}: {mine[key]} and {theirs[key]}" for key in mine if mine[key] != theirs[key])


def _renamed(path: Path, classifier: str) -> str:
    """Return the text of an ensemble's config with another classifier."""
    try:
        return choose_classifier(path.read_text(encoding="utf-8"), classifier)
    except ValueError as error:
        raise RepositoryError(f"{path}: {error}: edit the classifier's name yourself") from error


def _require_same_recipe(root: Path, form: ClassifierForm, version: str | None, report: Report) -> None:
    recipe = other_recipe(root, ModelNames(form.ensemble), report)
    if recipe is None:
        return
    version_here = served_version(root, form, version)
    again = rebuild_command(root, form, recipe, version=version_here)
    back = rebuild_command(root, form, report.recipe)
    raise RepositoryError(
        f"{form.model} was built from the recipe {report.recipe}, and the steps of {form.ensemble} are of {recipe}"
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
