"""Keeps libtiff, which Pillow brings, from writing about clients' files to the standard error of the server."""

from __future__ import annotations

import ctypes
from pathlib import Path


def silence_libtiff() -> None:
    """Remove libtiff's handlers of errors and warnings: a broken fax would write a line of log for each of its rows.

    What it refuses shows in the pixels that it does not return. Nothing happens where it is no library of its own.
    """
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    libraries = {line.split(maxsplit=5)[-1].strip() for line in maps.splitlines() if "libtiff" in line}
    for path in libraries:
        library = ctypes.CDLL(path)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
