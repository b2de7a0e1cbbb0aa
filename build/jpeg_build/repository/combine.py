"""An ensemble over the networks of several ensembles, which decodes each image once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jpeg_contract.model_config import CONFIG, ModelConfig, chosen_classifier, maker, parameters
from jpeg_contract.model_names import ModelNames
from jpeg_contract.parameters import SettingsError
from jpeg_contract.remedies import remove_command
from jpeg_contract.settings import PreprocessSettings
from jpeg_contract.tensors import LABEL, PIXELS

from jpeg_build.errors import RepositoryError
from jpeg_build.repository import configs, tree
from jpeg_build.repository.ensembles import ensembles, require_ensemble


def combine(root: Path, names: ModelNames, members: Sequence[str]) -> list[str]:
    """Write an ensemble that runs the networks of others on the pixels of one decoded image.

    The outputs of the first member have the usual names, those of another its name in front: `cats_LABEL`.

    Args:
        root: The model repository.
        names: Of the new ensemble.
        members: Names of the others, at least two.

    Returns:
        Lines on what was written.

    Raises:
        RepositoryError: A member is missing, or they need different pixels.
    """
    every = ensembles(root)
    if names.ensemble in every:
        raise RepositoryError(
            f"{root / names.ensemble / CONFIG} exists: remove it with {remove_command(names.ensemble, root)}",
            reason="model_exists",
        )
    steps = [_steps(root, member, require_ensemble(root, every, member)) for member in members]
    first = _settings(root, members[0], steps[0][0])
    for member, (preprocess, _, _) in zip(members[1:], steps[1:], strict=True):
        other = _settings(root, member, preprocess)
        if other.pixels_sha256 != first.pixels_sha256:
            raise RepositoryError(
                f"{member} takes other pixels than {members[0]} ({preprocess} and {steps[0][0]} differ in geometry, "
                "orientation, formats or background), so that one decoded image cannot serve both: use two ensembles",
                reason="pixels_differ",
            )
    config = configs.combined_config(
        names, steps[0][0], [(name, *each[1:]) for name, each in zip(members, steps, strict=True)]
    )
    with tree.staging(root) as folder:
        tree.stage_configs(root, folder, {names.ensemble: config})
        tree.stage_sources(root, folder, [], names.ensemble)
        tree.place(folder, root)
    return [f"{names.ensemble} runs {' and '.join(classifier for _, classifier, _ in steps)} on one decoded image"]


def _steps(root: Path, name: str, config: ModelConfig) -> tuple[str, str, str]:
    """Return the models of an ensemble that decode, classify and label."""
    found = (maker(config, PIXELS), chosen_classifier(config), maker(config, LABEL))
    preprocess, classifier, postprocess = found
    if preprocess is None or classifier is None or postprocess is None:
        raise RepositoryError(
            f"{root / name / CONFIG}: does not decode, classify and label with models of this project",
            reason="not_a_classifier",
        )
    return preprocess, classifier, postprocess


def _settings(root: Path, member: str, preprocess: str) -> PreprocessSettings:
    config = tree.read_config(root, preprocess)
    if config is None:
        raise RepositoryError(f"{root / preprocess / CONFIG} is missing, which {member} uses: build it again")
    try:
        return PreprocessSettings.from_parameters(parameters(config))
    except SettingsError as error:
        raise RepositoryError(f"{root / preprocess / CONFIG}: {error}", reason=error.reason) from error
