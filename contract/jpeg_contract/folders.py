"""Folders of the machine, and those of this user that the commands keep things in, and that nobody else can change."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # no temporary file: where Linux keeps POSIX shared memory

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


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
        OSError: None can be written by this user alone.
    """
    refused = None
    for folder in cache_folders(application):
        try:
            make_own_cache(folder)
        except OSError as error:
            refused = error
        else:
            return folder
    assert refused is not None
    raise refused


def make_own_cache(folder: Path) -> None:
    """Make a cache folder in which nobody else can write, and which nobody else can exchange for another one.

    Below the temporary folder, another user may have been first.

    Raises:
        OSError: It cannot be made, or it or the folder above it is another user's.
    """
    make_own_folder(folder)
    _require_own_parent(folder)


def make_own_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; only this user can enter new ones, whatever the umask.

    Raises:
        OSError: It cannot be made, or belongs to another user.
    """
    missing = [folder, *folder.parents]
    for each in reversed([path for path in missing if not path.exists()]):
        each.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(folder))
    if found.st_mode & _OTHERS_WRITE:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)


def _require_own_parent(folder: Path) -> None:
    """Refuse a folder that another user could rename.

    Raises:
        OSError: The folder above it belongs to another user, or everybody can write there.
    """
    found = folder.parent.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(folder.parent))
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, "can be written by everybody", str(folder.parent))
