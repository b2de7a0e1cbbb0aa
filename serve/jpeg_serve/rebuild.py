"""The command that builds a classifier again, with the options of its last build."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.remedies import build_command
from jpeg_contract.report import Report
from jpeg_contract.tensors import ENSEMBLE

NO_RECIPE = "RECIPE"

_DEFAULT_PRECISION = "fp32"


def rebuild_command(
    form: str,
    repository: Path,
    report: Report | None,
    *,
    recipe: str = "",
    version: int | None = None,
    ensemble: str = ENSEMBLE,
    runs_code: bool = False,
) -> str:
    """Return `jpeg-build RECIPE ...`.

    Args:
        form: Name of the classifier form.
        repository: The model repository.
        report: Of the last build, None if there is none.
        recipe: Name of the recipe, empty for the report's.
        version: Number of the version, None for the newest.
        ensemble: Whose classifier it is.
        runs_code: Its recipe names Python code; a report on it says so, too.
    """
    own = report.recipe if report is not None else ""
    return build_command(
        recipe or own or NO_RECIPE,
        form,
        repository,
        version=version,
        precision=None if report is None or report.precision == _DEFAULT_PRECISION else report.precision,
        flags=_flags(FORMS[form], report),
        ensemble=ensemble,
        runs_code=runs_code or (report is not None and report.runs_code and recipe in ("", own)),
    )


def _flags(form: ClassifierForm, report: Report | None) -> tuple[str, ...]:
    """Return the options that decide the kind of artefact."""
    requested = report.requested if report is not None else {}
    names = ("version_compatible", "hardware_compatible", "per_gpu")
    flags = {"no_trt": requested.get("trt") is False, **{name: requested.get(name) is True for name in names}}
    found = [f"--{name.replace('_', '-')}" for name, is_set in flags.items() if is_set and name in form.build_options]
    # Where the network was taken from the repository, its framework may be missing; likewise Polygraphy beside trtexec.
    if requested.get("from_onnx") and form.from_onnx:
        found.append("--from-onnx")
    if requested.get("tool") == "trtexec" and "tool" in form.build_options:
        found += ["--tool", "trtexec"]
    return tuple(found)
