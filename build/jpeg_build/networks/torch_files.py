"""Files of `torch.save` and `torch.export.save`, as archives: read without PyTorch."""

from __future__ import annotations

import zipfile
from pathlib import Path

from jpeg_build.errors import NetworkError

_ARCHIVE_START = b"PK\x03\x04"


def refuse_cut_short(path: Path) -> None:
    """Raise NetworkError if a file begins as an archive and lacks its end."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_ARCHIVE_START))
    except OSError:
        return
    if start == _ARCHIVE_START and not zipfile.is_zipfile(path):
        raise NetworkError(
            f"{path}: is damaged: its end is missing, as of a file that was not written or copied to its end: "
            "copy it again",
            reason="invalid_checkpoint",
        )
