"""The files of an artefact: their digest, their size, and where the report on them lies."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        # hashlib.file_digest needs Python 3.11.
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def artefact_files(path: Path) -> list[Path]:
    """Return the files of an artefact: itself; an OpenVINO model's two; all files of a folder, by their paths."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def artefact_sha256(path: Path) -> str:
    """Return the SHA-256 of an artefact: of its bytes, if it is one file.

    Of a folder, or of an OpenVINO model's two files: of the text made of a line "<sha256>  <name>" for each file, in
    the order of the names, which are relative to the folder.
    """
    files = artefact_files(path)
    if not path.is_dir() and len(files) == 1:
        return file_sha256(path)
    base = path if path.is_dir() else path.parent
    named = {file.relative_to(base).as_posix(): file for file in files}
    lines = "".join(f"{file_sha256(named[name])}  {name}\n" for name in sorted(named))
    return hashlib.sha256(lines.encode()).hexdigest()


def artefact_bytes(path: Path) -> int:
    """Return the size of an artefact, with all of its files."""
    return sum(file.stat().st_size for file in artefact_files(path) if file.is_file())


def report_path(artefact: Path) -> Path:
    """Return where the report on an artefact lies: model.json, or model_sm90.json for model_sm90.plan."""
    return artefact.with_suffix(".json")
