"""Packages that extras of this project bring."""

from __future__ import annotations

import importlib.util

from jpeg_contract.remedies import install_command

from jpeg_client.errors import InvalidArgument


def require_package(package: str, extra: str) -> None:
    """Check that a package is installed. Raises InvalidArgument, with the command that installs it."""
    if importlib.util.find_spec(package) is None:
        raise missing_package(package, extra)


def missing_package(package: str, extra: str) -> InvalidArgument:
    """Return the error for a package that is not installed."""
    return InvalidArgument(
        f"the package {package} is not installed: {install_command(extra)}", reason="package_missing"
    )
