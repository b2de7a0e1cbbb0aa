"""Stages the artefact of a build, with the report on it."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.artefacts import artefact_bytes, artefact_sha256
from jpeg_contract.report import SCHEMA_VERSION, ArtefactFile, Report, WeightsSource, write_report
from jpeg_contract.versions import tool_versions

from jpeg_build.build.candidates import Candidate
from jpeg_build.build.classifier_settings import config_settings
from jpeg_build.build.request import Request, requested_options
from jpeg_build.checks import parity
from jpeg_build.checks.parity_inputs import ParityInputs
from jpeg_build.repository import configs


def stage_artefact(
    request: Request,
    inputs: ParityInputs,
    chosen: Candidate,
    folder: Path,
    speeds: dict[str, float | None] | None,
) -> Report:
    """Move the artefact with its report into `folder`, where they lie in the repository."""
    target = folder / request.form.model / str(request.settled_version)
    target.mkdir(parents=True)
    artefact, weights = chosen.emitted.artefact, inputs.network.weights
    report = Report(
        schema_version=SCHEMA_VERSION,
        recipe=request.recipe.name,
        recipe_sha256=request.recipe.sha256,
        form=request.form.name,
        precision=chosen.precision,
        classes=request.recipe.classes,
        input=[*request.recipe.geometry.crop_size, 3],
        artefact=ArtefactFile(file=artefact.name, bytes=artefact_bytes(artefact), sha256=artefact_sha256(artefact)),
        requires=chosen.emitted.requires,
        details=dict(chosen.emitted.details),
        config=config_settings(request, chosen.emitted),
        weights=WeightsSource(source=weights.source, sha256=weights.sha256),
        parity=chosen.parity,
        tolerance=parity.TOLERANCES[parity.judged_as(chosen.precision, inputs.network)],
        probe=list(chosen.probe),
        versions=tool_versions(),
        pixels_sha256=configs.preprocess_settings(request.recipe).pixels_sha256,
        labels_sha256=configs.postprocess_settings(request.recipe).labels_sha256(inputs.network.labels),
        requested=requested_options(request),
        images_per_second=speeds,
        quantisation=chosen.emitted.quantisation,
        runs_code=request.recipe.runs_code,
    )
    for path in sorted(artefact.parent.iterdir()):
        path.rename(target / path.name)
    write_report(report, target / artefact.name)
    return report
