"""Folders of this user's that jpeg-serve keeps things in."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def cache_folders() -> list[Path]:
    """The user's cache folder, then, for users that have no home, one below the temporary folder."""
    folders = []
    if home := os.environ.get("XDG_CACHE_HOME"):
        folders.append(Path(home))
    else:
        with contextlib.suppress(RuntimeError):
            folders.append(Path.home() / ".cache")
    folders.append(Path(tempfile.gettempdir()) / f"cache-{os.getuid()}")
    return [folder / "jpeg-serve" for folder in folders]
