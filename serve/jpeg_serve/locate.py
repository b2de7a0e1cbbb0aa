"""Which tritonserver runs here, and with which libraries: the one on the PATH, else the wheel's."""

from __future__ import annotations

import filecmp
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.libpython import find_libpython, libpython_remedy

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Installation:
    """A tritonserver and what it needs.

    backends: folder with its native backends. stub: the Python backend's worker program for the running Python,
    if it is not in that folder already. library_folders: what its loader must search. is_embedded: whether it is the
    wheel's, which has the Python backend only.
    """

    executable: Path
    backends: Path
    stub: Path | None
    library_folders: tuple[Path, ...]
    is_embedded: bool = False

    def environment(self) -> dict[str, str]:
        """The environment to run it in: this process's, with its libraries and this Python first.

        The Python backend's workers take the first python3 on the PATH for theirs.
        """
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        if self.library_folders:
            inherited = [folder for folder in [os.environ.get("LD_LIBRARY_PATH")] if folder]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, self.library_folders), *inherited])
        return environment


def install_command(extra: str) -> str:
    """What brings an extra of this project into the Python environment: the project is in no package index."""
    return f"pip install -e '.[{extra}]' in this project's folder"


def find_installation() -> Installation:
    """The tritonserver on the PATH, as in NVIDIA's container, else the one in the wheel nvidia-pytriton.

    Raises PrerequisiteError if there is none, or if it cannot run with this Python.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        executable = Path(on_path).resolve()
        return Installation(executable, executable.parents[1] / "backends", None, ())
    wheel = importlib.util.find_spec("pytriton")
    if wheel is None or wheel.origin is None:
        raise PrerequisiteError(
            "there is no tritonserver: neither on the PATH, as in NVIDIA's container, nor from the package "
            f"nvidia-pytriton, which is not in {sys.prefix}: {install_command('serve')}"
        )
    package = Path(wheel.origin).parent
    server = package / "tritonserver"
    stub = server / "python_backend_stubs" / PYTHON_VERSION / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted((path.name for path in stub.parents[1].iterdir()), key=lambda v: int(v.split(".")[1])))
        raise PrerequisiteError(
            f"the embedded Triton has Python backends for Python {known}, and this is {PYTHON_VERSION}: "
            "use one of those"
        )
    libpython = find_libpython()
    if libpython is None:
        raise PrerequisiteError(libpython_remedy())
    libraries = [package.parent / "nvidia_pytriton.libs"]
    if libpython.is_absolute():
        libraries.append(libpython.parent)
    # The server image puts it there: what is copied instead could not be run from a /tmp that is mounted noexec.
    placed = server / "backends" / "python" / stub.name
    in_place = placed.is_file() and filecmp.cmp(placed, stub, shallow=False)
    return Installation(
        server / "bin" / "tritonserver",
        server / "backends",
        None if in_place else stub,
        tuple(libraries),
        is_embedded=True,
    )
