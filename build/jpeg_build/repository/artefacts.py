"""The versions of a classifier in a model repository, and the reports on them."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.artefacts import report_path
from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.inside import PathOutside, inside
from jpeg_contract.model_config import parameters, pinned_version
from jpeg_contract.model_names import ModelNames
from jpeg_contract.remedies import build_command
from jpeg_contract.report import Report, find_report

from jpeg_build.errors import RepositoryError
from jpeg_build.gpu import this_capability
from jpeg_build.repository import tree

NEWEST = "newest"


def require_built(root: Path, form: ClassifierForm, version: str | None) -> Report:
    """Return the report on a version of a classifier, by default on the served one.

    Raises:
        RepositoryError: It is not built; the message names the command that builds it, and what is built already.
    """
    number = served_version(root, form, version)
    found = find_report(find_artefact(root, form, number)) if number is not None else None
    if found is not None:
        return found
    built = [each.name for each in FORMS.values() if tree.newest_version(root, each.of(form.ensemble).model)]
    missing = f"version {number} of {form.model}" if number is not None else form.model
    recipe, _ = recipe_in_place(root, ModelNames(form.ensemble))
    command = rebuild_command(root, form, recipe or "RECIPE", version=number)
    raise RepositoryError(
        f"{root}: {missing} is not built: build it with {command}; built are {', '.join(built) or 'none'}",
        reason="not_built",
    )


def rebuild_command(root: Path, form: ClassifierForm, recipe: str, *, version: int | None = None) -> str:
    """Return the command that builds a form for its ensemble from a recipe of which only the name is known."""
    return build_command(
        recipe, form.name, root, version=version, ensemble=form.ensemble, runs_code=_runs_code(root, form, recipe)
    )


def _runs_code(root: Path, form: ClassifierForm, recipe: str) -> bool:
    """Whether a recipe names code, by the reports on what was built from it for the ensemble."""
    models = [each.of(form.ensemble) for each in FORMS.values()]
    built = [(model, number) for model in models for number in tree.versions(root, model.model)]
    reports = (find_report(find_artefact(root, model, number)) for model, number in built)
    return any(report.runs_code for report in reports if report is not None and report.recipe == recipe)


def reported_artefact(expected: Path, report: Report) -> Path:
    """Return the artefact that a report names, in the folder of its version.

    Args:
        expected: Of `find_artefact`.
        report: Beside it.

    Raises:
        RepositoryError: It lies outside of that folder.
    """
    return _named(expected.parent, report.artefact.file)


def reported_engines(folder: Path, report: Report) -> dict[str, str]:
    """Return the engines that a report names, by compute capability. Raises RepositoryError as above."""
    for name in report.config.engines.values():
        _named(folder, name)
    return dict(report.config.engines)


def _named(folder: Path, name: str) -> Path:
    try:
        return inside(folder, name)
    except PathOutside as error:
        raise RepositoryError(
            f"{folder}: the file that a report there names {error}, or build it again", reason=error.reason
        ) from error


def recipe_in_place(root: Path, names: ModelNames) -> tuple[str, str]:
    """Return name and SHA-256 of the recipe of an ensemble; empty if its steps name none.

    The model that labels states it: the one that decodes may be another ensemble's.
    """
    postprocess = tree.read_config(root, names.postprocess)
    named = parameters(postprocess) if postprocess is not None else {}
    return named.get("recipe", ""), named.get("recipe_sha256", "")


def served_report(root: Path, form: ClassifierForm) -> Report | None:
    """Return the report on the version of a classifier that is served, None if there is none."""
    number = served_version(root, form, None)
    return find_report(find_artefact(root, form, number)) if number is not None else None


def served_version(root: Path, form: ClassifierForm, version: str | None) -> int | None:
    """Return the number that `version` means: itself, the newest, or, for None, the one that the config serves."""
    newest = tree.newest_version(root, form.model)
    if version is None:
        classifier = tree.read_config(root, form.model)
        return (pinned_version(classifier) if classifier is not None else None) or newest
    return newest if version == NEWEST else int(version)


def find_artefact(root: Path, form: ClassifierForm, version: int) -> Path:
    """Return where the artefact of a version is expected.

    Where there are engines by GPU, it is the one for this machine's GPU, else the first.
    """
    folder = root / form.model / str(version)
    usual = folder / form.artefact
    suffix = Path(form.artefact).suffix
    by_gpu = sorted(path.with_suffix(suffix) for path in folder.glob("model_sm*.json"))
    classifier = tree.read_config(root, form.model)
    if not by_gpu or (report_path(usual).exists() and not (classifier is not None and classifier.cc_model_filenames)):
        return usual
    mine = folder / f"model_sm{(this_capability() or '').replace('.', '')}{suffix}"
    return mine if mine in by_gpu else by_gpu[0]
