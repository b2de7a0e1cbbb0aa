"""What passes between the steps of an ensemble, as digests: equal ones say that steps belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jpeg_contract.inside import PathOutside, inside
from jpeg_contract.labels import LabelFileError, read_labels
from jpeg_contract.parameters import SettingsError
from jpeg_contract.settings import PostprocessSettings, PreprocessSettings


def pixels_digest(parameters: Mapping[str, str]) -> str:
    """Return the digest of what decides the pixels that a model makes; empty if its settings cannot be read.

    Args:
        parameters: Of the model that decodes.
    """
    try:
        return PreprocessSettings.from_parameters(parameters).pixels_sha256
    except SettingsError:
        return ""


def labels_digest(folder: Path, parameters: Mapping[str, str]) -> str:
    """Return the digest of what decides what logits mean; empty if settings or labels cannot be read.

    Args:
        folder: Of the model that labels.
        parameters: Of that model.
    """
    try:
        settings = PostprocessSettings.from_parameters(parameters)
        return settings.labels_sha256(read_labels(inside(folder, settings.labels_file)))
    except (SettingsError, LabelFileError, PathOutside):
        return ""
