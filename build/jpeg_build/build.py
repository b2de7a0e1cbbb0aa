"""One build: a recipe to a checked artefact in its place."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.artefacts import artefact_bytes, artefact_sha256
from jpeg_contract.command_line import Progress
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.forms import FORMS, ClassifierForm, form_of_model
from jpeg_contract.model_config import (
    CONFIG,
    ModelConfig,
    chosen_classifier,
    maker,
    parameters,
    pinned_version,
    rename_step,
    route_of,
)
from jpeg_contract.model_names import ModelNames
from jpeg_contract.remedies import build_command, use_command
from jpeg_contract.report import (
    SCHEMA_VERSION,
    ArtefactFile,
    ConfigSettings,
    KnownClass,
    ParityResult,
    Report,
    ToleranceUsed,
    WeightsSource,
    find_report,
    write_report,
)
from jpeg_contract.resources import PHOTOS
from jpeg_contract.settings import Head
from jpeg_contract.tensors import ENSEMBLE, LABELS_FILE, PIXELS
from jpeg_contract.versions import tool_versions
from jpeg_runtime.isolated import IsolatedClassifier, RuntimeFailure

from jpeg_build.checks import parity
from jpeg_build.checks.speed import compare_speed
from jpeg_build.emitters import Emitted, Job, Logits, Options, Pixels, emitter
from jpeg_build.errors import BuildError, CallError, NetworkError, ParityError, RepositoryError
from jpeg_build.gpu import this_capability
from jpeg_build.networks.built_network import find_built
from jpeg_build.networks.load import load_network
from jpeg_build.networks.network import Network
from jpeg_build.photos import digest, load_photos, probe_pixels, random_pixels
from jpeg_build.recipe.outputs import to_scores
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.repository import configs, tree
from jpeg_build.repository.artefacts import find_artefact, reported_artefact, served_report
from jpeg_build.repository.ensembles import PreprocessChoice, choose_preprocess, preprocess_of
from jpeg_build.repository.serving import serving_args

AUTO = "auto"

# Ranges of values hardly change with more, and all are in memory at once (150 kB each at 224x224).
CALIBRATION_PHOTOS = 1000

# More classes than these for one photo say that the network does not know.
_MOST_PROBE_CLASSES = 5
# Below this many photos, one class for all of them may be right.
_SEVERAL_PHOTOS = 4


@dataclass(frozen=True)
class Request:
    """One build that is requested.

    Attributes:
        recipe: Of the network.
        repository: The model repository; made if it is not there.
        ensemble: Name of the model that clients know.
        backend: Name of the classifier form.
        precision: One of the form's, or "auto": the fastest on this machine of those within their tolerance.
        version: Number of the version's folder; None takes the newest that is there, or 1.
        checkpoint: Weights instead of those that the recipe names; not for ONNX files.
        random_weights: Likewise.
        trust_code: Run the Python file that the recipe names.
        from_onnx: Take the network from classifier_onnx in the repository, which was compared with the trained one.
        photos: A folder of JPEGs that the artefact is checked on.
        calibration: A folder of JPEGs that int8 takes the ranges of its values from; None takes `photos`.
        options: See Options.
    """

    recipe: Recipe
    repository: Path
    ensemble: str = ENSEMBLE
    backend: str = "onnx"
    precision: str = "fp32"
    version: int | None = None
    checkpoint: Path | None = None
    random_weights: bool = False
    trust_code: bool = False
    from_onnx: bool = False
    photos: Path = PHOTOS
    calibration: Path | None = None
    options: Options = field(default_factory=Options)

    @property
    def form(self) -> ClassifierForm:
        """The classifier form."""
        return FORMS[self.backend].of(self.ensemble)

    @property
    def names(self) -> ModelNames:
        """Of the ensemble's models."""
        return ModelNames(self.ensemble)

    @property
    def settled_version(self) -> int:
        """Number of the version that is built."""
        return self.version or tree.newest_version(self.repository, self.form.model) or 1


@dataclass(frozen=True)
class ParityInputs:
    """The images that every candidate is checked on, and the network's own logits.

    Attributes:
        network: The trained network.
        photos: (N, H, W, 3) uint8.
        noise: (M, H, W, 3) uint8.
        reference: (N + M, classes) float32 logits of the network, in fp32.
    """

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
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=tree.STAGING) as scratch:
            speeds: dict[str, float | None] | None = None
            if precision == AUTO:
                chosen, speeds = _fastest(request, inputs, Path(scratch), progress)
            else:
                try:
                    chosen = _make_checked(request, inputs, precision, Path(scratch), progress)
                except ParityError as error:
                    raise ParityError(f"{error}. Nothing was put in place.", reason=error.reason) from error
            report = _stage_artefact(request, inputs, chosen, folder, speeds)
        stage_repository(request, folder, inputs.network.labels, chosen)
        tree.place(folder, request.repository)
    return Built(report, [*chosen.emitted.notes, *_notes(request)], _warnings(request, inputs, report))


def prepare_inputs(request: Request, progress: Progress) -> ParityInputs:
    """Load the network and run it on photos and noise. Raises BuildError."""
    network = load_network(
        request.recipe,
        request.form,
        checkpoint=request.checkpoint,
        random=request.random_weights,
        built=request.repository if request.from_onnx else None,
        trust_code=request.trust_code,
        progress=progress,
    )
    photos = load_photos(request.photos, request.recipe, purpose="check the artefact on", option="--photos")
    noise = random_pixels(request.recipe)
    progress(f"running the network on {len(photos)} photos and {len(noise)} images of noise")
    pixels = np.concatenate([photos, noise])
    step = 16  # frameworks keep the activations of a whole batch
    reference = np.concatenate([network.reference(pixels[at : at + step]) for at in range(0, len(pixels), step)])
    if not np.isfinite(reference).all():
        raise NetworkError(
            f"{network.weights.source}: the network itself, in fp32, returns NaN or infinity for some of the photos or "
            "the images of noise: check its weights, and the recipe's [normalisation]",
            reason="network_not_finite",
        )
    return ParityInputs(network, photos, noise, reference)


def _make_checked(
    request: Request, inputs: ParityInputs, precision: str, folder: Path, progress: Progress
) -> Candidate:
    """Make the artefact in one precision in `folder`, which is empty, and check it as it will be served.

    Raises:
        BuildError: It cannot be made or run.
        ParityError: It is outside its tolerance under all settings.
    """

    def calibration_images() -> Pixels:
        if request.calibration is None:
            return inputs.photos
        return load_photos(
            request.calibration,
            request.recipe,
            purpose="calibrate int8 on",
            option="--calibration",
            at_most=CALIBRATION_PHOTOS,
            skipped=lambda line: progress(f"left out of the calibration: {line}"),
        )

    version = folder / str(request.settled_version)
    version.mkdir()
    emitted = emitter(request.form).emit(
        Job(
            request.recipe,
            inputs.network,
            precision,
            version,
            inputs.photos,
            calibration_images,
            request.options,
            progress,
        )
    )
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
    raise ParityError(f"{first}{_advice(emitted, precision)}", reason=first.reason)


def _check(request: Request, inputs: ParityInputs, precision: str, emitted: Emitted) -> Candidate:
    """Run the artefact as it will be served, and compare. Raises BuildError, ParityError."""
    config = _classifier_config(request, precision, emitted)
    args = serving_args(config, emitted.artefact.parent)
    judged = parity.judged_as(precision, inputs.network)
    outputs, logits = run_as_served(request.recipe, config, args, inputs, request.options.opt_batch)
    measured = parity.measure(inputs.reference, outputs, photos=len(inputs.photos), precision=judged)
    parity.check(measured, judged, precision)
    tie = parity.TOLERANCES[judged].tie * measured.largest_logit
    probe = known_classes(logits, inputs.network.labels, tie, head=request.recipe.output)
    return Candidate(precision, emitted, measured, probe, args)


def run_as_served(
    recipe: Recipe, config: ModelConfig, args: Mapping[str, str], inputs: ParityInputs, opt_batch: int
) -> tuple[parity.Outputs, Logits]:
    """Run an artefact in batches of several sizes, in processes of its own, as Triton's worker does.

    A server with several CPUs spreads a batch over them in another way than one with a single CPU. So a machine with
    one checks both.

    Returns:
        The logits of the images by batch size, and those of the probe's photo, (rows, classes).

    Raises:
        BuildError: The artefact cannot be opened or run.
    """
    on_cpu = args["model_instance_kind"] == "CPU"
    photo = probe_pixels(recipe)
    batches: list[int] = []
    logits: list[Logits] = []
    probe: list[Logits] = []
    for cpus in sorted({usable_cpus(), max(2, usable_cpus())}) if on_cpu else [usable_cpus()]:
        sizes = parity.batch_sizes(cpus=cpus, opt=opt_batch, largest=config.max_batch_size)
        with open_isolated(args, cpus=cpus) as run:
            found = parity.run_in_batches(run, inputs.pixels, sizes)
            probe += [run(photo[:1]), run(photo[1:]), run(np.concatenate([photo, photo[:1]]))]
        batches += found.batches
        logits += found.logits
    return parity.Outputs(tuple(batches), tuple(logits)), np.concatenate(probe)


@contextmanager
def open_isolated(args: Mapping[str, str], *, cpus: int | None = None) -> Iterator[IsolatedClassifier]:
    """Open an artefact in a process of its own. Raises BuildError if it cannot be opened or run."""
    try:
        with IsolatedClassifier(args, cpus=cpus) as run:
            yield run
    except RuntimeFailure as error:
        raise BuildError(f"the artefact cannot be served: {error}", reason=error.reason) from error


def known_classes(logits: Logits, labels: Sequence[str], tie: float, *, head: Head = "softmax") -> list[KnownClass]:
    """Return the classes that may be best for a photo, best first; none if the network does not know.

    Args:
        logits: (rows, classes) of the photo, decoded and batched in several ways.
        labels: Of the classes.
        tie: Classes nearer to the best than this may take its place.
        head: How logits become scores.
    """
    possible = (logits >= logits.max(axis=1, keepdims=True) - tie).any(axis=0)
    scores = to_scores(logits, head).mean(axis=0)
    best = sorted(np.flatnonzero(possible).tolist(), key=lambda index: -scores[index])
    if len(best) > _MOST_PROBE_CLASSES:
        return []
    return [KnownClass(index=index, label=labels[index], score=round(float(scores[index]), 4)) for index in best]


def _advice(made: Emitted, precision: str) -> str:
    if precision != "int8":
        return ""
    return (
        f". The ranges of int8 came from {made.details.get('calibration_images')} images: give more, of the kind that "
        "the server gets, with --calibration DIR, or use --precision fp16"
    )


def _fastest(
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
            made[precision] = _make_checked(request, inputs, precision, scratch / precision, progress)
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


def _stage_artefact(
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
        config=_settings(request, chosen.emitted),
        weights=WeightsSource(source=weights.source, sha256=weights.sha256),
        parity=chosen.parity,
        tolerance=ToleranceUsed(**asdict(parity.TOLERANCES[parity.judged_as(chosen.precision, inputs.network)])),
        probe=list(chosen.probe),
        versions=tool_versions(),
        pixels_sha256=configs.preprocess_settings(request.recipe).pixels_sha256,
        labels_sha256=configs.postprocess_settings(request.recipe).labels_sha256(inputs.network.labels),
        requested=_requested(request),
        images_per_second=speeds,
    )
    for path in sorted(artefact.parent.iterdir()):
        path.rename(target / path.name)
    write_report(report, target / artefact.name)
    return report


def _requested(request: Request) -> dict[str, Any]:
    """Return the options that decide what is built, so that a build with others is not taken for this one."""
    options = {key: value for key, value in asdict(request.options).items() if not isinstance(value, Path)}
    return {
        "precision": request.precision,
        "photos": digest(request.photos, request.recipe.formats),
        "calibration": None if request.calibration is None else digest(request.calibration, request.recipe.formats),
        **({"from_onnx": _onnx_sha256(request)} if request.from_onnx else {}),
        **{key: value for key, value in options.items() if key not in ("timing_cache", "keep_onnx")},
    }


def _onnx_sha256(request: Request) -> str:
    """Return the digest of the ONNX file that the network is taken from: another file is another network."""
    _, report = find_built(request.recipe, request.repository, request.ensemble)
    return report.artefact.sha256


def _settings(request: Request, emitted: Emitted) -> ConfigSettings:
    capability = emitted.requires.compute_capability
    return ConfigSettings(
        on_gpu=bool(capability),
        max_batch=request.options.max_batch if capability else None,
        parameters=dict(emitted.parameters),
        engines={capability: emitted.artefact.name} if request.options.per_gpu else {},
    )


def _apply_settings(request: Request, precision: str, emitted: Emitted) -> Callable[[ModelConfig], None]:
    before = served_report(request.repository, request.form)
    return functools.partial(
        configs.apply_settings,
        precision=precision,
        settings=_settings(request, emitted),
        before=None if before is None else before.config,
    )


def _version_to_serve(request: Request) -> int:
    """Return the version that Triton serves once this one is in place."""
    existing = tree.read_config(request.repository, request.form.model)
    newest = tree.newest_version(request.repository, request.form.model) or 0
    return (pinned_version(existing) if existing is not None else None) or max(newest, request.settled_version)


def _classifier_config(request: Request, precision: str, emitted: Emitted) -> ModelConfig:
    """Return the config that serves the artefact, with the user's edits."""
    built = configs.classifier_config(request.recipe, request.form)
    existing = tree.read_config(request.repository, request.form.model)
    return tree.merged_config(existing, built, _apply_settings(request, precision, emitted))


def stage_repository(request: Request, folder: Path, labels: Sequence[str], chosen: Candidate | None = None) -> None:
    """Stage everything but the artefact: configs, labels, and the Python models where they are missing."""
    recipe, form, names, root = request.recipe, request.form, request.names, request.repository
    chosen_preprocess = choose_preprocess(root, names, configs.preprocess_settings(recipe))
    _stage_moved(root, folder, chosen_preprocess)
    preprocess = chosen_preprocess.model
    steps = [
        *([] if chosen_preprocess.is_shared else [configs.preprocess_config(recipe, preprocess)]),
        configs.classifier_config(recipe, form),
        configs.postprocess_config(recipe, names.postprocess),
    ]
    built = {config.name: config for config in steps}
    adjust = {}
    # A version that is not served leaves the config to the one that is.
    if chosen is not None and request.settled_version == _version_to_serve(request):
        adjust[form.model] = _apply_settings(request, chosen.precision, chosen.emitted)
    tree.stage_configs(root, folder, built, adjust)
    _stage_ensemble(request, folder, preprocess)
    tree.stage_sources(root, folder, [preprocess, names.postprocess], names.ensemble)
    for model in (form.model, names.postprocess):
        file = folder / model / LABELS_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def _stage_ensemble(request: Request, folder: Path, preprocess: str) -> None:
    """Stage the ensemble; one that is there keeps its text, but for the name of the model that decodes."""
    root, name = request.repository, request.ensemble
    existing = tree.read_config(root, name)
    used = maker(existing, PIXELS) if existing is not None else None
    if used is not None and used != preprocess:
        text = (root / name / CONFIG).read_text(encoding="utf-8")
        tree.stage_text(folder, name, rename_step(text, used, preprocess))
        return
    config = configs.ensemble_config(request.form.model, request.names, preprocess=preprocess)
    tree.stage_configs(root, folder, {name: config})


def _stage_moved(root: Path, folder: Path, choice: PreprocessChoice) -> None:
    """Give other ensembles a copy of the model that decodes, as it was, before this build changes it."""
    before = tree.read_config(root, choice.model)
    if not choice.moved or before is None:
        return
    for ensemble, copy in choice.moved.items():
        config = ModelConfig()
        config.CopyFrom(before)
        config.name = copy
        tree.stage_text(folder, copy, configs.to_text(config))
        text = (root / ensemble / CONFIG).read_text(encoding="utf-8")
        tree.stage_text(folder, ensemble, rename_step(text, choice.model, copy))
        (folder / copy / "1").mkdir(exist_ok=True)
        shutil.copyfile(root / choice.model / "1" / "model.py", folder / copy / "1" / "model.py")


def is_up_to_date(request: Request) -> bool:
    """Whether the repository holds what this request would build, made by the same versions of the tools.

    Loads no framework, so that it is quick.
    """
    root, form = request.repository, request.form
    artefact = find_artefact(root, form, request.settled_version)
    made = find_report(artefact)
    if made is None or request.checkpoint is not None or request.random_weights:
        return False  # a checkpoint may have changed under its name
    needed = made.requires.compute_capability
    if needed and needed != this_capability():
        return False
    if (made.recipe_sha256, made.form, made.requested, made.versions) != (
        request.recipe.sha256,
        request.backend,
        _requested(request),
        tool_versions(),
    ):
        return False
    if not request.from_onnx and made.weights.source.startswith(("random", "checkpoint")):
        return False
    names = request.names
    preprocess = preprocess_of(root, names)
    others = [
        *(root / model / CONFIG for model in (names.ensemble, form.model)),
        *(root / model / "1" / "model.py" for model in (preprocess, names.postprocess)),
        *(root / model / LABELS_FILE for model in (form.model, names.postprocess)),
        root / names.ensemble / "1",
    ]
    if not all(path.exists() for path in others):
        return False
    try:
        same = artefact_sha256(reported_artefact(artefact, made)) == made.artefact.sha256
    except (OSError, RepositoryError):
        return False
    return same and all(_is_of_recipe(request, model) for model in (preprocess, names.postprocess))


def _is_of_recipe(request: Request, model: str) -> bool:
    """Whether a step around the classifier is as the recipe wants it."""
    config = tree.read_config(request.repository, model)
    if config is None:
        return False
    if parameters(config).get("recipe_sha256") == request.recipe.sha256:
        return True
    choice = choose_preprocess(request.repository, request.names, configs.preprocess_settings(request.recipe))
    return choice.is_shared and choice.model == model


def _warnings(request: Request, inputs: ParityInputs, report: Report) -> list[str]:
    """Describe outputs of the network that a wrong recipe explains: parity does not see it, since both sides share it.

    Random weights are for benchmarks, and need no warning.
    """
    if report.weights.source.startswith("random"):
        return []
    labels, logits = inputs.network.labels, inputs.reference[: len(inputs.photos)]
    best = sorted(set(logits.argmax(axis=1).tolist()))
    highest = float(to_scores(logits, request.recipe.output).max())
    remedy = (
        "if the photos show different things that the network knows, the recipe's [geometry], [normalisation] "
        f"(range, mean, std, color) or labels are wrong: {request.recipe.path}"
    )
    found = []
    if request.recipe.classes > 1 and len(best) == 1 and len(logits) >= _SEVERAL_PHOTOS:
        found.append(f"ALL {len(logits)} PHOTOS GET ONE CLASS, {labels[best[0]]}: {remedy}")
    if request.recipe.output == "softmax" and highest < min(0.5, 3 / request.recipe.classes):
        found.append(
            f"THE SCORES ARE FLAT: the highest of all photos is {highest:.3g}, with {request.recipe.classes} classes: "
            f"{remedy}"
        )
    return found


def _notes(request: Request) -> list[str]:
    """Describe the user's choices that the build left alone."""
    found = []
    form, root = request.form, request.repository
    name = request.ensemble
    ensemble = tree.read_config(root, name)
    chosen = chosen_classifier(ensemble) if ensemble is not None else None
    router = tree.read_config(root, request.names.router) if chosen == request.names.router else None
    route = route_of(router) if router is not None else None
    if route is not None:
        versions = ", ".join(map(str, (route.primary, route.candidate)))
        found.append(
            f"{name} has a {route.mode} of {route.percent:g} % between {versions}, which stays: "
            f"{use_command(form.name, root, version=request.settled_version, ensemble=name)} ends it"
        )
    elif chosen != form.model:
        path = root / name / CONFIG
        use = use_command(form.name, root, ensemble=name)
        other = form_of_model(chosen or "")
        report = served_report(root, other) if other is not None else None
        if other is not None and report is not None and report.recipe_sha256 != request.recipe.sha256:
            found.append(
                f"THE ENSEMBLE CANNOT BE SERVED AS IT IS: {path} uses {chosen}, which was built from another recipe "
                f"({report.recipe}) than the steps around it now ({request.recipe.name}). Run {use}, or "
                f"{build_command(request.recipe.argument, other.name, root, ensemble=name)}"
            )
        else:
            found.append(f"{path} uses {chosen}; to use {form.model}, edit that word, or run: {use}")
    classifier = tree.read_config(root, form.model)
    if classifier is not None:
        served = pinned_version(classifier)
        if served not in (None, request.settled_version):
            found.append(
                f"{form.model} serves version {served}; to serve version {request.settled_version}: "
                f"{use_command(form.name, root, version=request.settled_version, ensemble=name)}"
            )
        if ensemble is not None and ensemble.max_batch_size > classifier.max_batch_size:
            found.append(
                f"{form.model} takes batches up to {classifier.max_batch_size}, and {name} promises "
                f"{ensemble.max_batch_size}: lower max_batch_size there, or build with a larger --max-batch"
            )
    if request.options.min_batch > 1 and form.takes_device_tensors:
        found.append(
            f"this project's backend pads a request with fewer than {request.options.min_batch} images; the "
            "container's native one refuses it"
        )
    for model in (preprocess_of(root, request.names), request.names.postprocess):
        path = root / model / "1" / "model.py"
        if tree.differs_from_source(path, model):
            found.append(f"{path} differs from this project's and was left alone; delete it to have it renewed")
    return found
