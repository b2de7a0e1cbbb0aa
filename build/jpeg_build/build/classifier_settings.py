"""What an artefact changes in the config of its classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable

from jpeg_contract.model_config import ModelConfig, pinned_version
from jpeg_contract.report import ConfigSettings, find_report

from jpeg_build.build.request import Request
from jpeg_build.emitters import Emitted
from jpeg_build.repository import configs, tree
from jpeg_build.repository.artefacts import find_artefact, served_report


def config_settings(request: Request, emitted: Emitted) -> ConfigSettings:
    """Return what the config of a classifier says for an artefact."""
    capability = emitted.requires.compute_capability
    return ConfigSettings(
        on_gpu=bool(capability),
        max_batch=request.options.max_batch if capability else None,
        parameters=dict(emitted.parameters),
        engines={capability: emitted.artefact.name} if request.options.per_gpu else {},
    )


def settings_change(request: Request, precision: str, emitted: Emitted) -> Callable[[ModelConfig], None]:
    """Return the change to a classifier's config that serves an artefact instead of the one in use."""
    before = served_report(request.repository, request.form)
    return functools.partial(
        configs.apply_settings,
        precision=precision,
        settings=config_settings(request, emitted),
        before=None if before is None else before.config,
    )


def kept_version(request: Request, pixels: str, labels: str) -> int | None:
    """Return the version that goes on serving beside the new one of this build; None if the config decides.

    A version that is asked for by its number serves once it is chosen: a server that starts meanwhile must not answer
    with a network that nobody tried.

    Args:
        request: The build.
        pixels: Digest of what the steps make after the build; the version is not kept if it needs others.
        labels: Likewise.
    """
    root, form = request.repository, request.form
    config, newest = tree.read_config(root, form.model), tree.newest_version(root, form.model)
    if config is None or config.HasField("version_policy") or newest is None or (request.version or 0) <= newest:
        return None
    report = find_report(find_artefact(root, form, newest))
    if report is None:
        return None
    fits = request.recipe.sha256 == report.recipe_sha256 or (pixels, labels) == (
        report.pixels_sha256,
        report.labels_sha256,
    )
    return newest if fits else None


def version_to_serve(request: Request) -> int:
    """Return the version that Triton serves once this one is in place."""
    existing = tree.read_config(request.repository, request.form.model)
    newest = tree.newest_version(request.repository, request.form.model) or 0
    return (pinned_version(existing) if existing is not None else None) or max(newest, request.settled_version)


def classifier_config(request: Request, precision: str, emitted: Emitted) -> ModelConfig:
    """Return the config that serves the artefact, with the user's edits."""
    built = configs.classifier_config(request.recipe, request.form)
    existing = tree.read_config(request.repository, request.form.model)
    return tree.merged_config(existing, built, settings_change(request, precision, emitted))
