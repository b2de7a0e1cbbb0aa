"""Folders below a cache folder that nobody else can change: what lies in them runs as this user, or holds keys."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


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


def require_own_parent(folder: Path) -> None:
    """Refuse a folder that another user could rename.

    Raises:
        OSError: The folder above it belongs to another user, or everybody can write there.
    """
    found = folder.parent.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(folder.parent))
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, "can be written by everybody", str(folder.parent))
