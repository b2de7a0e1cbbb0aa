"""Whether a classifier and the steps around it belong together: by what passes between them, else by their recipe."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.model_config import parameters
from jpeg_contract.model_names import ModelNames
from jpeg_contract.report import Report
from jpeg_contract.step_digests import labels_digest, pixels_digest

from jpeg_build.repository import tree
from jpeg_build.repository.ensembles import preprocess_of


def pixels_in_place(root: Path, names: ModelNames) -> str:
    """Return the digest of what decides the pixels of an ensemble; empty if it is not known."""
    config = tree.read_config(root, preprocess_of(root, names))
    return pixels_digest(parameters(config)) if config is not None else ""


def labels_in_place(root: Path, names: ModelNames) -> str:
    """Return the digest of what an ensemble takes logits for; empty if it is not known."""
    config = tree.read_config(root, names.postprocess)
    return labels_digest(root / names.postprocess, parameters(config)) if config is not None else ""


def other_recipe(root: Path, names: ModelNames, report: Report) -> str | None:
    """Return the recipe of the steps that a classifier cannot be put between; None if it belongs to all of them.

    A step fits that is of the same recipe, or makes or takes the same: so a network of another recipe can follow one
    that is served.

    Args:
        root: The model repository.
        names: Of the ensemble.
        report: On the classifier's artefact. Those of earlier builds do not say what the network takes and returns.
    """
    pixels, labels = pixels_in_place(root, names), labels_in_place(root, names)
    for model, here, needed in (
        (names.postprocess, labels, report.labels_sha256),
        (preprocess_of(root, names), pixels, report.pixels_sha256),
    ):
        config = tree.read_config(root, model)
        step = parameters(config) if config is not None else {}
        if step.get("recipe_sha256", "") in ("", report.recipe_sha256) or (here and here == needed):
            continue
        if model == names.postprocess or needed:  # without a digest, a step that is shared says nothing
            return step.get("recipe", "")
    return None
