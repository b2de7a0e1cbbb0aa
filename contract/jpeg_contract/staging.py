"""Changes to a folder, all or none: files are staged in it and renamed to their places, one process at a time."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jpeg_contract.errors import ReasonedError
from jpeg_contract.folder_lock import FolderLock

REPOSITORY_LOCK = ".jpeg-build.lock"
"""The lock file of a model repository: whoever changes the repository holds it."""

PREFIX = ".staging-"
"""How the name of a folder begins in which files are staged. What a killed process left is removed by the next one."""


@dataclass(frozen=True)
class Staging:
    """How a command changes a folder.

    Attributes:
        lock: Its lock.
        error: Class of the error if the folder cannot be written.
    """

    lock: FolderLock
    error: type[ReasonedError]

    @contextmanager
    def folder(self, root: Path) -> Iterator[Path]:
        """Make a folder to write in, on the file system of `root`, so that renames out of it are atomic.

        One process at a time: a second one is refused at once. Leftovers of a killed one are removed.

        Raises:
            ReasonedError: `root` cannot be written, or another process holds it.
        """
        with self.lock.hold(root):
            for left in root.glob(f"{PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def place(self, folder: Path, root: Path) -> None:
        """Rename every file of `folder` to its place in `root`; if one fails, restore what was there.

        A SavedModel is a folder and replaced as a whole: files that only the old one had are removed.

        Raises:
            ReasonedError: `root` cannot be written; it is as it was.
        """
        files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        wholes = [path.relative_to(folder) for path in folder.rglob("*.savedmodel")]
        old = {path.relative_to(root) for whole in wholes for path in (root / whole).rglob("*")}
        gone = sorted(file for file in old - set(files) if (root / file).is_file())
        kept = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        done: list[Path] = []
        try:
            with _signals_held():
                try:
                    for file in [*files, *gone]:
                        target = root / file
                        target.parent.mkdir(parents=True, exist_ok=True)
                        if target.exists():
                            (kept / file).parent.mkdir(parents=True, exist_ok=True)
                            # A link, not a move: there is never a moment without the old or the new file.
                            os.link(target, kept / file)
                        done.append(file)
                        if file in gone:
                            target.unlink()
                        else:
                            (folder / file).replace(target)
                except BaseException:
                    for file in done:
                        if (kept / file).exists():
                            (kept / file).replace(root / file)
                        elif not (folder / file).exists():
                            (root / file).unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise self.error(f"{root}: cannot be written: {error.strerror}; what was there is untouched") from error
        finally:
            shutil.rmtree(kept, ignore_errors=True)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block, some renames, is done. No effect in other threads than the main one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {
        each: signal.signal(each, lambda number, _: received.append(number)) for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in received:
            signal.raise_signal(number)
