"""The backend directory that Triton gets: its native backends, and ours for those it does not have."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.folders import cache_folders
from jpeg_serve.locate import Installation

STUB = "triton_python_backend_stub"


def prepare_backends(installation: Installation, ours: Path | None) -> Path:
    """Put a backend directory together in the user's cache folder; returns its path.

    ours: folder of Python-based backends, each a folder with a model.py; None for none. A native backend of the
    same name wins.

    Folders are linked. Only the embedded server's Python backend is copied, where its own folder has not the worker
    program that it needs, since Triton refuses a library that is a link to another folder.

    The directory is named by a digest of what is in it, so that it is made once and never changes under a server.

    Raises PrerequisiteError if no folder can be written.
    """
    copies: dict[Path, Path] = {}
    links: dict[Path, Path] = {}
    for backend in sorted(path for path in installation.backends.iterdir() if path.is_dir()):
        if installation.stub is not None and backend.name == "python":
            copies = {Path("python") / file.name: file for file in sorted(backend.iterdir()) if file.is_file()}
            copies[Path("python") / STUB] = installation.stub
        else:
            links[Path(backend.name)] = backend
    if ours is not None:
        for model in sorted(ours.glob("*/model.py")):
            links.setdefault(Path(model.parent.name), model.parent)

    name = f"backends-{_digest(copies, links)}"
    refused: OSError | None = None
    for cache in cache_folders():
        folder = cache / name
        try:
            if not folder.is_dir():
                _make(folder, copies, links)
            # Below the temporary folder, somebody else may have been there first: what lies there is run as this user.
            for path in (cache.parent, cache, folder):
                if path.stat().st_uid != os.getuid():
                    raise PermissionError(errno.EPERM, "belongs to another user", str(path))
        except OSError as error:
            refused = error
            continue
        return folder
    assert refused is not None
    raise PrerequisiteError(
        f"{refused.filename}: cannot be written: {refused.strerror}; set XDG_CACHE_HOME to a folder that can"
    )


def _digest(copies: dict[Path, Path], links: dict[Path, Path]) -> str:
    digest = hashlib.sha256()
    for place, target in links.items():
        digest.update(f"link {place} {target.resolve()}\n".encode())
    for place, source in copies.items():
        state = source.stat()
        digest.update(f"copy {place} {source.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _make(folder: Path, copies: dict[Path, Path], links: dict[Path, Path]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        for place, source in copies.items():
            (aside / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, aside / place)
        for place, target in links.items():
            (aside / place).symlink_to(target.resolve())
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError:
        # Another server that starts just now may have made it first.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
