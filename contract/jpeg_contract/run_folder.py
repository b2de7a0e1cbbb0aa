"""The folder through which `jpeg-serve` and the Python workers inside one server tell each other their state.

`jpeg-serve` creates it for each tritonserver and names it in the environment; each worker keeps one small file in it,
mapped into memory, so that an update costs less than a microsecond and no call. A server that is started without
`jpeg-serve` has no such folder, and its workers do without.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

VARIABLE = "JPEG_SERVE_RUN"
"""Environment variable with the folder's path."""

Role = Literal["preprocess", "router", "classifier", "postprocess"]
_ROLES: Mapping[str, Role] = {role: role for role in get_args(Role)}

_DRAINING = "draining"
_EXCESS = "excess"
_ENSEMBLES = "ensembles.json"
_BASELINE = "baseline"
_SUFFIX = ".worker"
# 64-bit integers in the machine's byte order: aligned ones are written and read as a whole.
_FIELDS = ("busy", "begun", "taken", "passed")
_SIZE = 8 * len(_FIELDS)
_EXCESS_SIZE = 8 * 2
_BASELINE_SIZE = 8 * 2
# A folder that changed less long ago may change again without another time of change: file systems count in ticks of
# the kernel, 10 ms at most.
_TICK_NS = 50_000_000


@dataclass(frozen=True)
class WorkerState:
    """One worker at one moment.

    Attributes:
        pid: Its process id.
        role: Its step.
        model: Its model.
        busy: Whether it executes a batch.
        begun: Requests that it has accepted, since it started.
        taken: Images that it has taken, since it started.
        passed: Images that it has passed on to the next step, since it started.
    """

    pid: int
    role: Role
    model: str
    busy: bool
    begun: int
    taken: int
    passed: int


class WorkerFile:
    """The state that one worker publishes. Without a folder, nobody reads it.

    Args:
        folder: The run folder, None for none.
        role: The worker's step.
        model: The worker's model.

    Attributes:
        path: The file, None without a folder.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, folder: Path | None, role: Role, model: str) -> None:
        self.path: Path | None = None
        if folder is None:
            self._map = mmap.mmap(-1, _SIZE)
        else:
            self.path = folder / f"{os.getpid()}.{role}.{model}{_SUFFIX}"
            # Written, not truncated to length: a full disk fails here, and not at an access to the mapped memory.
            self.path.write_bytes(bytes(_SIZE))
            with self.path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), _SIZE)
        self._fields = memoryview(self._map).cast("q")

    @property
    def busy(self) -> bool:
        """Whether the worker executes a batch."""
        return bool(self._fields[0])

    @busy.setter
    def busy(self, value: bool) -> None:
        self._fields[0] = int(value)

    def add_begun(self, requests: int) -> None:
        """Count requests that the worker has accepted."""
        self._fields[1] += requests

    def add_taken(self, images: int) -> None:
        """Count images that the worker has taken."""
        self._fields[2] += images

    def add_passed(self, images: int) -> None:
        """Count images that the worker has passed on."""
        self._fields[3] += images

    def close(self) -> None:
        """Remove the file."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


class Baseline:
    """What the workers of one model agree on, to count the images between two steps.

    They would count differently otherwise, each from the moment on at which it looks first.

    Args:
        folder: The run folder.
        model: The workers' model.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, folder: Path, model: str) -> None:
        path = folder / f"{_BASELINE}.{model}"
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) < _BASELINE_SIZE:
                file.write(bytes(_BASELINE_SIZE))
                file.flush()
            self._map = mmap.mmap(file.fileno(), _BASELINE_SIZE)
        self._fields = memoryview(self._map).cast("q")

    @property
    def lost(self) -> int:
        """How many of the images that were counted into the first step, and not into the second, are not between."""
        return self._fields[0]

    @lost.setter
    def lost(self, images: int) -> None:
        self._fields[0] = images

    @property
    def counted(self) -> int:
        """A number for the workers whose counts `lost` is about, 0 for none yet."""
        return self._fields[1]

    @counted.setter
    def counted(self, workers: int) -> None:
        self._fields[1] = workers


def run_folder() -> Path | None:
    """Return the run folder of the server that this process belongs to, None if there is none."""
    text = os.environ.get(VARIABLE, "")
    return Path(text) if text else None


def read_workers(folder: Path) -> Iterator[WorkerState]:
    """Return the state of each worker of a server."""
    for path in folder.glob(f"*{_SUFFIX}"):
        content = b""
        with contextlib.suppress(OSError):  # its worker ends at this moment
            content = path.read_bytes()
        if len(content) == _SIZE and (name := _read_name(path.name)) is not None:
            yield _state(name, memoryview(content).cast("q"))


def _read_name(name: str) -> tuple[int, Role, str] | None:
    """Return process id, role and model of a worker's file; None if it is of another version."""
    pid, role, model = name.removesuffix(_SUFFIX).split(".", 2)
    return (int(pid), _ROLES[role], model) if role in _ROLES else None


def _state(name: tuple[int, Role, str], fields: memoryview) -> WorkerState:
    busy, begun, taken, passed = fields
    return WorkerState(*name, bool(busy), begun, taken, passed)


def write_ensembles(folder: Path, ensembles: Mapping[str, Sequence[str]]) -> None:
    """State which ensembles of this project the server serves, and the names of their steps."""
    making = folder / f"{_ENSEMBLES}.making"
    making.touch(0o600)
    making.write_text(json.dumps({name: list(steps) for name, steps in ensembles.items()}), encoding="utf-8")
    making.rename(folder / _ENSEMBLES)


def read_ensembles(folder: Path) -> dict[str, list[str]]:
    """Return the ensembles of this project that the server serves, and the names of their steps."""
    try:
        found: dict[str, list[str]] = json.loads((folder / _ENSEMBLES).read_bytes())
    except FileNotFoundError:
        return {}
    return found


def write_excess(folder: Path, model: str, reading: int, requests: int) -> None:
    """State how many waiting requests a first step shall refuse, with the number of this reading."""
    path = folder / f"{_EXCESS}.{model}"
    with path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
        file.write(struct.pack("qq", reading, requests))


def read_excess(folder: Path, model: str) -> tuple[int, int]:
    """Return the last reading's number, and how many waiting requests the model shall refuse; (0, 0) for none."""
    try:
        reading, requests = struct.unpack("qq", (folder / f"{_EXCESS}.{model}").read_bytes())
    except (OSError, struct.error):
        return 0, 0
    return reading, requests


def start_draining(folder: Path, most_begun: int) -> None:
    """Let the first steps refuse requests, once they have begun this many together since the server started."""
    making = folder / f"{_DRAINING}.making"
    making.write_text(str(most_begun), encoding="ascii")
    making.rename(folder / _DRAINING)


def draining_limit(folder: Path) -> int | None:
    """Return how many requests the first steps begin before they refuse them; None if the server is not stopping."""
    try:
        return int((folder / _DRAINING).read_text(encoding="ascii"))
    except FileNotFoundError:
        return None


def begun_requests(folder: Path) -> dict[str, int]:
    """Return how many requests each first step has begun since the server started, by its model."""
    return _begun_requests(read_workers(folder))


def _begun_requests(states: Iterable[WorkerState]) -> dict[str, int]:
    begun: dict[str, int] = {}
    for state in states:
        if state.role == "preprocess":
            begun[state.model] = begun.get(state.model, 0) + state.begun
    return begun


class RunFolderReader:
    """Reads what the functions above read, for a worker that does so before each batch.

    It lists the folder and opens files only if the folder has changed: a look takes microseconds, whatever the number
    of workers.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed_ns: int | None = None
        self._workers: list[tuple[tuple[int, Role, str], memoryview]] = []
        self._ensembles: dict[str, list[str]] = {}
        self._draining_limit: int | None = None
        self._excess: dict[str, memoryview] = {}

    def workers(self) -> list[WorkerState]:
        """See `read_workers`."""
        self._look()
        return [_state(name, fields) for name, fields in self._workers]

    def begun_requests(self) -> dict[str, int]:
        """See `begun_requests`."""
        return _begun_requests(self.workers())

    def ensembles(self) -> dict[str, list[str]]:
        """See `read_ensembles`."""
        self._look()
        return self._ensembles

    def draining_limit(self) -> int | None:
        """See `draining_limit`."""
        self._look()
        return self._draining_limit

    def excess(self, model: str) -> tuple[int, int]:
        """See `read_excess`."""
        self._look()
        reading, requests = self._excess.get(model, (0, 0))
        return reading, requests

    def _look(self) -> None:
        # Without the folder, the server has ended, and so does its worker.
        with contextlib.suppress(FileNotFoundError):
            if self._changed_ns is None or self._folder.stat().st_mtime_ns != self._changed_ns:
                self._list()

    def _list(self) -> None:
        now_ns, changed_ns = time.time_ns(), self._folder.stat().st_mtime_ns
        self._workers, self._excess = [], {}
        is_complete = True
        for path in self._folder.iterdir():
            is_worker, is_excess = path.name.endswith(_SUFFIX), path.name.startswith(f"{_EXCESS}.")
            if not is_worker and not is_excess:
                continue
            fields = _map(path, _SIZE if is_worker else _EXCESS_SIZE)
            if fields is None:
                is_complete = False  # it is being written, or its worker ends
            elif is_excess:
                self._excess[path.name.removeprefix(f"{_EXCESS}.")] = fields
            elif (name := _read_name(path.name)) is not None:
                self._workers.append((name, fields))
        self._ensembles, self._draining_limit = read_ensembles(self._folder), draining_limit(self._folder)
        self._changed_ns = changed_ns if is_complete and now_ns - changed_ns > _TICK_NS else None


def _map(path: Path, size: int) -> memoryview | None:
    """Map a file of 64-bit integers into memory; None if it is gone, or has another size."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return None
            return memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)).cast("q")
    except OSError:
        return None
