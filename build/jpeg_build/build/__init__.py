"""One build: a recipe to a checked artefact in its place."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpeg_contract.command_line import Progress
from jpeg_contract.report import Report
from jpeg_contract.staging import PREFIX

from jpeg_build.build.artefact import stage_artefact
from jpeg_build.build.candidates import fastest, make_checked
from jpeg_build.build.inputs import prepare_inputs
from jpeg_build.build.notes import notes_on, warnings_on
from jpeg_build.build.request import AUTO, Request
from jpeg_build.build.steps import stage_repository
from jpeg_build.emitters import emitter
from jpeg_build.errors import CallError, ParityError
from jpeg_build.repository import tree


@dataclass(frozen=True)
class Built:
    """The result of a build.

    Attributes:
        report: On the artefact.
        notes: Lines for the user.
        warnings: Likewise, for probable faults.
    """

    report: Report
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()


def build(request: Request, progress: Progress) -> Built:
    """Export, check, and put in place.

    Raises:
        BuildError: It failed; what was in the repository before is still there.
    """
    form, precision = request.form, request.precision
    if precision not in (*form.precisions, AUTO):
        raise CallError(f"{form.name} has the precisions {', '.join(form.precisions)}, not {precision}")
    # First of all: a repository that cannot be written, or is being built already, fails before minutes are spent.
    with tree.staging(request.repository) as folder:
        emitter(form).require_tools(request.options)
        inputs = prepare_inputs(request, progress)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=PREFIX) as scratch:
            speeds: dict[str, float | None] | None = None
            if precision == AUTO:
                chosen, speeds = fastest(request, inputs, Path(scratch), progress)
            else:
                try:
                    chosen = make_checked(request, inputs, precision, Path(scratch), progress)
                except ParityError as error:
                    raise ParityError(f"{error}. Nothing was put in place.", reason=error.reason) from error
            report = stage_artefact(request, inputs, chosen, folder, speeds)
        stage_repository(request, folder, inputs.network.labels, chosen)
        tree.place(folder, request.repository)
    return Built(report, [*chosen.emitted.notes, *notes_on(request)], warnings_on(request, inputs, report))
