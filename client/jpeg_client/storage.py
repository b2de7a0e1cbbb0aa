"""Files on this machine and in object stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# As fsspec takes them: s3://, gs://, az://, hf://, memory://, file://.
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a path names an object store."""
    return _URL.match(path) is not None


def read_file(path: str) -> bytes:
    """Return the content of a file.

    Args:
        path: Path on this machine, or URL of an object store.

    Raises:
        OSError: It cannot be read.
        ModuleNotFoundError: A package for this store is not installed.
    """
    if not is_url(path):
        return Path(path).read_bytes()
    system, inner = filesystem(path)
    data: bytes = system.cat_file(inner)
    return data


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it. Its credentials come from the environment.

    Raises:
        OSError: fsspec knows no such store.
        ModuleNotFoundError: A package for this store is not installed.
    """
    import fsspec

    try:
        system, path = fsspec.url_to_fs(url)
    except ValueError as error:
        raise FileNotFoundError(f"{url}: {error}") from error
    return system, path
