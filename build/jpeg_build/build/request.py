"""What a build is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.model_names import ModelNames
from jpeg_contract.resources import PHOTOS
from jpeg_contract.tensors import ENSEMBLE

from jpeg_build.emitters import Options
from jpeg_build.networks.built_network import find_built
from jpeg_build.photos import digest
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.repository import tree

AUTO = "auto"


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
        calibration: A folder of JPEGs that int8 takes the ranges of its values from, and, unless `photos` is another
            than the project's, is compared on; None takes `photos`.
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


def requested_options(request: Request) -> dict[str, Any]:
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
