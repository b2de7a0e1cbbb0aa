"""Folders of this user's that the commands keep things in."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs


def cache_folders(application: str) -> list[Path]:
    """Return the folders to try: the user's cache folder, then, for users without a home, one below /tmp.

    Args:
        application: The command whose folder it is, such as "jpeg-serve".
    """
    user = Path(platformdirs.user_cache_dir(application))
    # A user without a home: platformdirs then returns the tilde as it is.
    found = [user] if user.is_absolute() else []
    return [*found, Path(tempfile.gettempdir()) / f"cache-{os.getuid()}" / application]


def make_cache_folder(application: str) -> Path:
    """Make the first of `cache_folders` that can be made, and return it.

    Raises:
        OSError: None can be written.
    """
    refused = None
    for folder in cache_folders(application):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refused = error
        else:
            return folder
    assert refused is not None
    raise refused
