"""One build: a recipe to a checked artefact in its place."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from jpeg_build import configs, parity, repository
from jpeg_build import report as reports
from jpeg_build.artefacts import find_report, served_report, this_gpu
from jpeg_build.built_network import find_built
from jpeg_build.commands import build_command, use_command
from jpeg_build.emitters import Emitted, Job, Logits, Options, Pixels, Run, Say, emitter
from jpeg_build.errors import BuildError, CallError, NetworkError, ParityError
from jpeg_build.network import Network
from jpeg_build.networks import load_network
from jpeg_build.photos import PHOTOS, digest, load_photos, random_pixels
from jpeg_build.recipe import Recipe
from jpeg_build.report import Report
from jpeg_build.speed import images_per_second
from jpeg_build.targets import BY_MODEL, TARGETS, Target

AUTO = "auto"


@dataclass(frozen=True)
class Request:
    """What is to be built.

    precision: one of the backend's, or "auto": the fastest on this machine of those within their tolerance.
    version: number of the version's folder; None takes the newest that is there, or 1.
    checkpoint, random_weights: instead of the weights that the recipe names; not for ONNX files.
    from_onnx: the network is what classifier_onnx in the repository is, which was compared with the trained one.
    photos: a folder of JPEGs that the artefact is checked on. calibration: a folder of JPEGs that int8 measures the
    ranges of its values on; None takes `photos`.
    """

    recipe: Recipe
    repository: Path
    backend: str = "onnx"
    precision: str = "fp32"
    version: int | None = None
    checkpoint: Path | None = None
    random_weights: bool = False
    from_onnx: bool = False
    photos: Path = PHOTOS
    calibration: Path | None = None
    options: Options = field(default_factory=Options)

    @property
    def target(self) -> Target:
        """What is built for."""
        return TARGETS[self.backend]

    @property
    def settled_version(self) -> int:
        """The version that is built: a number."""
        return self.version or repository.newest_version(self.repository, self.target.model) or 1


@dataclass(frozen=True)
class Question:
    """What every candidate is asked, and what the network itself answers."""

    network: Network
    photos: Pixels
    noise: Pixels
    reference: Logits

    @property
    def pixels(self) -> Pixels:
        """Photos, then noise."""
        return np.concatenate([self.photos, self.noise])


@dataclass(frozen=True)
class Candidate:
    """An artefact that was made, and is within its tolerance."""

    precision: str
    emitted: Emitted
    parity: parity.Parity


def build(request: Request, say: Say) -> tuple[Report, list[str]]:
    """Export, check, and put in place; returns the report, and lines for the user. `say` is told what is going on.

    Raises BuildError; what was in the repository before is then still there.
    """
    target, wanted = request.target, request.precision
    if wanted not in (*target.precisions, AUTO):
        raise CallError(f"{target.name} has the precisions {', '.join(target.precisions)}, not {wanted}")
    # First of all: what cannot be written, or is being built already, is said before minutes are spent.
    with repository.staging(request.repository) as folder:
        emitter(target).require_tools(request.options)
        question = ask(request, say)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=repository.STAGING) as scratch:
            if wanted == AUTO:
                chosen, speeds = _fastest(request, question, Path(scratch), say)
            else:
                try:
                    chosen, speeds = _make(request, question, wanted, Path(scratch), say), None
                except ParityError as fault:
                    raise ParityError(f"{fault}. Nothing was put in place.") from fault
            report = _stage_artefact(request, question, chosen, folder, speeds)
        stage_repository(request, folder, question.network.labels, chosen.emitted)
        repository.place(folder, request.repository)
    return report, [*chosen.emitted.notes, *_notes(request)]


def ask(request: Request, say: Say) -> Question:
    """Load the network and ask it about photos and noise. Raises BuildError."""
    network = load_network(
        request.recipe,
        request.backend,
        checkpoint=request.checkpoint,
        random=request.random_weights,
        built=request.repository if request.from_onnx else None,
        say=say,
    )
    photos = load_photos(request.photos, request.recipe, purpose="check the artefact on", option="--photos")
    noise = random_pixels(request.recipe)
    say(f"asking the network about {len(photos)} photos and {len(noise)} images of noise")
    reference = parity.run_in_batches(network.reference, np.concatenate([photos, noise]))
    if not np.isfinite(reference).all():
        raise NetworkError(
            f"{network.weights.source}: the network itself, in fp32, answers NaN or infinity for some of the photos or "
            "of the images of noise: check its weights, and the recipe's [normalisation]"
        )
    return Question(network, photos, noise, reference)


def _make(request: Request, question: Question, precision: str, folder: Path, say: Say) -> Candidate:
    """Make the artefact in one precision in `folder`, which is empty, and measure it.

    Raises BuildError if it cannot be made or run, ParityError if it is outside its tolerance.
    """

    def calibration_images() -> Pixels:
        if request.calibration is None:
            return question.photos
        return load_photos(
            request.calibration,
            request.recipe,
            purpose="calibrate int8 on",
            option="--calibration",
            skipped=lambda line: say(f"left out of the calibration: {line}"),
        )

    job = Job(
        request.recipe,
        question.network,
        precision,
        folder,
        question.photos,
        calibration_images,
        request.options,
        say,
    )
    made = emitter(request.target).emit(job)
    say(f"comparing the {precision} artefact with the network")
    answers = answers_of(emitter(request.target), made.artefact, question.pixels)
    judged = parity.judged_as(precision, question.network)
    try:
        measured = parity.measure(question.reference, answers, photos=len(question.photos), precision=judged)
        parity.check(measured, judged, precision)
    except ParityError as fault:
        raise ParityError(f"{fault}{_advice(made, precision)}") from fault
    return Candidate(precision, made, measured)


def _advice(made: Emitted, precision: str) -> str:
    if precision != "int8":
        return ""
    return (
        f". The ranges of int8 came from {made.details.get('calibration_images')} images: take more of them, of the "
        "kind that is checked on, with --calibration DIR, or --precision fp16"
    )


class Opener(Protocol):
    """What can run an artefact: an emitter, or a server that has it."""

    def opened(self, artefact: Path, /) -> AbstractContextManager[Run]:
        """See Emitter."""
        ...


def answers_of(backend: Opener, artefact: Path, pixels: Pixels) -> Logits:
    """What an artefact says of pixels, in batches of several sizes.

    Raises BuildError with the head of what its runtime says, if it cannot run it.
    """
    with backend.opened(artefact) as run:
        try:
            return parity.run_in_batches(run, pixels)
        except BuildError:
            raise
        except Exception as error:  # each runtime has exceptions of its own
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise BuildError(f"{artefact.name} cannot be run: {said}") from error


def _fastest(
    request: Request, question: Question, scratch: Path, say: Say
) -> tuple[Candidate, dict[str, float | None]]:
    """Make every precision; the fastest of those within tolerance, and the speed of each (None for one left out).

    Raises BuildError if there is none.
    """
    made: dict[str, Candidate] = {}
    faults: dict[str, BuildError] = {}
    for precision in request.target.precisions:
        (scratch / precision).mkdir()
        try:
            made[precision] = _make(request, question, precision, scratch / precision, say)
        except BuildError as fault:
            faults[precision] = fault
    if not made:
        raise BuildError("; ".join(f"{precision}: {fault}" for precision, fault in faults.items()))
    say(f"measuring {', '.join(made)} on this machine")
    measured = images_per_second(
        {precision: candidate.emitted.artefact for precision, candidate in made.items()},
        emitter(request.target),
        question.photos,
    )
    best = max(measured, key=measured.__getitem__)
    for precision in request.target.precisions:
        if precision in faults:
            say(f"{precision}: left out: {faults[precision]}")
        else:
            say(f"{precision}: {measured[precision]:.0f} images/s{', taken' if precision == best else ''}")
    return made[best], {precision: measured.get(precision) for precision in request.target.precisions}


def _stage_artefact(
    request: Request, question: Question, chosen: Candidate, folder: Path, speeds: dict[str, float | None] | None
) -> Report:
    """Move the artefact with its report into `folder`, as they are to lie in the repository."""
    target = folder / request.target.model / str(request.settled_version)
    target.mkdir(parents=True)
    report = reports.make(
        request.recipe,
        backend=request.backend,
        precision=chosen.precision,
        emitted=chosen.emitted,
        settings=_settings(request, chosen.emitted),
        weights=question.network.weights,
        parity=chosen.parity,
        tolerance=parity.TOLERANCES[parity.judged_as(chosen.precision, question.network)],
    )
    # What else decided what was built, so that another wish is not taken for what is there.
    report["asked"] = _asked(request)
    if speeds is not None:
        report["images_per_second"] = speeds
    source = chosen.emitted.artefact.parent
    for path in sorted(source.iterdir()):
        path.rename(target / path.name)
    reports.write(report, reports.report_path(target / chosen.emitted.artefact.name))
    return report


def _asked(request: Request) -> dict[str, object]:
    options = {key: value for key, value in asdict(request.options).items() if not isinstance(value, Path)}
    return {
        "precision": request.precision,
        "photos": digest(request.photos),
        "calibration": None if request.calibration is None else digest(request.calibration),
        **({"from_onnx": _onnx_sha256(request)} if request.from_onnx else {}),
        **{key: value for key, value in options.items() if key not in ("timing_cache", "keep_onnx")},
    }


def _onnx_sha256(request: Request) -> str:
    """Digest of the ONNX file that the network is taken from: another file is another network."""
    _, report = find_built(request.recipe, request.repository)
    return str(report["artefact"]["sha256"])


def _settings(request: Request, emitted: Emitted) -> configs.ArtefactSettings:
    capability = emitted.requires.get("compute_capability")
    return configs.ArtefactSettings(
        on_gpu=capability is not None,
        max_batch=None if capability is None else request.options.max_batch,
        parameters=dict(emitted.parameters),
        engines={str(capability): emitted.artefact.name} if request.options.per_gpu else {},
    )


def stage_repository(request: Request, folder: Path, labels: Sequence[str], emitted: Emitted | None = None) -> None:
    """Everything but the artefact: configs, labels, and the Python models where they are not yet."""
    recipe, target = request.recipe, request.target
    classifier = configs.classifier_config(recipe, target)
    built = {
        config.name: config
        for config in (
            configs.preprocess_config(recipe),
            classifier,
            configs.postprocess_config(recipe),
            configs.ensemble_config(classifier.name),
        )
    }
    adjust = {}
    existing = repository.read_config(request.repository, classifier.name)
    served = configs.pinned_version(existing) if existing is not None else None
    # A version that is not served leaves the config to the one that is.
    if emitted is not None and served in (None, request.settled_version):
        before = served_report(request.repository, target)
        adjust[classifier.name] = functools.partial(
            configs.apply_settings,
            settings=_settings(request, emitted),
            before=None if before is None else reports.settings_of(before),
        )
    repository.stage_configs(request.repository, folder, built, adjust)
    repository.stage_sources(request.repository, folder)
    for model in (classifier.name, configs.POSTPROCESS):
        file = folder / model / configs.LABELS
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def is_up_to_date(request: Request) -> bool:
    """Whether the repository holds what this request would build, made by the same versions of the tools.

    Takes no framework into memory, so that it is quick.
    """
    root, target = request.repository, request.target
    folder = root / target.model / str(request.settled_version)
    made = reports.read(find_report(root, target, request.settled_version))
    if made is None or request.checkpoint is not None or request.random_weights:
        return False  # a checkpoint may have changed under its name
    needed = made.get("requires", {}).get("compute_capability")
    if needed is not None and needed != this_gpu():
        return False
    wanted = {
        "recipe_sha256": request.recipe.sha256,
        "backend": request.backend,
        "asked": _asked(request),
        "versions": reports.versions(),
    }
    if any(made.get(key) != value for key, value in wanted.items()):
        return False
    if not request.from_onnx and str(made["weights"]["source"]).startswith(("random", "checkpoint")):
        return False
    artefact = folder / str(made["artefact"]["file"])
    others = [
        *(root / model / repository.CONFIG for model in (configs.ENSEMBLE, target.model)),
        *(root / model / "1" / "model.py" for model in (configs.PREPROCESS, configs.POSTPROCESS)),
        *(root / model / configs.LABELS for model in (target.model, configs.POSTPROCESS)),
        root / configs.ENSEMBLE / "1",
    ]
    if not all(path.exists() for path in (artefact, *others)):
        return False
    try:
        same = reports.artefact_sha256(artefact) == made["artefact"]["sha256"]
    except OSError:
        return False
    return same and all(
        (config := repository.read_config(root, model)) is not None
        and config.parameters["recipe_sha256"].string_value == request.recipe.sha256
        for model in (configs.PREPROCESS, configs.POSTPROCESS)
    )


def _notes(request: Request) -> list[str]:
    """What a user should know after a build: his choices that the build left alone."""
    found = []
    target, root = request.target, request.repository
    ensemble = repository.read_config(root, configs.ENSEMBLE)
    chosen = configs.chosen_classifier(ensemble) if ensemble is not None else None
    if chosen != target.model:
        path = root / configs.ENSEMBLE / repository.CONFIG
        use = use_command(target.name, root)
        other = BY_MODEL.get(chosen or "")
        report = served_report(root, other) if other is not None else None
        if other is not None and report is not None and report.get("recipe_sha256") != request.recipe.sha256:
            found.append(
                f"THE ENSEMBLE CANNOT BE SERVED AS IT IS: {path} uses {chosen}, which was built from another recipe "
                f"({report['recipe']}) than the steps around it now ({request.recipe.name}). Run {use}, or "
                f"{build_command(request.recipe.word, other.name, root)}"
            )
        else:
            found.append(f"{path} uses {chosen}; to use {target.model}, edit that word, or run: {use}")
    classifier = repository.read_config(root, target.model)
    if classifier is not None:
        served = configs.pinned_version(classifier)
        if served not in (None, request.settled_version):
            found.append(
                f"{target.model} serves version {served}; to serve version {request.settled_version}: "
                f"{use_command(target.name, root, version=request.settled_version)}"
            )
        if ensemble is not None and ensemble.max_batch_size > classifier.max_batch_size:
            found.append(
                f"{target.model} takes batches up to {classifier.max_batch_size}, and {configs.ENSEMBLE} promises "
                f"{ensemble.max_batch_size}: lower max_batch_size there, or build with a larger --max-batch"
            )
    if request.options.min_batch > 1 and target.name in ("tensorrt", "torch_tensorrt"):
        found.append(
            f"a request with fewer than {request.options.min_batch} images is filled up by this project's backend, and "
            "refused by the container's native one"
        )
    for model in (configs.PREPROCESS, configs.POSTPROCESS):
        path = root / model / "1" / "model.py"
        if repository.differs_from_checkout(path, model):
            found.append(f"{path} differs from this project's and was left alone; delete it to have it renewed")
    return found


def say_on_stderr(message: str) -> None:
    """One line of progress."""
    print(f"jpeg-build: {message} ...", file=sys.stderr, flush=True)
