"""Whether this machine has the decoders of the image formats that a repository lists."""

from __future__ import annotations

from collections.abc import Iterator

from jpeg_contract.remedies import missing_package
from jpeg_contract.settings import HEIC_PACKAGES, read_formats

from jpeg_serve.machine import Machine
from jpeg_serve.models import Model, Problem

# A model with this parameter runs in a Python of its own, with packages of its own; see Triton's python_backend.
_OWN_PYTHON = "EXECUTION_ENV_PATH"


def check_formats(model: Model, machine: Machine) -> Iterator[Problem]:
    """Find a format whose decoder is a package of its own that is not installed."""
    if not model.is_preprocess or model.parameter(_OWN_PYTHON):
        return
    installed = [package for package in HEIC_PACKAGES if machine.package(package) is not None]
    if "heic" in read_formats(model.parameter("formats")) and not installed:
        yield Problem(
            model.where, f"formats lists heic: {missing_package(HEIC_PACKAGES[0], 'heic')}", "package_missing"
        )
