"""One build: a recipe to a checked artefact in its place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jpeg_build import configs, parity, repository
from jpeg_build import report as reports
from jpeg_build.errors import BuildError
from jpeg_build.photos import PHOTOS, load_photos, random_pixels
from jpeg_build.recipe import OnnxSource, Recipe, file_sha256

if TYPE_CHECKING:
    from jpeg_build.network import Network

LABELS = "labels.txt"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is to be built.

    checkpoint, random_weights: instead of the weights that the recipe names; for torchvision recipes only.
    photos: a folder of JPEGs that the artefact is checked on.
    """

    recipe: Recipe
    repository: Path
    backend: str = "onnx"
    precision: str = "fp32"
    checkpoint: Path | None = None
    random_weights: bool = False
    photos: Path = PHOTOS


def build(request: Request, say: Say) -> dict[str, Any]:
    """Export, check, and put in place; returns the report. `say` is told what is going on.

    Raises BuildError; what was in the repository before is then still there.
    """
    # First of all: what cannot be written, or is being built already, is said before minutes are spent.
    with repository.staging(request.repository) as folder:
        network = _load(request, say)
        report = _build_classifier(request, network, folder, say)
        stage_repository(request, folder, network.labels)
        repository.place(folder, request.repository)
    return report


def _build_classifier(request: Request, network: Network, folder: Path, say: Say) -> dict[str, Any]:
    """Export into `folder` and check; returns the report, which is written beside the artefact."""
    recipe = request.recipe
    photos, noise = load_photos(request.photos, recipe), random_pixels(recipe)
    pixels = np.concatenate([photos, noise])
    say(f"asking the network about {len(photos)} photos and {len(noise)} images of noise")
    reference = network.reference(pixels)

    artefact = folder / configs.classifier_name(request.backend) / "1" / "model.onnx"
    artefact.parent.mkdir(parents=True)
    say("exporting to ONNX")
    network.export_onnx(artefact)
    say("comparing the ONNX file with the network")
    answers = parity.run_in_batches(_onnx_runner(artefact), pixels)
    measured = parity.measure(reference, answers, photos=len(photos))
    parity.check(measured, request.precision)
    made = reports.make(
        recipe,
        backend=request.backend,
        precision=request.precision,
        artefact=artefact,
        weights=network.weights,
        parity=measured,
    )
    reports.write(made, artefact.with_name(reports.REPORT))
    return made


def stage_repository(request: Request, folder: Path, labels: Any) -> None:
    """Everything but the artefact: configs, labels, and the Python models where they are not yet."""
    recipe = request.recipe
    classifier = configs.classifier_config(
        recipe, backend=request.backend, triton_backend="onnxruntime", platform="onnxruntime_onnx"
    )
    built = {
        config.name: config
        for config in (
            configs.preprocess_config(recipe),
            classifier,
            configs.postprocess_config(recipe),
            configs.ensemble_config(classifier.name),
        )
    }
    repository.stage_configs(request.repository, folder, built)
    repository.stage_sources(request.repository, folder)
    labels_file = folder / configs.POSTPROCESS / LABELS
    labels_file.parent.mkdir(parents=True, exist_ok=True)
    labels_file.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def is_up_to_date(request: Request) -> bool:
    """Whether the repository holds what this request would build, made by the same versions of the tools.

    Takes no framework into memory, so that it is quick.
    """
    root = request.repository
    folder = root / configs.classifier_name(request.backend) / "1"
    made = reports.read(folder / reports.REPORT)
    if made is None or request.checkpoint is not None or request.random_weights:
        return False  # a checkpoint may have changed under its name
    wanted = {
        "recipe_sha256": request.recipe.sha256,
        "backend": request.backend,
        "precision": request.precision,
        "versions": reports.versions(),
    }
    if any(made.get(key) != value for key, value in wanted.items()):
        return False
    if str(made["weights"]["source"]).startswith(("random", "checkpoint")):
        return False
    artefact = folder / str(made["artefact"]["file"])
    others = [
        *(root / model / repository.CONFIG for model in (configs.ENSEMBLE, folder.parent.name)),
        *(root / model / "1" / "model.py" for model in (configs.PREPROCESS, configs.POSTPROCESS)),
        root / configs.ENSEMBLE / "1",
        root / configs.POSTPROCESS / LABELS,
    ]
    if not all(path.exists() for path in others) or not artefact.is_file():
        return False
    return file_sha256(artefact) == made["artefact"]["sha256"] and all(
        (config := repository.read_config(root, model)) is not None
        and config.parameters["recipe_sha256"].string_value == request.recipe.sha256
        for model in (configs.PREPROCESS, configs.POSTPROCESS)
    )


def notes(request: Request) -> list[str]:
    """What a user should know after a build: a choice of his that the build left alone."""
    found = []
    built = configs.classifier_name(request.backend)
    ensemble = repository.read_config(request.repository, configs.ENSEMBLE)
    chosen = configs.chosen_classifier(ensemble) if ensemble is not None else None
    if chosen != built:
        path = request.repository / configs.ENSEMBLE / repository.CONFIG
        found.append(f"{path} uses {chosen}, as you chose; to use {built}, edit that word")
    for model in (configs.PREPROCESS, configs.POSTPROCESS):
        path = request.repository / model / "1" / "model.py"
        if repository.differs_from_checkout(path, model):
            found.append(f"{path} differs from this project's and was left alone; delete it to have it renewed")
    return found


def _load(request: Request, say: Say) -> Network:
    if isinstance(request.recipe.source, OnnxSource):
        if request.checkpoint is not None or request.random_weights:
            raise BuildError(
                "--checkpoint and --weights go with torchvision recipes; an ONNX file has its weights inside"
            )
        from jpeg_build.onnx_network import OnnxNetwork  # needs no PyTorch

        say(f"loading {request.recipe.source.file.name} with ONNX Runtime")
        return OnnxNetwork(request.recipe)
    say("starting PyTorch")
    from jpeg_build.torchvision_network import TorchvisionNetwork

    say(f"loading {request.recipe.source.network}")
    return TorchvisionNetwork(request.recipe, checkpoint=request.checkpoint, random=request.random_weights)


def _onnx_runner(artefact: Path) -> Callable[[parity.Pixels], parity.Logits]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(artefact), providers=["CPUExecutionProvider"])

    def run(pixels: parity.Pixels) -> parity.Logits:
        logits: parity.Logits = session.run(["output__0"], {"input__0": pixels})[0]
        return logits

    return run


def say_on_stderr(message: str) -> None:
    """One line of progress."""
    print(f"jpeg-build: {message} ...", file=sys.stderr, flush=True)
