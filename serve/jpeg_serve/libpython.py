"""The shared library of the running Python. Standard library only: setup uses it before anything is installed."""

import ctypes.util
import sys
import sysconfig
from pathlib import Path


def find_libpython() -> Path | None:
    """Return the path of libpython3.x.so.1.0 of the running Python, or None if there is none.

    Triton's Python backend links its worker processes against it. Some Pythons are built without it.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    prefix = Path(sys.base_prefix, "lib")
    folders = [Path(sysconfig.get_config_var("LIBDIR") or prefix), prefix]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        folders += [Path("/usr/lib", multiarch), prefix / multiarch]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    # In the dynamic linker's own folders: it is found by name, so that the folder does not matter.
    if ctypes.util.find_library(f"python{sys.version_info.major}.{sys.version_info.minor}"):
        return Path(name)
    return None


def libpython_remedy() -> str:
    """Return one sentence: which library is missing, and how to install it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"{sys.executable} has no shared library libpython{version}.so, which Triton's Python backend needs: "
        f"install it (Debian, Ubuntu: apt-get install libpython{version}; pyenv: "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version}), or use another Python with "
        "make PYTHON=..."
    )
