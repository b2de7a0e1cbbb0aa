"""Stages the steps around an artefact: configs, labels, and the Python models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from jpeg_contract.model_config import CONFIG, ModelConfig, maker, pin_version, rename_step
from jpeg_contract.tensors import LABELS_FILE, PIXELS

from jpeg_build.build.candidates import Candidate
from jpeg_build.build.classifier_settings import kept_version, settings_change, version_to_serve
from jpeg_build.build.request import Request
from jpeg_build.repository import configs, tree
from jpeg_build.repository.belonging import labels_in_place, pixels_in_place
from jpeg_build.repository.ensembles import PreprocessChoice, choose_preprocess


def stage_repository(request: Request, folder: Path, labels: Sequence[str], chosen: Candidate | None = None) -> None:
    """Stage everything but the artefact: configs, labels, and the Python models where they are missing."""
    recipe, form, names, root = request.recipe, request.form, request.names, request.repository
    chosen_preprocess = choose_preprocess(root, names, configs.preprocess_settings(recipe))
    _stage_moved(root, folder, chosen_preprocess)
    preprocess = chosen_preprocess.model
    pixels = configs.preprocess_settings(recipe).pixels_sha256
    meaning = configs.postprocess_settings(recipe).labels_sha256(labels)
    steps = [configs.classifier_config(recipe, form)]
    if not chosen_preprocess.is_shared:
        made = configs.preprocess_config(recipe, preprocess)
        steps.append(_of_its_recipe(root, made, is_same=pixels == pixels_in_place(root, names)))
    made = configs.postprocess_config(recipe, names.postprocess)
    steps.append(_of_its_recipe(root, made, is_same=meaning == labels_in_place(root, names)))
    built = {config.name: config for config in steps}
    adjust: dict[str, Callable[[ModelConfig], None]] = {}
    if chosen is not None:
        kept = kept_version(request, pixels, meaning)
        if kept is not None:
            adjust[form.model] = lambda config: config.CopyFrom(pin_version(config, kept))
        # A version that is not served leaves the config to the one that is.
        elif request.settled_version == version_to_serve(request):
            adjust[form.model] = settings_change(request, chosen.precision, chosen.emitted)
    tree.stage_configs(root, folder, built, adjust)
    _stage_ensemble(request, folder, preprocess)
    tree.stage_sources(root, folder, [preprocess, names.postprocess], names.ensemble)
    text = "".join(f"{label}\n" for label in labels)
    for model in (form.model, names.postprocess):
        _stage_labels(root / model / LABELS_FILE, folder / model / LABELS_FILE, text)


def _of_its_recipe(root: Path, made: ModelConfig, *, is_same: bool) -> ModelConfig:
    """Return the config of a step, of the recipe that it is of already if what the step makes or takes stays the same.

    So a network of another recipe is built beside the one that a server runs, and the server need not change the steps
    around them.
    """
    existing = tree.read_config(root, made.name)
    if is_same and existing is not None and "recipe_sha256" in existing.parameters:
        for name in ("recipe", "recipe_sha256"):
            made.parameters[name].CopyFrom(existing.parameters[name])
    return made


def _stage_labels(path: Path, staged: Path, text: str) -> None:
    """Stage a file of labels if it changes: Triton loads a model again whose files look new."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    staged.parent.mkdir(parents=True, exist_ok=True)
    staged.write_text(text, encoding="utf-8")


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
