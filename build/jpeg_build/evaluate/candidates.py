"""The artefacts of a repository that can be evaluated: every form, precision and version of one ensemble."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.forms import FORMS, ONNX, ClassifierForm, form_of_model
from jpeg_contract.model_config import ModelConfig, chosen_classifier, parameters, route_of
from jpeg_contract.model_names import ModelNames
from jpeg_contract.parameters import SettingsError
from jpeg_contract.report import Report, find_report
from jpeg_contract.settings import PreprocessSettings

from jpeg_build.errors import RepositoryError
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.repository import configs, tree
from jpeg_build.repository.artefacts import find_artefact, reported_artefact, served_report, served_version
from jpeg_build.repository.ensembles import preprocess_of
from jpeg_build.repository.serving import serving_args


@dataclass(frozen=True)
class Candidate:
    """An artefact that is evaluated, with the config that serves it.

    Attributes:
        form: Of the classifier, in its ensemble.
        version: Its number.
        served: Whether the config serves this version.
        in_use: Whether the ensemble's requests go to it now.
        report: Beside it.
        args: The arguments that open it, as Triton makes them.
        max_batch: The largest batch that it takes.
        sha256: Of its files.
        name: "openvino.int8"; with "@2" where several versions have the precision.
    """

    form: ClassifierForm
    version: int
    served: bool
    report: Report
    args: Mapping[str, str]
    max_batch: int
    sha256: str
    name: str
    in_use: bool = False

    @property
    def key(self) -> str:
        """Digest of what decides its logits on this machine, beside the packages: files and config."""
        config = json.loads(self.args["model_config"])
        decides = [self.sha256, self.form.loader, config, self.args["model_instance_kind"]]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def find_candidates(
    root: Path, recipe: Recipe, names: ModelNames, backends: Sequence[str], needed: Mapping[str, str]
) -> tuple[list[Candidate], list[str]]:
    """Find what is built from a recipe.

    Args:
        root: The model repository.
        recipe: Artefacts of another recipe, or of another state of it, are left out.
        names: Of the ensemble.
        backends: Forms that count; none counts all.
        needed: By form that must be there, what needs it.

    Returns:
        The artefacts, and a line for each that is left out.

    Raises:
        RepositoryError: A form that must be there is not built from this recipe.
    """
    found: list[Candidate] = []
    left_out: list[str] = []
    in_use = _in_use(root, names)
    for each in FORMS.values():
        form = each.of(names.ensemble)
        if backends and form.name not in backends:
            continue
        before = len(found)
        for version in _versions(root / form.model):
            try:
                candidate = _candidate(root, form, version, recipe)
                found.append(replace(candidate, in_use=(form.model, version) in in_use))
            except _LeftOut as reason:
                left_out.append(f"{form.model}/{version}: {reason}")
        if form.name in needed and len(found) == before:
            mine = [line for line in left_out if line.startswith(f"{form.model}/")]
            build = recipe.build_command(form, root, names.ensemble)
            raise RepositoryError(
                f"{needed[form.name]} needs a classifier that {root} does not have: no version of {form.model} can be "
                f"evaluated: {'; '.join(mine) or 'none is built'}. Build it with {build}",
                reason="not_built",
            )
    return _named(found), left_out


def _in_use(root: Path, names: ModelNames) -> set[tuple[str, int | None]]:
    """Return the classifiers, with their versions, that answer an ensemble's requests now."""
    ensemble = tree.read_config(root, names.ensemble)
    model = None if ensemble is None else chosen_classifier(ensemble)
    if model == names.router:
        router = tree.read_config(root, model)
        route = None if router is None else route_of(router)
        if route is None:
            return set()
        targets = [route.primary, *([route.candidate] if route.mode == "split" else [])]
        return {(each.model, each.version) for each in targets}
    form = form_of_model(model or "")
    return set() if form is None else {(form.model, served_version(root, form, None))}


class _LeftOut(Exception):
    """A version is not evaluated; the message is the reason."""


def _versions(folder: Path) -> list[int]:
    paths = folder.iterdir() if folder.is_dir() else []
    return sorted(int(path.name) for path in paths if path.is_dir() and path.name.isdecimal() and int(path.name) > 0)


def _candidate(root: Path, form: ClassifierForm, version: int, recipe: Recipe) -> Candidate:
    expected = find_artefact(root, form, version)
    report = find_report(expected)
    if report is None:
        raise _LeftOut("it has no report that can be used: it is not built, or by an earlier version")
    if report.recipe_sha256 != recipe.sha256 and not _fits(report, recipe):
        state = "another state of the recipe" if report.recipe == recipe.name else f"the recipe {report.recipe}"
        raise _LeftOut(f"it was built from {state}")
    config = tree.read_config(root, form.model)
    if config is None:
        raise _LeftOut("its config.pbtxt is missing")
    artefact = reported_artefact(expected, report)
    try:
        sha256 = artefact_sha256(artefact)
    except OSError as error:
        raise _LeftOut(f"{artefact.name} cannot be read: {error.strerror}") from error
    served = served_version(root, form, None) == version
    if not served:
        config = _config_of(root, form, config, report)
    return Candidate(
        form=form,
        version=version,
        served=served,
        report=report,
        args=serving_args(config, artefact.parent),
        max_batch=config.max_batch_size or 1,
        sha256=sha256,
        name=f"{form.name}.{report.precision}",
    )


def _fits(report: Report, recipe: Recipe) -> bool:
    """Whether a network of another recipe takes the same pixels, and its outputs mean the same labels."""
    if recipe.labels is None or not report.pixels_sha256:
        return False
    mine = configs.preprocess_settings(recipe).pixels_sha256
    labels = configs.postprocess_settings(recipe).labels_sha256(recipe.labels)
    return (report.pixels_sha256, report.labels_sha256) == (mine, labels)


def _config_of(root: Path, form: ClassifierForm, config: ModelConfig, report: Report) -> ModelConfig:
    """Return the config that `jpeg-build use` would write for a version that is not served."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    before = served_report(root, form)
    configs.apply_settings(changed, report.precision, report.config, None if before is None else before.config)
    return changed


def _named(found: Sequence[Candidate]) -> list[Candidate]:
    counts = Counter(each.name for each in found)
    return [replace(each, name=f"{each.name}@{each.version}") if counts[each.name] > 1 else each for each in found]


def preprocess_settings(
    root: Path, recipe: Recipe, names: ModelNames, built: Collection[Candidate]
) -> PreprocessSettings:
    """Return the settings with which the repository decodes; the recipe's if nothing is built.

    Raises:
        RepositoryError: They are not those of the recipe, or cannot be read.
    """
    wanted = configs.preprocess_settings(recipe)
    if not built:
        return wanted
    model = preprocess_of(root, names)
    config = tree.read_config(root, model)
    try:
        settings = wanted if config is None else PreprocessSettings.from_parameters(parameters(config))
    except SettingsError as error:
        raise RepositoryError(f"{root / model}: {error}", reason=error.reason) from error
    if settings.pixels_sha256 != wanted.pixels_sha256:
        again = recipe.build_command(ONNX, root, names.ensemble)
        raise RepositoryError(
            f"{root / model}: decodes for another recipe than {recipe.path}: build it again with {again}",
            reason="recipe_differs",
        )
    return settings
