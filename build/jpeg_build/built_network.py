"""A network as the repository holds it already: the ONNX file in fp32, which was compared with the trained network.

With it, engines can be built where neither PyTorch nor the trained weights are, as in the server image.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpeg_build import configs
from jpeg_build import report as reports
from jpeg_build.artefacts import find_report, served_version
from jpeg_build.commands import build_command
from jpeg_build.errors import NetworkError
from jpeg_build.network import Weights
from jpeg_build.recipe import Recipe
from jpeg_build.targets import TARGETS

SOURCE = TARGETS["onnx"]
# What can be made of an ONNX file, and does not take the place of the one it is made of.
BACKENDS = ("openvino", "tensorrt")


class BuiltNetwork:
    """The network in the repository's classifier_onnx: of its versions, the newest in fp32 of this recipe.

    Its answers stand for the trained network's, from which they differ by less than the tolerance of fp32.

    Raises NetworkError if there is none, if it is not in fp32, or if it is of another recipe.
    """

    def __init__(self, recipe: Recipe, repository: Path) -> None:
        import onnxruntime as ort

        self.artefact, report = find_built(recipe, repository)
        self.sha256 = str(report["artefact"]["sha256"])
        if reports.artefact_sha256(self.artefact) != self.sha256:
            raise NetworkError(f"{self.artefact} is not the file that was checked (its sha256 differs): build it again")
        self.weights = Weights(str(report["weights"]["source"]), report["weights"]["sha256"])
        self.labels: Sequence[str] = _labels(recipe, repository)
        self.rounds_to_half = False
        ort.set_default_logger_severity(4)
        try:
            self._session: Any = ort.InferenceSession(str(self.artefact), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise NetworkError(f"{self.artefact}: ONNX Runtime cannot load it: {error}") from error

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. By ONNX Runtime on the CPU, which computes in fp32."""
        logits: NDArray[np.float32] = self._session.run(["output__0"], {"input__0": pixels})[0]
        return logits

    def export_onnx(self, path: Path) -> None:
        """See Network. The file itself."""
        shutil.copyfile(self.artefact, path)


def find_built(recipe: Recipe, repository: Path) -> tuple[Path, reports.Report]:
    """The ONNX file and the report on it. Raises NetworkError if it is not what BuiltNetwork needs."""
    build = build_command(recipe.word, SOURCE.name, repository)
    served = served_version(repository, SOURCE, None)
    file = None if served is None else find_report(repository, SOURCE, served)
    report = None if file is None else reports.read(file)
    # A newer version may be the same network in another precision.
    numbers = [int(path.name) for path in (repository / SOURCE.model).glob("[0-9]*") if path.name.isdigit()]
    for number in sorted(numbers, reverse=True):
        path = find_report(repository, SOURCE, number)
        other = reports.read(path)
        if other is not None and (other.get("precision"), other.get("recipe_sha256")) == ("fp32", recipe.sha256):
            file, report = path, other
            break
    if file is None or report is None:
        raise NetworkError(f"{repository}: {SOURCE.model} is not built: where the network is, run {build}")
    artefact = file.with_name(str(report["artefact"]["file"]))
    if report.get("precision") != "fp32":
        raise NetworkError(
            f"{artefact} is in {report.get('precision')}, and what is made of it would not be the network's: where the "
            f"network is, run {build}"
        )
    if report.get("recipe_sha256") != recipe.sha256:
        raise NetworkError(
            f"{artefact} was built from another recipe ({report.get('recipe')}), or an older state of it, than "
            f"{recipe.path}: where the network is, run {build}"
        )
    return artefact, report


def _labels(recipe: Recipe, repository: Path) -> Sequence[str]:
    if recipe.labels is not None:
        return recipe.labels
    file = repository / SOURCE.model / configs.LABELS
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise NetworkError(f"{file}: the labels cannot be read: {error.strerror}") from error
