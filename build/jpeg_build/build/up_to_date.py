"""Whether a repository already holds what a build would make."""

from __future__ import annotations

from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.model_config import CONFIG, parameters
from jpeg_contract.report import Report, find_report
from jpeg_contract.tensors import LABELS_FILE
from jpeg_contract.versions import tool_versions

from jpeg_build.build.request import Request, requested_options
from jpeg_build.errors import RepositoryError
from jpeg_build.gpu import this_capability
from jpeg_build.repository import configs, tree
from jpeg_build.repository.artefacts import find_artefact, reported_artefact
from jpeg_build.repository.belonging import labels_in_place, pixels_in_place
from jpeg_build.repository.ensembles import preprocess_of


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
        requested_options(request),
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
    return same and _decodes(request, preprocess) and _labels(request, made)


def _decodes(request: Request, model: str) -> bool:
    """Whether a model decodes as the recipe wants it."""
    config = tree.read_config(request.repository, model)
    if config is None:
        return False
    if parameters(config).get("recipe_sha256") == request.recipe.sha256:
        return True
    wanted = configs.preprocess_settings(request.recipe).pixels_sha256
    return pixels_in_place(request.repository, request.names) == wanted


def _labels(request: Request, made: Report) -> bool:
    """Whether the model that labels does so as the recipe, by the report on its network, wants it."""
    config = tree.read_config(request.repository, request.names.postprocess)
    if config is None:
        return False
    found = parameters(config)
    if found.get("recipe_sha256") == request.recipe.sha256:
        return True
    # The recipe decides the threshold, too, and it is no part of what the logits mean.
    wanted = configs.postprocess_settings(request.recipe).to_parameters()
    labels = labels_in_place(request.repository, request.names)
    return bool(labels) and labels == made.labels_sha256 and found.get("threshold") == wanted["threshold"]
