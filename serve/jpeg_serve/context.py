"""The context of a repository's checks: its models, the machine, and the commands that fix a problem."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jpeg_contract.forms import FORMS, ONNX
from jpeg_contract.remedies import use_command
from jpeg_contract.report import Report, find_report
from jpeg_contract.step_digests import labels_digest, pixels_digest

from jpeg_serve.compatibility import gpus_used, incompatibilities, instance_incompatibilities
from jpeg_serve.machine import Machine, ServedWith
from jpeg_serve.models import Model, Version, recipe_of, served_models, step_names
from jpeg_serve.path_check import check_paths
from jpeg_serve.rebuild import NO_RECIPE, rebuild_command
from jpeg_serve.serving_backends import choose_backends


@dataclass(frozen=True)
class CheckContext:
    """All models of a repository, and the machine that serves it.

    Attributes:
        models: By their names.
        served: Those that Triton loads.
        machine: The machine.
        served_with: Which backend serves the models of each form, by the backend's name.
        mixed: Names of steps that are built from another recipe than the repository. `check_recipes` reports them, so
            that nothing else reports their shapes.
    """

    models: Mapping[str, Model]
    served: Collection[Model]
    machine: Machine
    served_with: Mapping[str, ServedWith]
    mixed: set[str] = field(default_factory=set)

    def build(
        self, model: Model, version: Version | None = None, report: Report | None = None, recipe: str = ""
    ) -> str:
        """Return the command that builds a version of a classifier again, with the options of its last build.

        Args:
            model: A classifier; of another model, the command that builds its recipe.
            version: The version, None for the newest.
            report: Of the last build.
            recipe: Its recipe, empty for that of the report or of the repository.
        """
        own = "" if report is None or model.name in self.mixed else report.recipe
        # Without a number, the newest would be built again.
        numbered = version is not None and (version.number != 1 or len(model.versions()) > 1)
        name = recipe or own or recipe_of(self.models, model.ensemble) or NO_RECIPE
        return rebuild_command(
            self._form_name(model),
            model.folder.parent,
            report,
            recipe=name,
            version=version.number if version is not None and numbered else None,
            ensemble=model.ensemble,
            runs_code=(report is None or report.recipe != name) and self._runs_code(name),
        )

    def _runs_code(self, recipe: str) -> bool:
        """Whether a recipe names code, by the reports on what was built from it."""
        models = (model for model in self.models.values() if model.form is not None)
        reports = (find_report(artefact) for model in models for _, artefact in model.artefacts())
        return any(report.runs_code for report in reports if report is not None and report.recipe == recipe)

    def _form_name(self, model: Model) -> str:
        """Return the form to build for a model: its own, else that of the classifier that is served."""
        form = FORMS.get(model.built_as) or model.form
        classifiers = sorted(
            (each for each in self.served if each.form is not None), key=lambda each: each.ensemble != model.ensemble
        )
        served = (each.form for each in classifiers if each.form is not None)
        return (form or next(served, ONNX)).name

    def alternatives(self, model: Model) -> str:
        """Return the alternatives to a classifier, as the end of a sentence; empty if no other one is built."""
        if model.form is None:
            return ""
        served = model.served() if model in self.served else []
        commands = [*self.built_versions(model, but=served)[:1], *self.built_classifiers(model.ensemble)]
        return f"; or use {' or '.join(commands)}" if commands else ""

    def built_classifiers(self, ensemble: str) -> list[str]:
        """Return the commands that choose another classifier for an ensemble: one that fits its steps and runs here."""
        return [
            use_command(other.built_as, other.folder.parent, ensemble=ensemble)
            for other in self.models.values()
            if other.ensemble == ensemble and other not in self.served and self._can_serve(other)
        ]

    def built_versions(self, model: Model, but: Collection[Version] = ()) -> list[str]:
        """Return the commands that choose another version of a classifier, likewise; the newest first.

        Args:
            model: The classifier.
            but: Versions that are no choice.
        """
        if not model.built_as or any(instance_incompatibilities(model.config, self.machine)):
            return []
        return [
            use_command(model.built_as, model.folder.parent, version=version.number, ensemble=model.ensemble)
            for version in reversed(model.versions())
            if version not in but and version.is_proper and self._is_built(model, version)
        ]

    def gpus_of(self, model: Model, report: Report) -> dict[int, str]:
        """Return the GPUs that a model runs on, if its artefact needs one: otherwise the driver is not queried."""
        if not report.requires.compute_capability or self.machine.natives is None:
            return {}
        return gpus_used(model.config, self.machine.gpus.capabilities)

    def _can_serve(self, model: Model) -> bool:
        if not model.built_as or not model.served():
            return False
        built = all(self._is_built(model, version) for version in model.served())
        return built and not any(instance_incompatibilities(model.config, self.machine))

    def _is_built(self, model: Model, version: Version) -> bool:
        """Whether a version exists, fits the steps of its ensemble, and runs here."""
        form = model.form
        if not model.file or form is None or any(check_paths(model)):
            return False
        artefact = version.folder / model.file
        report = find_report(artefact)
        if not artefact.exists() or report is None or not self._fits(model.ensemble, report):
            return False
        gpus = self.gpus_of(model, report)
        served_with = self.served_with.get(model.backend)
        return not any(incompatibilities(form, report.requires, self.machine, served_with, gpus, build=""))

    def _fits(self, ensemble: str, report: Report) -> bool:
        """Whether a classifier belongs between the steps of an ensemble.

        A step fits that makes the pixels or takes the logits of the classifier, whatever recipe it comes from. Reports
        of earlier builds do not say which those are: then the recipe stands for them, as in `check_recipes`.
        """
        for step in self._steps_of(ensemble):
            if step.is_preprocess:
                here, needed = pixels_digest(step.parameters), report.pixels_sha256
            else:
                here, needed = labels_digest(step.folder, step.parameters), report.labels_sha256
            fits = bool(here) and here == needed
            if not fits and step.parameter("recipe_sha256") not in ("", report.recipe_sha256):
                return False
        return True

    def _steps_of(self, ensemble: str) -> list[Model]:
        """Return the models that decode and label for an ensemble; without its config, those of its name."""
        whole = self.models.get(ensemble)
        own = {model.name for model in self.models.values() if model.ensemble == ensemble}
        names = own if whole is None else {*step_names(whole.config)}
        steps = (self.models[name] for name in names if name in self.models)
        return [step for step in steps if step.is_preprocess or step.is_postprocess]


def make_context(models: Mapping[str, Model], machine: Machine, load: Collection[str] = ()) -> CheckContext:
    """Return the context of a repository's checks.

    Args:
        models: All models of the repository.
        machine: The machine that serves.
        load: Names of the models to load, none for the ensembles.
    """
    served = served_models(models, list(load))
    return CheckContext(models, served, machine, choose_backends(models, served, machine))


def where_of(model: Model, version: Version, file: Path | str = "") -> str:
    """Return a version's folder, or a file in it, as problems name it."""
    return "/".join(part for part in (model.name, version.folder.name, str(file)) if part)
