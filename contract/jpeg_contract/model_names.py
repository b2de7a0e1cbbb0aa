"""The names of the models of one ensemble; a repository may hold several ensembles.

The models of the ensemble `jpeg_classifier` are `preprocess`, `postprocess` and `classifier_<form>`. Those of another
ensemble begin with its name: `cats_preprocess`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jpeg_contract.tensors import CLASSIFIER_PREFIX, ENSEMBLE, POSTPROCESS, PREPROCESS

ROUTER = "router"
"""The model that stands for the classifier where requests are split between two (`jpeg_contract.routes`)."""

# As Triton takes it for a folder and a part of a URL, and as Prometheus for a label; no dots, which versions have.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_CLASSIFIER = re.compile(rf"(?:(.+)_)?{CLASSIFIER_PREFIX}([a-z0-9_]+)")


@dataclass(frozen=True)
class ModelNames:
    """The names of an ensemble's own models. It may use another ensemble's `preprocess`, as its config says.

    Attributes:
        ensemble: Name of the ensemble, under which clients know it.
    """

    ensemble: str = ENSEMBLE

    def __post_init__(self) -> None:
        if reason := why_no_ensemble(self.ensemble):
            raise ValueError(reason)

    @property
    def preprocess(self) -> str:
        """Its own model that decodes."""
        return own_name(self.ensemble, PREPROCESS)

    @property
    def postprocess(self) -> str:
        """Its model that labels."""
        return own_name(self.ensemble, POSTPROCESS)

    @property
    def router(self) -> str:
        """Its model that routes, where requests are split between two classifiers."""
        return own_name(self.ensemble, ROUTER)


def own_name(ensemble: str, model: str) -> str:
    """Return the name of an ensemble's own model.

    Args:
        ensemble: Name of the ensemble.
        model: The model's name in the ensemble `jpeg_classifier`.
    """
    return model if ensemble == ENSEMBLE else f"{ensemble}_{model}"


def ensemble_of(model: str) -> str:
    """Return the ensemble that a step belongs to by its name; `jpeg_classifier` for a model of another kind."""
    classifier = split_classifier(model)
    if classifier is not None:
        return classifier[0]
    for step in (PREPROCESS, POSTPROCESS, ROUTER):
        if model.endswith(f"_{step}"):
            return model.removesuffix(f"_{step}")
    return ENSEMBLE


def is_preprocess(model: str) -> bool:
    """Whether a model that decodes has this name."""
    return model == PREPROCESS or model.endswith(f"_{PREPROCESS}")


def is_postprocess(model: str) -> bool:
    """Whether a model that labels has this name."""
    return model == POSTPROCESS or model.endswith(f"_{POSTPROCESS}")


def is_router(model: str) -> bool:
    """Whether a model that routes has this name."""
    return model == ROUTER or model.endswith(f"_{ROUTER}")


def split_classifier(model: str) -> tuple[str, str] | None:
    """Return the ensemble and the form of a classifier's name; None for another model's."""
    found = _CLASSIFIER.fullmatch(model)
    return (found[1] or ENSEMBLE, found[2]) if found else None


def why_no_ensemble(name: str) -> str:
    """Return why an ensemble cannot have a name; empty if it can."""
    if not _NAME.fullmatch(name):
        return f"{name!r} cannot be the name of a model: letters, digits, _ and -, at most 64, with a letter in front"
    if is_preprocess(name) or is_postprocess(name) or is_router(name) or split_classifier(name) is not None:
        return f"{name!r} is the name of a step: choose another one for the model"
    return ""
