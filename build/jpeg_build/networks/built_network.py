"""A network that the repository holds already: the ONNX file in fp32, which was compared with the trained network.

With it, engines can be built where neither PyTorch nor the trained weights are installed, as in the server image.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.artefacts import artefact_sha256
from jpeg_contract.forms import ONNX
from jpeg_contract.labels import LabelFileError, read_labels
from jpeg_contract.report import Report, find_report
from jpeg_contract.tensors import ENSEMBLE, INPUT, LABELS_FILE, OUTPUT
from numpy.typing import NDArray

from jpeg_build.errors import NetworkError
from jpeg_build.networks.network import Weights
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.repository.artefacts import find_artefact, reported_artefact, served_version

SOURCE = ONNX


class BuiltNetwork:
    """The network in the repository's classifier_onnx: of its versions, the newest in fp32 of this recipe.

    Its logits stand for the trained network's, from which they differ by less than the tolerance of fp32.

    Args:
        recipe: Of the network.
        repository: The model repository.
        ensemble: Whose classifier it is.

    Raises:
        NetworkError: There is none, it is not in fp32, or it is of another recipe.
    """

    def __init__(self, recipe: Recipe, repository: Path, ensemble: str = ENSEMBLE) -> None:
        import onnxruntime as ort

        self.artefact, report = find_built(recipe, repository, ensemble)
        self.sha256 = report.artefact.sha256
        if artefact_sha256(self.artefact) != self.sha256:
            raise NetworkError(
                f"{self.artefact} is not the file that was checked (its sha256 differs): build it again",
                reason="artefact_differs",
            )
        self.weights = Weights(report.weights.source, report.weights.sha256)
        self.labels: Sequence[str] = _labels(recipe, repository / SOURCE.of(ensemble).model)
        self.rounds_to_half = False
        ort.set_default_logger_severity(4)
        try:
            self._session: Any = ort.InferenceSession(str(self.artefact), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NetworkError(
                f"{self.artefact}: ONNX Runtime cannot load it: {error}", reason="network_not_loaded"
            ) from error

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. Through ONNX Runtime on the CPU, which computes in fp32."""
        logits: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: pixels})[0]
        return logits

    def export_onnx(self, path: Path) -> None:
        """See Network. The file itself."""
        shutil.copyfile(self.artefact, path)


def find_built(recipe: Recipe, repository: Path, ensemble: str = ENSEMBLE) -> tuple[Path, Report]:
    """Return the ONNX file and the report on it. Raises NetworkError if BuiltNetwork cannot use it."""
    form = SOURCE.of(ensemble)
    build = recipe.build_command(form, repository, ensemble)
    served = served_version(repository, form, None)
    expected = None if served is None else find_artefact(repository, form, served)
    report = None if expected is None else find_report(expected)
    # A newer version may be the same network in another precision.
    numbers = [int(path.name) for path in (repository / form.model).glob("[0-9]*") if path.name.isdigit()]
    for number in sorted(numbers, reverse=True):
        path = find_artefact(repository, form, number)
        other = find_report(path)
        if other is not None and (other.precision, other.recipe_sha256) == ("fp32", recipe.sha256):
            expected, report = path, other
            break
    if expected is None or report is None:
        raise NetworkError(
            f"{repository}: {form.model} is not built: on a machine with the network, run {build}",
            reason="not_built",
        )
    artefact = reported_artefact(expected, report)
    if report.precision != "fp32":
        raise NetworkError(
            f"{artefact} is in {report.precision}, and an artefact made of it would not be the network's: on a machine "
            f"with the network, run {build}",
            reason="not_fp32",
        )
    if report.recipe_sha256 != recipe.sha256:
        raise NetworkError(
            f"{artefact} was built from another recipe ({report.recipe}), or an older state of it, than "
            f"{recipe.path}: on a machine with the network, run {build}",
            reason="recipe_differs",
        )
    return artefact, report


def _labels(recipe: Recipe, folder: Path) -> Sequence[str]:
    if recipe.labels is not None:
        return recipe.labels
    try:
        return read_labels(folder / LABELS_FILE)
    except LabelFileError as error:
        raise NetworkError(str(error), reason=error.reason) from error
