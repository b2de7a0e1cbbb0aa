"""The corpus that is kept: for each target an archive of inputs, and a folder of inputs that once broke a rule."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

_FOLDER = Path(__file__).parent
_TIME = (2026, 1, 1, 0, 0, 0)


def archive(target: str) -> Path:
    """Return the archive of a target's inputs."""
    return _FOLDER / "corpus" / f"{target}.zip"


def inputs(target: str) -> list[bytes]:
    """Return the inputs of a target's archive."""
    if not archive(target).is_file():
        return []
    with zipfile.ZipFile(archive(target)) as opened:
        return [opened.read(name) for name in opened.namelist()]


def regressions(target: str) -> dict[str, bytes]:
    """Return the inputs that once broke a rule, by their names."""
    folder = _FOLDER / "regressions" / target
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def write(target: str, data: Iterable[bytes]) -> int:
    """Write a target's archive, the same bytes for the same inputs, and return its size."""
    named = {hashlib.sha256(each).hexdigest()[:16]: each for each in data}
    archive(target).parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive(target), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as opened:
        for name in sorted(named):
            opened.writestr(zipfile.ZipInfo(name, _TIME), named[name], zipfile.ZIP_DEFLATED, compresslevel=9)
    return archive(target).stat().st_size


def unpack(target: str, folder: Path, seeds: Iterable[bytes]) -> None:
    """Write a target's inputs and seeds to a folder, one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (*inputs(target), *regressions(target).values(), *seeds):
        (folder / hashlib.sha256(each).hexdigest()[:32]).write_bytes(each)
