"""Files of Git LFS that were not fetched: a text stands in their place."""

from __future__ import annotations

from pathlib import Path

from jpeg_build.errors import NetworkError

_START = b"version https://git-lfs."


def refuse_pointer(file: Path) -> None:
    """Raise NetworkError if a file is the pointer that Git LFS leaves where it did not fetch the file itself."""
    with file.open("rb") as opened:
        start = opened.read(len(_START))
    if start == _START:
        raise NetworkError(
            f"{file}: is a pointer of Git LFS, and not the file itself: run `git lfs pull` in its folder",
            reason="lfs_pointer",
        )
