"""Files on this machine and in object stores."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

from jpeg_client.packages import package_missing, require_package

# As fsspec takes them: s3://, gs://, az://, hf://, memory://, file://.
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a path names an object store."""
    return _URL.match(path) is not None


class NotAFile(OSError):
    """The path names a folder, a pipe, a device: reading it may never end."""


class TooLarge(OSError):
    """The file is larger than the caller wants to read."""


def read_file(path: str, max_bytes: int) -> bytes:
    """Return the content of a file.

    Args:
        path: Path on this machine, or URL of an object store.
        max_bytes: Largest content.

    Raises:
        OSError: It cannot be read.
        NotAFile: See there.
        TooLarge: It has more bytes.
        InvalidArgument: A package for this store is not installed.
    """
    if is_url(path):
        return _read_url(path, max_bytes)
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise NotAFile("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file, but a pipe or a device")
    if status.st_size > max_bytes:
        raise _too_large(status.st_size, max_bytes)
    with Path(path).open("rb") as stream:
        data = stream.read(max_bytes + 1)  # it may grow, and files of /proc have no size
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    return data


def _read_url(url: str, max_bytes: int) -> bytes:
    system, path = filesystem(url)
    try:
        status = system.info(path)
        if status.get("type") == "directory":
            raise NotAFile("a folder")
        size = status.get("size") or 0
        data: bytes = system.cat_file(path) if size <= max_bytes else b""
    except OSError:
        raise
    except Exception as error:  # each store has exceptions of its own
        raise OSError(f"{type(error).__name__}: {error}") from error
    if max(size, len(data)) > max_bytes:
        raise _too_large(max(size, len(data)), max_bytes)
    return data


def _too_large(size: int, max_bytes: int) -> TooLarge:
    return TooLarge(f"{size:,} bytes, and {max_bytes:,} are allowed")


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it. Its credentials come from the environment.

    Raises:
        OSError: fsspec knows no such store.
        InvalidArgument: A package for this store is not installed.
    """
    require_package("fsspec", "storage")
    import fsspec

    try:
        system, path = fsspec.url_to_fs(url)
    except ValueError as error:
        raise FileNotFoundError(f"{url}: {error}") from error
    except ImportError as error:  # each store has a package of its own
        raise package_missing(error.name or f"for {url.partition(':')[0]}", "storage") from error
    return system, path


def is_known(url: str) -> bool:
    """Whether fsspec knows the store of a URL. Raises InvalidArgument if its package is not installed."""
    try:
        filesystem(url)
    except FileNotFoundError:
        return False
    return True
