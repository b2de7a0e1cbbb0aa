"""Makes an artefact in one precision, or in all of a form, and checks each as it will be served."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from jpeg_contract.command_line import Progress
from jpeg_contract.report import KnownClass, ParityResult

from jpeg_build.build.classifier_settings import classifier_config
from jpeg_build.build.int8 import int8_images
from jpeg_build.build.request import Request
from jpeg_build.checks import parity
from jpeg_build.checks.as_served import open_isolated, run_as_served
from jpeg_build.checks.parity_inputs import ParityInputs
from jpeg_build.checks.probe_classes import known_classes
from jpeg_build.checks.speed import compare_speed
from jpeg_build.emitters import Emitted, Job, emitter
from jpeg_build.emitters.int8_search import Int8Search
from jpeg_build.errors import BuildError, ParityError
from jpeg_build.repository.serving import serving_args


@dataclass(frozen=True)
class Candidate:
    """An artefact that was made, and is within its tolerance as it is served.

    Attributes:
        precision: Its precision.
        emitted: The artefact, with the parameters that its config gets.
        parity: How far it is from the network.
        probe: The classes that it may give the probe's photo.
        args: The arguments that open it, as Triton makes them.
    """

    precision: str
    emitted: Emitted
    parity: ParityResult
    probe: Sequence[KnownClass]
    args: Mapping[str, str]


def make_checked(request: Request, inputs: ParityInputs, precision: str, folder: Path, progress: Progress) -> Candidate:
    """Make the artefact in one precision in `folder`, which is empty, and check it as it will be served.

    Raises:
        BuildError: It cannot be made or run.
        ParityError: It is outside its tolerance under all settings.
    """
    version = folder / str(request.settled_version)
    job = Job(
        request.recipe,
        inputs.network,
        precision,
        version,
        inputs.photos,
        lambda: inputs.photos,
        request.options,
        progress,
    )
    if precision != "int8":
        return _make_once(request, inputs, job)
    images = int8_images(request, inputs, progress)
    search = Int8Search(images.inputs.photos, images.compared_on, images.judge)
    job = replace(job, calibration=lambda: images.calibration, int8=search)
    while True:
        try:
            return _make_once(request, images.inputs, job)
        except ParityError as fault:
            if search.is_exhausted or not search.goes_on_after(fault):
                raise ParityError(f"{fault}{images.advice}", reason=fault.reason) from fault
            progress(f"outside the tolerance as it is served ({fault}); trying the next form of int8")
            shutil.rmtree(version)


def _make_once(request: Request, inputs: ParityInputs, job: Job) -> Candidate:
    """Make one artefact, and check it as it will be served, with other parameters if need be.

    Raises:
        BuildError: It cannot be made or run.
        ParityError: It is outside its tolerance under all settings.
    """
    precision, progress = job.precision, job.progress
    job.folder.mkdir()
    emitted = emitter(request.form).emit(job)
    progress(f"comparing the {precision} artefact with the network, as the server runs it")
    try:
        return _check(request, inputs, precision, emitted)
    except ParityError as fault:
        first = fault
    for description, more in emitted.alternatives:
        changed = replace(emitted, parameters={**emitted.parameters, **more})
        named = ", ".join(f"{name}: {text}" for name, text in more.items())
        progress(f"outside the tolerance ({first.reason}); trying it with {named} ({description})")
        try:
            candidate = _check(request, inputs, precision, changed)
        except ParityError:
            continue
        note = f"the config gets {named} ({description}): without it, {first}"
        return replace(candidate, emitted=replace(changed, notes=[*changed.notes, note]))
    raise first


def fastest(
    request: Request, inputs: ParityInputs, scratch: Path, progress: Progress
) -> tuple[Candidate, dict[str, float | None]]:
    """Make and check every precision; return the fastest as served, and the speed of each (None for one left out).

    Raises:
        BuildError: None is within its tolerance.
    """
    made: dict[str, Candidate] = {}
    faults: dict[str, BuildError] = {}
    for precision in request.form.precisions:
        (scratch / precision).mkdir()
        try:
            made[precision] = make_checked(request, inputs, precision, scratch / precision, progress)
        except BuildError as fault:
            faults[precision] = fault
    if not made:
        raise BuildError("; ".join(f"{precision}: {fault}" for precision, fault in faults.items()))
    progress(f"measuring {', '.join(made)} on this machine")
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open_isolated(candidate.args)) for name, candidate in made.items()}
        measured = compare_speed({name: run.images_per_second for name, run in opened.items()}, inputs.photos)
    best = max(measured, key=measured.__getitem__)
    for precision in request.form.precisions:
        if precision in faults:
            progress(f"{precision}: left out: {faults[precision]}")
        else:
            progress(f"{precision}: {measured[precision]:.0f} images/s{', chosen' if precision == best else ''}")
    return made[best], {precision: measured.get(precision) for precision in request.form.precisions}


def _check(request: Request, inputs: ParityInputs, precision: str, emitted: Emitted) -> Candidate:
    """Run the artefact as it will be served, and compare. Raises BuildError, ParityError."""
    config = classifier_config(request, precision, emitted)
    args = serving_args(config, emitted.artefact.parent)
    judged = parity.judged_as(precision, inputs.network)
    outputs, logits = run_as_served(request.recipe, config, args, inputs, request.options.opt_batch)
    measured = parity.measure(inputs.reference, outputs, photos=len(inputs.photos), precision=judged)
    parity.check(measured, judged, precision)
    tie = parity.TOLERANCES[judged].tie * measured.largest_logit
    probe = known_classes(logits, inputs.network.labels, tie, head=request.recipe.output)
    return Candidate(precision, emitted, measured, probe, args)
