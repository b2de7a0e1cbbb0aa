"""The faults. Each ends what it began, also when the block that it lasts for fails."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from faults.errors import NotPossibleHere

_FREEZER = Path("/sys/fs/cgroup/freezer")
_FREEZE_LIMIT_S = 5.0
_POLL_S = 0.01
_FILL_CHUNK = 1 << 20


def kill(processes: Sequence[psutil.Process]) -> float:
    """Kill processes, and return the time."""
    now = time.monotonic()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return now


@contextlib.contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop processes with SIGSTOP, and continue those that still exist at the end."""
    try:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


@contextlib.contextmanager
def group_stopped(leader: int) -> Iterator[None]:
    """Stop a whole process group with SIGSTOP, and continue it at the end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGCONT)


def freezer_missing() -> str:
    """Return why this machine cannot freeze a control group; empty if it can."""
    if not (_FREEZER / "cgroup.procs").is_file():
        return f"needs the freezer of cgroup v1 at {_FREEZER}"
    if not os.access(_FREEZER, os.W_OK):
        return f"needs the right to write to {_FREEZER}, which root has"
    return ""


@contextlib.contextmanager
def frozen(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Freeze processes as a paused virtual machine is: no signal tells them.

    Raises:
        NotPossibleHere: See `freezer_missing`.
    """
    if missing := freezer_missing():
        raise NotPossibleHere(missing)
    group = _FREEZER / f"faults-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    state = group / "freezer.state"
    try:
        for process in processes:
            with contextlib.suppress(OSError):  # it has ended
                (group / "cgroup.procs").write_text(str(process.pid))
        state.write_text("FROZEN")
        _wait_for(lambda: state.read_text().strip() == "FROZEN", _FREEZE_LIMIT_S)
        yield
    finally:
        state.write_text("THAWED")
        _leave(group)


def _leave(group: Path) -> None:
    """Move what is in a control group to the root, and remove it."""
    limit = time.monotonic() + _FREEZE_LIMIT_S
    while True:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (_FREEZER / "cgroup.procs").write_text(pid)
        try:
            group.rmdir()
        except OSError:  # a process that has just ended, or forked
            if time.monotonic() > limit:
                raise
            time.sleep(_POLL_S)
        else:
            return


@contextlib.contextmanager
def out_of_memory(process: psutil.Process, spare: int = 1 << 20) -> Iterator[None]:
    """Let a process allocate hardly anything: its address space may grow by `spare` bytes only."""
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_AS)
    resource.prlimit(process.pid, resource.RLIMIT_AS, (process.memory_info().vms + spare, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (soft, hard))


def own_mount(target: Path | str, size: str) -> list[str]:
    """Return a command prefix: what follows sees a small tmpfs of its own at a folder, and nobody else does.

    Args:
        target: Folder, such as /dev/shm.
        size: As mount(8) takes it, such as "64m".

    Raises:
        NotPossibleHere: This user may not mount here.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise NotPossibleHere("needs unshare (Debian, Ubuntu: apt-get install util-linux)")
    prefix = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        raise NotPossibleHere("needs the right to make a mount namespace, which root has")
    script = f'mount -t tmpfs -o size={size} tmpfs "{target}" && exec "$@"'
    return [*prefix, "sh", "-c", script, "sh"]


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill a file system with one file, and remove the file at the end.

    Args:
        folder: In a small file system of its own (`own_mount`): a full /dev/shm of the machine hurts all its processes.
    """
    filler = folder / "faults.filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(_FILL_CHUNK))
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1))
        yield
    finally:
        filler.unlink(missing_ok=True)


def send_half(address: str, request: bytes, share: float = 0.5, *, reset: bool = True) -> None:
    """Send a part of a request over a connection of its own, and hang up.

    Args:
        address: HOST:PORT.
        request: With its head.
        share: Part that is sent, 0 to 1.
        reset: Hang up with RST instead of FIN.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        connection.sendall(request[: int(len(request) * share)])
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _wait_for(condition: Callable[[], bool], limit_s: float) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > limit:
            raise NotPossibleHere(f"the freezer did not freeze within {limit_s:g} s")
        time.sleep(_POLL_S)
