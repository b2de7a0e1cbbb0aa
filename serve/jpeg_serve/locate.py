"""The tritonserver that runs here, and its libraries: the one on the PATH, else that of the wheel nvidia-pytriton."""

from __future__ import annotations

import filecmp
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from jpeg_contract.remedies import install_command

from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.libpython import find_libpython, libpython_remedy

EMBEDDED_VERSION = "2.51.0"
"""Triton in the pinned nvidia-pytriton."""

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Installation:
    """A tritonserver and its requirements.

    Attributes:
        executable: The program.
        backends: Folder of its native backends.
        stub: The Python backend's worker program for the running Python; None if that folder has it already.
        library_folders: Folders that the dynamic linker must search.
        is_embedded: Whether it is the wheel's, which has the Python backend only.
    """

    executable: Path
    backends: Path
    stub: Path | None
    library_folders: tuple[Path, ...]
    is_embedded: bool = False

    def environment(self) -> dict[str, str]:
        """Return its environment variables: this process's, with its libraries and this Python first.

        The Python backend's workers run the first python3 on the PATH.
        """
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        if self.library_folders:
            inherited = [folder for folder in [os.environ.get("LD_LIBRARY_PATH")] if folder]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, self.library_folders), *inherited])
        return environment


def find_installation() -> Installation:
    """Find the tritonserver on the PATH, as in NVIDIA's container, else the one in the wheel nvidia-pytriton.

    Raises:
        PrerequisiteError: There is none, or it cannot run with this Python.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        executable = Path(on_path).resolve()
        return Installation(executable, executable.parents[1] / "backends", None, ())
    wheel = importlib.util.find_spec("pytriton")
    if wheel is None or wheel.origin is None:
        raise PrerequisiteError(
            "there is no tritonserver: neither on the PATH, as in NVIDIA's container, nor from the package "
            f"nvidia-pytriton, which is not in {sys.prefix}: {install_command('serve')}",
            reason="no_tritonserver",
        )
    package = Path(wheel.origin).parent
    server = package / "tritonserver"
    stub = server / "python_backend_stubs" / PYTHON_VERSION / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted((path.name for path in stub.parents[1].iterdir()), key=lambda v: int(v.split(".")[1])))
        raise PrerequisiteError(
            f"the embedded Triton has Python backends for Python {known}, and this is {PYTHON_VERSION}: "
            "use one of those",
            reason="python_unsupported",
        )
    libpython = find_libpython()
    if libpython is None:
        raise PrerequisiteError(libpython_remedy(), reason="libpython_missing")
    libraries = [package.parent / "nvidia_pytriton.libs"]
    if libpython.is_absolute():
        libraries.append(libpython.parent)
    # The server image puts it there: a copy in a /tmp that is mounted noexec could not run.
    placed = server / "backends" / "python" / stub.name
    in_place = placed.is_file() and filecmp.cmp(placed, stub, shallow=False)
    return Installation(
        server / "bin" / "tritonserver",
        server / "backends",
        None if in_place else stub,
        tuple(libraries),
        is_embedded=True,
    )
