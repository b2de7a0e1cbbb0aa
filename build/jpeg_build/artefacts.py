"""What is built in a model repository: the versions of a classifier, and their reports."""

from __future__ import annotations

from pathlib import Path

from jpeg_build import configs, repository
from jpeg_build import report as reports
from jpeg_build.commands import build_command
from jpeg_build.errors import BuildError, RepositoryError
from jpeg_build.gpu import find_gpu
from jpeg_build.targets import TARGETS, Target

NEWEST = "newest"


def require_built(root: Path, target: Target, version: str | None) -> reports.Report:
    """The report on a version of a classifier, by default on the one that is served.

    Raises RepositoryError, naming the command that builds it and what is built already.
    """
    number = served_version(root, target, version)
    found = reports.read(find_report(root, target, number)) if number is not None else None
    if found is not None:
        return found
    built = [each.name for each in TARGETS.values() if repository.newest_version(root, each.model)]
    wanted = f"version {number} of {target.model}" if number is not None else target.model
    recipe, _ = recipe_in_place(root)
    command = build_command(recipe or "RECIPE", target.name, root, version=number)
    raise RepositoryError(
        f"{root}: {wanted} is not built: build it with {command}; built are {', '.join(built) or 'none'}"
    )


def recipe_in_place(root: Path) -> tuple[str, str]:
    """Name and SHA-256 of the recipe that the steps around the classifier are of; empty where nothing says it."""
    preprocess = repository.read_config(root, configs.PREPROCESS)
    if preprocess is None:
        return "", ""
    parameters = preprocess.parameters
    return parameters["recipe"].string_value, parameters["recipe_sha256"].string_value


def served_report(root: Path, target: Target) -> reports.Report | None:
    """The report on the version of a classifier that is served, None if there is none."""
    number = served_version(root, target, None)
    return reports.read(find_report(root, target, number)) if number is not None else None


def served_version(root: Path, target: Target, version: str | None) -> int | None:
    """The number that `version` means: itself, the newest, or, for None, the one that the config serves."""
    newest = repository.newest_version(root, target.model)
    if version is None:
        classifier = repository.read_config(root, target.model)
        return (configs.pinned_version(classifier) if classifier is not None else None) or newest
    return newest if version == NEWEST else int(version)


def find_report(root: Path, target: Target, version: int) -> Path:
    """The report on a version: model.json; where there are engines by GPU, that of this machine's, else the first."""
    folder = root / target.model / str(version)
    usual = folder / reports.report_path(Path(target.artefact)).name
    by_gpu = sorted(folder.glob("model_sm*.json"))
    classifier = repository.read_config(root, target.model)
    if not by_gpu or (usual.exists() and not (classifier is not None and classifier.cc_model_filenames)):
        return usual
    capability = this_gpu()
    mine = folder / f"model_sm{(capability or '').replace('.', '')}.json"
    return mine if mine in by_gpu else by_gpu[0]


def this_gpu() -> str | None:
    """Compute capability of this machine's first GPU, as "9.0"; None if there is none."""
    try:
        return find_gpu().compute_capability
    except BuildError:
        return None
