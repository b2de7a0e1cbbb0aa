"""The backend directory that Triton gets: its native backends, and the Python-based ones that serve."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jpeg_contract.folders import cache_folders, make_own_cache, make_own_folder

from jpeg_serve import COMMAND
from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.locate import Installation
from jpeg_serve.machine import ServedWith, installed_forms
from jpeg_serve.models import PYTHON, PYTHON_MODEL

STUB = "triton_python_backend_stub"

# The model.py of a Python-based backend that no folder holds.
GENERIC_MODEL = '''"""Python-based backend, written by jpeg-serve for a classifier form of an installed package."""

from jpeg_runtime.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass
class _Content:
    """The content of a backend directory, by its path there: copied files, links, and written files."""

    copies: dict[Path, Path] = field(default_factory=dict)
    links: dict[Path, Path] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)

    def digest(self) -> str:
        digest = hashlib.sha256()
        for place, target in self.links.items():
            digest.update(f"link {place} {target.resolve()}\n".encode())
        for place, source in self.copies.items():
            state = source.stat()
            digest.update(f"copy {place} {source.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
        for place, text in self.texts.items():
            digest.update(f"text {place} {text}\n".encode())
        return digest.hexdigest()[:16]


def prepare_backends(
    installation: Installation, ours: Path | None, served_with: Mapping[str, ServedWith] | None = None
) -> Path:
    """Create a backend directory in the user's cache folder.

    Folders are linked. Only the embedded server's Python backend is copied, where its own folder lacks the worker
    program that it needs, since Triton refuses a library that is a link to another folder. A classifier form of an
    installed package gets a folder with a model.py if it has none.

    The directory is named by a digest of its content, so that it is created once and never changes under a server.

    Args:
        installation: The tritonserver.
        ours: Folder of Python-based backends, each a folder with a model.py; None for none.
        served_with: Which backend serves, by its name, where there are both; the native one unless named.

    Returns:
        The directory.

    Raises:
        PrerequisiteError: No folder can be written.
    """
    content = _content(installation, ours, served_with or {})
    name = f"backends-{content.digest()}"
    refused: OSError | None = None
    for cache in cache_folders(COMMAND):
        folder = cache / name
        try:
            # What lies there runs as this user.
            make_own_cache(cache)
            if not folder.is_dir():
                _make(folder, content)
            make_own_folder(folder)
        except OSError as error:
            refused = error
            continue
        return folder
    assert refused is not None
    raise PrerequisiteError(
        f"{refused.filename}: cannot be written: {refused.strerror}; set XDG_CACHE_HOME to a folder that can",
        reason="cache_not_writable",
    )


def _content(installation: Installation, ours: Path | None, served_with: Mapping[str, ServedWith]) -> _Content:
    content = _Content()
    python = {model.parent.name: model.parent for model in sorted(ours.glob(f"*/{PYTHON_MODEL}"))} if ours else {}
    generic = {form.backend for form in installed_forms()} - python.keys()
    native: set[str] = set()
    for backend in sorted(path for path in installation.backends.iterdir() if path.is_dir()):
        if backend.name in python.keys() | generic and served_with.get(backend.name) == "python":
            continue
        native.add(backend.name)
        if installation.stub is not None and backend.name == PYTHON:
            files = sorted(file for file in backend.iterdir() if file.is_file())
            content.copies = {Path(PYTHON) / file.name: file for file in files}
            content.copies[Path(PYTHON) / STUB] = installation.stub
        else:
            content.links[Path(backend.name)] = backend
    content.links |= {Path(name): folder for name, folder in python.items() if name not in native}
    content.texts = {Path(name) / PYTHON_MODEL: GENERIC_MODEL for name in sorted(generic - native)}
    return content


def _make(folder: Path, content: _Content) -> None:
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        for place in (*content.copies, *content.texts):
            (aside / place).parent.mkdir(parents=True, exist_ok=True)
        for place, source in content.copies.items():
            shutil.copy2(source, aside / place)
        for place, text in content.texts.items():
            (aside / place).write_text(text, encoding="utf-8")
        for place, target in content.links.items():
            (aside / place).symlink_to(target.resolve())
        aside.rename(folder)
    except OSError:
        # Another server that starts at the same time may have created it first.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
