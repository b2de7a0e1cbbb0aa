"""A wall clock that jumps for some processes only; the clock of the machine stays."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from faults.errors import FaultsError, NotPossibleHere

_SOURCE = Path(__file__).with_name("shifted_clock.c")


class ShiftedClock:
    """The wall clock of the processes that get `environment`.

    Args:
        folder: For a library and a file; it exists.

    Raises:
        NotPossibleHere: There is no C compiler.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise NotPossibleHere("needs a C compiler (Debian, Ubuntu: apt-get install gcc)")
        library = folder / "shifted_clock.so"
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FaultsError(f"{_SOURCE.name} cannot be compiled: {done.stderr}", reason="not_compiled")
        self._file = folder / "shift"
        self.jump_to(0)
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK_FILE": str(self._file)}

    def jump_to(self, seconds: int) -> None:
        """Set the clock to this distance from the machine's, for processes that run already, too."""
        file = os.open(self._file, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.pwrite(file, seconds.to_bytes(8, "little", signed=True), 0)
        finally:
            os.close(file)
