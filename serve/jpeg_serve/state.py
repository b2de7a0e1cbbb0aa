"""The state of a running server, for `jpeg-serve reload` and `probe`: its addresses, its repository, its keys.

One file for each server, readable by its user only, in a folder that only this user can enter. It is removed when the
server stops; the file of a killed server is recognised by the process that no longer exists, and removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from jpeg_contract.folders import cache_folders, make_own_cache
from jpeg_contract.run_folder import VARIABLE

from jpeg_serve import COMMAND, shared_memory
from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.machine import ServedWith

_FORMAT = 4
_FOLDER = "servers"


@dataclass(frozen=True)
class Running:
    """A running server.

    Attributes:
        pid: Process id of tritonserver.
        started: Its start in clock ticks since boot, which distinguishes it from a later process of that id.
        owner: Process id of the jpeg-serve that started it, without which it ends.
        owner_started: Start of the owner.
        http_address: HOST:PORT.
        grpc_address: HOST:PORT.
        metrics_address: HOST:PORT.
        model_repository: Absolute path.
        prefix: The Python environment that it runs in.
        python: The interpreter of that environment.
        natives: Folder of the server's native backends.
        backends: Folder of the Python-based backends.
        served_with: Which backend serves, by the backend's name.
        load: The models that it loads by name, none for the ensembles.
        keys: For each of Triton's protocols that is restricted over gRPC, the key and its value that open it.
        visible_devices: CUDA_VISIBLE_DEVICES of the server, None if that is not set.
        server_id: Its name among the servers on the same ports; empty if it is alone.
        shm_prefix: Of its workers' shared memory.
        run_folder: Absolute path of the folder that it shares with its workers.
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
    backends: str
    served_with: dict[str, ServedWith] = field(default_factory=dict)
    load: list[str] = field(default_factory=list)
    keys: dict[str, list[str]] = field(default_factory=dict)
    visible_devices: str | None = None
    server_id: str = ""
    shm_prefix: str = ""
    run_folder: str = ""

    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        return started_at(self.pid) == self.started

    def is_orphaned(self) -> bool:
        """Whether it only finishes its open requests, because its jpeg-serve was killed."""
        return self.is_alive() and started_at(self.owner) != self.owner_started

    def holds(self, port: int) -> bool:
        """Whether it listens on this port."""
        addresses = (self.http_address, self.grpc_address, self.metrics_address)
        return port in (int(address.rpartition(":")[2]) for address in addresses)


def publish(running: Running) -> Path:
    """Write a server's state.

    Returns:
        The file, for `withdraw`.

    Raises:
        PrerequisiteError: No folder can be written that other users cannot enter.
    """
    content = json.dumps({"format": _FORMAT, "host": _host(), **asdict(running)}, indent=2).encode()

    def write(folder: Path) -> Path:
        # A name of its own: on a home that several machines share, another one may have the same process id.
        handle, name = tempfile.mkstemp(prefix=f"{running.pid}-", suffix=".making", dir=folder)  # with mode 0600
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        return Path(name).rename(Path(name).with_suffix(".json"))

    return _in_first_folder(write)


def new_run_folder() -> Path:
    """Create a folder for one server and its workers.

    Raises:
        PrerequisiteError: No folder can be written that other users cannot enter.
    """
    return _in_first_folder(lambda folder: Path(tempfile.mkdtemp(prefix="run-", dir=folder)))


def _in_first_folder(make: Callable[[Path], Path]) -> Path:
    """Make something in the first folder that can be written and that other users cannot enter."""
    refused: list[str] = []
    for folder in _folders():
        try:
            make_own_cache(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            if not _is_private(folder):
                folder.chmod(0o700)  # fails if it is another user's
            return make(folder)
        except OSError as error:
            refused.append(f"{error.filename}: {error.strerror}")
    raise PrerequisiteError(
        f"the server's state cannot be kept for jpeg-serve reload ({'; '.join(refused)}): set XDG_CACHE_HOME to a "
        "folder that can be written",
        reason="cache_not_writable",
    )


def withdraw(file: Path) -> None:
    """Remove a server's state."""
    with contextlib.suppress(FileNotFoundError):
        file.unlink()


def find_running() -> list[tuple[Path, Running]]:
    """Return the servers of this user that run on this machine, with their files. Files of ended ones are removed."""
    found = []
    for folder in _folders():
        if not _is_private(folder):
            continue  # another user may have written there
        for file in sorted(folder.glob("*.json")):
            running = _read(file)
            if running is None:
                continue
            if running.is_alive():
                found.append((file, running))
            else:
                withdraw(file)
                _remove_remains(running)
    return found


def _remove_remains(running: Running) -> None:
    """End the workers of an ended server that are left, and remove what they shared."""
    if not running.run_folder:
        return
    wanted = f"{VARIABLE}={running.run_folder}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # another user's, or one that ends at this moment
            if wanted in environment.read_bytes().split(b"\0"):
                os.kill(int(environment.parent.name), signal.SIGKILL)
    if running.shm_prefix:
        shared_memory.remove(running.shm_prefix)
    shutil.rmtree(running.run_folder, ignore_errors=True)


def find_at(http_address: str) -> Running | None:
    """Return the server of this user that listens on an HTTP address, None if there is none.

    Args:
        http_address: HOST:PORT.
    """
    host, _, port = http_address.rpartition(":")
    wanted = f"{'127.0.0.1' if host == 'localhost' else host}:{port}"
    return next((running for _, running in find_running() if running.http_address == wanted), None)


def started_at(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None if there is no such process, or it has ended.

    Source: proc(5), field 22 of /proc/PID/stat.
    """
    state, *rest = _stat(pid)
    return None if state in "ZX" else int(rest[18])


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal. A debugger's stop does not count."""
    return _stat(pid)[0] == "T"


def members(group: int) -> list[int]:
    """Return the processes of a process group."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if _stat(pid)[2:3] == [str(group)]]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; the state X alone for a process that does not exist."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ["X"]
    # The second field is the program's name in brackets, which may hold anything.
    return text[text.rindex(")") + 1 :].split()


def _folders() -> list[Path]:
    return [folder / _FOLDER for folder in cache_folders(COMMAND)]


def _is_private(folder: Path) -> bool:
    try:
        state = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and state.st_uid == os.getuid() and not state.st_mode & 0o077


def _read(file: Path) -> Running | None:
    """Read a state; None if it has another format, or belongs to another machine or container on the same folder."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT or content["host"] != _host():
            return None
        return Running(**{each.name: content[each.name] for each in fields(Running)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _host() -> str:
    """Return the scope of process ids: this boot of this machine, and this container."""
    parts = []
    with contextlib.suppress(OSError):  # some sandboxes have no such files
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  # a name, not a path
    return " ".join(parts)
