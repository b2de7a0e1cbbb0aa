"""A peer's processes: started in a session of their own, known by a token, ended without a trace.

Run as a program (`peer_process.py TOKEN FOLDER`, with standard library alone) it is the guard of one: it waits until
its standard input ends, that is until the bench closes it or dies, and removes what is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

TOKEN = "JPEG_BENCH_PEER"  # noqa: S105, a variable's name

# A peer that is told to stop ends what it is doing; Ray takes the longest, some seconds.
_STOP_S = 20.0
_KILL_S = 10.0


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free at the moment, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class PeerProcess:
    """A process and all that it starts, also what leaves its group: each inherits the token in its environment.

    folder: where it runs. It goes, with all that is in it, when the process is stopped or the bench dies, however it
    dies.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path, log: Path) -> None:
        self._token = uuid.uuid4().hex
        self.log = log
        self._guard = subprocess.Popen(
            (sys.executable, "-I", "-S", __file__, self._token, str(folder)),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        with log.open("wb") as sink:
            self._leader = subprocess.Popen(
                command,
                env={**variables, TOKEN: self._token},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process that was started; it leads a process group."""
        return self._leader.pid

    @property
    def ended(self) -> int | None:
        """The status of that process if it has ended."""
        return self._leader.poll()

    def pids(self) -> list[int]:
        """Of all its processes that are running now."""
        return _with_token(self._token)

    def memory_mib(self) -> float:
        """What all its processes hold: proportional set size, in which shared pages count once; MiB."""
        from jpeg_bench.proc import read_rollup  # not in the guard, which has the standard library alone

        total = 0.0
        for pid in self.pids():
            # One that has just ended has no such file, or an empty one.
            with contextlib.suppress(OSError, KeyError):
                total += read_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())[1]
        return total

    def last_words(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ask it to stop, and end what is left. Nothing of it runs afterwards, and its folder is gone."""
        # One that is ending loses its environment, by which pids() knows it, before it is gone.
        known = {pid: _began(pid) for pid in self.pids()}
        if self._leader.poll() is None:
            self._leader.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._leader.wait(_STOP_S)
        # Its standard input ends with this.
        self._guard.communicate()
        self._leader.wait(_KILL_S)
        limit = time.monotonic() + _KILL_S
        while any(began and _began(pid) == began for pid, began in known.items()):
            if time.monotonic() > limit:
                raise RuntimeError(f"processes of {self.log.parent} do not end: among {sorted(known)}")
            time.sleep(0.05)


def _with_token(token: str) -> list[int]:
    mark = f"{TOKEN}={token}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        # Those of others cannot be read, and any may be gone by now.
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return sorted(found)


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if there is none, or one that has ended."""
    try:
        # After the name, which may hold anything (proc(5), /proc/pid/stat): the state is field 3, the begin field 22.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _guard(token: str, folder: Path) -> None:
    sys.stdin.read()
    limit = time.monotonic() + _KILL_S
    while (left := _with_token(token)) and time.monotonic() < limit:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(sys.argv[1], Path(sys.argv[2]))
