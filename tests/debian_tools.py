"""Programs that tests run and that no Python package carries."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = "JPEG_REQUIRE_TOOLS"


def tool(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, or fails where JPEG_REQUIRE_TOOLS is 1, as in CI.

    package: the package of Debian and Ubuntu that brings it.
    """
    # Servers and the tools of administrators are where the PATH of other users does not look.
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        lacks(f"needs {name} (Debian, Ubuntu: apt-get install {package})")
    return path


def lacks(reason: str) -> NoReturn:
    """Skip the test, or fail it where JPEG_REQUIRE_TOOLS is 1, as in CI. reason: what it needs, and how to get that."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED} is 1")
    pytest.skip(reason)
