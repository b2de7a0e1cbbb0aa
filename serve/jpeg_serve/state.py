"""What a running server leaves for `jpeg-serve reload`: where it listens, what it serves, the key to manage it.

One file for each server, readable by its user only, in a folder that only he can enter. It goes when the server stops;
what a killed one left is recognised by the process that is no more, and removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.folders import cache_folders

_FORMAT = 2
_FOLDER = "servers"


@dataclass(frozen=True)
class Running:
    """A running server.

    pid, started: of tritonserver; the start, in clock ticks since boot, tells it from a later process of that number.
    owner, owner_started: the same of the jpeg-serve that started it, without which it ends.
    http_address, grpc_address, metrics_address: HOST:PORT. model_repository: absolute. load: the models that it was
    told to load. keys: for each of Triton's protocols that is shut over gRPC, the key and its value that open it.
    prefix, python: the Python environment that it runs in. natives: folder of the server's native backends.
    visible_devices: CUDA_VISIBLE_DEVICES of the server, None if that is not set.
    """

    pid: int
    started: int
    owner: int
    owner_started: int
    http_address: str
    grpc_address: str
    metrics_address: str
    model_repository: str
    prefix: str
    python: str
    natives: str
    load: list[str] = field(default_factory=list)
    keys: dict[str, list[str]] = field(default_factory=dict)
    visible_devices: str | None = None

    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        return started_at(self.pid) == self.started

    def is_orphaned(self) -> bool:
        """Whether it only finishes its requests, since its jpeg-serve was killed."""
        return self.is_alive() and started_at(self.owner) != self.owner_started

    def holds(self, port: int) -> bool:
        """Whether it listens on this port."""
        addresses = (self.http_address, self.grpc_address, self.metrics_address)
        return port in (int(address.rpartition(":")[2]) for address in addresses)


def publish(running: Running) -> Path:
    """Leave a server's state; returns the file, for `withdraw`.

    Raises PrerequisiteError if no folder can be written that other users cannot enter.
    """
    content = json.dumps({"format": _FORMAT, "host": _host(), **asdict(running)}, indent=2).encode()
    refused: list[str] = []
    for folder in _folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_private(folder):
                folder.chmod(0o700)  # fails if it is another user's
            # A name of its own: on a home that several machines share, another one may have the same process id.
            handle, name = tempfile.mkstemp(prefix=f"{running.pid}-", suffix=".making", dir=folder)  # with mode 0600
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            return Path(name).rename(Path(name).with_suffix(".json"))
        except OSError as error:
            refused.append(f"{error.filename}: {error.strerror}")
    raise PrerequisiteError(
        f"the server's state cannot be kept for jpeg-serve reload ({'; '.join(refused)}): set XDG_CACHE_HOME to a "
        "folder that can be written"
    )


def withdraw(file: Path) -> None:
    """Remove a server's state."""
    with contextlib.suppress(FileNotFoundError):
        file.unlink()


def find_running() -> list[tuple[Path, Running]]:
    """The servers of this user that run on this machine, with their files. What dead ones left is removed."""
    found = []
    for folder in _folders():
        if not _is_private(folder):
            continue  # somebody else may have put there what he likes
        for file in sorted(folder.glob("*.json")):
            running = _read(file)
            if running is None:
                continue
            if running.is_alive():
                found.append((file, running))
            else:
                withdraw(file)
    return found


def started_at(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None if there is no such process, or it has ended.

    Source: proc(5), field 22 of /proc/PID/stat.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold anything.
    state, *rest = text[text.rindex(")") + 1 :].split()
    return None if state in "ZX" else int(rest[18])


def _folders() -> list[Path]:
    return [folder / _FOLDER for folder in cache_folders()]


def _is_private(folder: Path) -> bool:
    try:
        state = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and state.st_uid == os.getuid() and not state.st_mode & 0o077


def _read(file: Path) -> Running | None:
    """A state, or None if it is of another format, or of another machine or container that shares the folder."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if said["format"] != _FORMAT or said["host"] != _host():
            return None
        return Running(**{each.name: said[each.name] for each in fields(Running)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _host() -> str:
    """What process ids mean something in: this boot of this machine, and this container."""
    said = []
    with contextlib.suppress(OSError):  # some sandboxes have no such files
        said.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        said.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  # no path, but a name
    return " ".join(said)
