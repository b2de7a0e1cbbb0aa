"""What is inside an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jpeg_build import report as reports
from jpeg_build.artefacts import find_report, require_built, served_version
from jpeg_build.emitters import emitter
from jpeg_build.errors import BuildError
from jpeg_build.targets import BY_MODEL, TARGETS, Target

_BY_SUFFIX = {Path(target.artefact).suffix: target for target in TARGETS.values()} | {".engine": TARGETS["tensorrt"]}


def inspect_artefact(root: Path, what: str, version: str | None) -> dict[str, Any]:
    """Describe the artefact of a backend in the repository `root`, or a file or folder of one of these kinds.

    what: a backend, its classifier's name or folder, or an artefact.

    Raises BuildError if there is none, or if it cannot be read.
    """
    built = TARGETS.get(what) or BY_MODEL.get(Path(what).name)
    if built is not None and (
        what in (built.name, built.model) or Path(what).resolve() == (root / built.model).resolve()
    ):
        target = built
        report: reports.Report | None = require_built(root, target, version)
        number = served_version(root, target, version)
        assert report is not None and number is not None, "it is built"
        artefact = find_report(root, target, number).with_name(str(report["artefact"]["file"]))
    else:
        artefact = Path(what)
        target = _target_of(artefact)
        report = reports.read(reports.report_path(artefact))
    if not artefact.exists():
        raise BuildError(f"{artefact}: there is no such file")
    found = {"artefact": artefact.name, "backend": target.name, "bytes": reports.artefact_bytes(artefact)}
    return {**found, **emitter(target).inspect(artefact), "report": report}


def _target_of(path: Path) -> Target:
    target = _BY_SUFFIX.get(path.suffix)
    if target is None and (path / "saved_model.pb").is_file():
        target = TARGETS["tf_trt"]
    if target is None:
        raise BuildError(
            f"{path}: is neither a backend ({', '.join(TARGETS)}) nor an artefact by its name ({', '.join(_BY_SUFFIX)})"
        )
    return target
