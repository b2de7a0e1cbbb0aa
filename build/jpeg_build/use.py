"""Which classifier, and which version of it, the ensemble uses."""

from __future__ import annotations

from pathlib import Path

from jpeg_build import configs, repository
from jpeg_build import report as reports
from jpeg_build.errors import RepositoryError
from jpeg_build.targets import TARGETS, Target

NEWEST = "newest"


def use(root: Path, target: Target, version: str | None) -> list[str]:
    """Change the one word in the ensemble's config, and the version that the classifier serves.

    version: a number; "newest"; None leaves the classifier's policy as it is. Returns lines that say what changed.

    Raises RepositoryError if that classifier, or that version, was not built.
    """
    report = require_built(root, target, version)
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
        if pinned != classifier:
            repository.write_config(root, target.model, configs.to_text(pinned))
            said.append(f"{target.model} now serves {_which(version)}")
    return said or [f"{configs.ENSEMBLE} uses {target.model} already"]


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
    preprocess = repository.read_config(root, configs.PREPROCESS)
    recipe = preprocess.parameters["recipe"].string_value if preprocess is not None else ""
    command = f"jpeg-build {recipe or 'RECIPE'} --backend {target.name}" + (
        f" --version {number}" if number is not None else ""
    )
    raise RepositoryError(
        f"{root}: {wanted} is not built: build it with {command}; built are {', '.join(built) or 'none'}"
    )


def served_version(root: Path, target: Target, version: str | None) -> int | None:
    """The number that `version` means: itself, the newest, or, for None, the one that the config serves."""
    newest = repository.newest_version(root, target.model)
    if version is None:
        classifier = repository.read_config(root, target.model)
        return (configs.pinned_version(classifier) if classifier is not None else None) or newest
    return newest if version == NEWEST else int(version)


def find_report(root: Path, target: Target, version: int) -> Path:
    """The report on a version: model.json, or, where there are engines by GPU, the first of theirs."""
    folder = root / target.model / str(version)
    usual = folder / reports.report_path(Path(target.artefact)).name
    return usual if usual.exists() else next(iter(sorted(folder.glob("model_*.json"))), usual)


def _which(version: str) -> str:
    return "its newest version" if version == NEWEST else f"version {version}"
