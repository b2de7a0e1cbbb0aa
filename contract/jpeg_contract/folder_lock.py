"""A folder that one process works in at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jpeg_contract.errors import ReasonedError


@dataclass(frozen=True)
class FolderLock:
    """A lock file in a folder. The kernel releases it with its process, so that nothing is left to clean up.

    Attributes:
        file: Name of the lock file, which stays.
        error: Class of the errors.
        busy: Who else may hold it, and what to do.
        busy_reason: Code of that error.
        unwritable_reason: Code for a folder that cannot be written; None takes that of `error`.
    """

    file: str
    error: type[ReasonedError]
    busy: str
    busy_reason: str
    unwritable_reason: str | None = None

    @contextmanager
    def hold(self, folder: Path) -> Iterator[None]:
        """Hold a folder, which is made if it is not there; never wait for it.

        Raises:
            ReasonedError: Of class `error`: the folder cannot be written, or another process holds it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / self.file, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise self.error(f"{folder}: cannot be written: {error.strerror}", reason=self.unwritable_reason) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self.error(f"{folder}: {self.busy}", reason=self.busy_reason) from error
            yield
        finally:
            os.close(lock)
