"""Describe the inside of an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from jpeg_contract.artefacts import artefact_bytes
from jpeg_contract.forms import FORMS, TF_TRT, ClassifierForm, form_of_model
from jpeg_contract.report import Report, find_report
from jpeg_contract.tensors import ENSEMBLE

from jpeg_build.emitters import emitter
from jpeg_build.errors import BuildError
from jpeg_build.repository.artefacts import find_artefact, reported_artefact, require_built, served_version


def inspect_artefact(root: Path, name: str, version: str | None, ensemble: str = ENSEMBLE) -> dict[str, Any]:
    """Describe the artefact of a form in the repository, or a file or folder of one of these kinds.

    Args:
        root: The model repository.
        name: A form, its classifier's name or folder, or an artefact.
        version: Of the classifier; None is the served one.
        ensemble: Whose classifier a form is.

    Raises:
        BuildError: There is none, or it cannot be read.
    """
    named = FORMS.get(name)
    built = named.of(ensemble) if named is not None else form_of_model(Path(name).name)
    report: Report | None
    if built is not None and (
        name in (built.name, built.model) or Path(name).resolve() == (root / built.model).resolve()
    ):
        form = built
        report = require_built(root, form, version)
        number = served_version(root, form, version)
        assert number is not None, "it is built"
        artefact = reported_artefact(find_artefact(root, form, number), report)
    else:
        artefact = Path(name)
        form = _form_of(artefact)
        report = find_report(artefact)
    if not artefact.exists():
        raise BuildError(f"{artefact}: there is no such file", reason="artefact_missing")
    found = {"artefact": artefact.name, "backend": form.name, "bytes": artefact_bytes(artefact)}
    return {**found, **emitter(form).inspect(artefact), "report": msgspec.to_builtins(report)}


def _form_of(path: Path) -> ClassifierForm:
    form = next((form for form in FORMS.values() if path.suffix in form.suffixes), None)
    if form is None and (path / "saved_model.pb").is_file():
        form = TF_TRT
    if form is None:
        endings = ", ".join(suffix for form in FORMS.values() for suffix in form.suffixes)
        raise BuildError(
            f"{path}: neither a backend ({', '.join(FORMS)}) nor, by its name, an artefact ({endings})",
            reason="unknown_artefact",
        )
    return form
