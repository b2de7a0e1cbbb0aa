"""Packages that extras of this project bring."""

from __future__ import annotations

import importlib.util

from jpeg_contract.remedies import missing_package

from jpeg_client.errors import InvalidArgument


def require_package(package: str, extra: str) -> None:
    """Check that a package is installed. Raises InvalidArgument, with the command that installs it."""
    if importlib.util.find_spec(package) is None:
        raise package_missing(package, extra)


def package_missing(package: str, extra: str) -> InvalidArgument:
    """Return the error for a package that is not installed."""
    return InvalidArgument(missing_package(package, extra), reason="package_missing")
