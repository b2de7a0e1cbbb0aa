"""The processes of a peer, which a token in their environment identifies.

Run as a program, `peer_process.py TOKEN FOLDER`, it is the watchdog of one peer: it waits for the end of its standard
input, which is when the bench closes it or exits, and then kills the remaining processes and deletes the folder.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from jpeg_bench.process_usage import pss_mib

TOKEN = "JPEG_BENCH_PEER"  # noqa: S105, name of an environment variable

_TERMINATE_TIMEOUT_S = 20.0  # Ray needs some seconds
_KILL_TIMEOUT_S = 10.0
_POLL_S = 0.05


def free_ports(count: int) -> list[int]:
    """Return different free ports of 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class PeerProcess:
    """A process and its descendants, including those that leave its process group: all inherit the token.

    Args:
        command: Program and arguments.
        variables: Environment variables.
        folder: Working folder. It is deleted when the process is stopped or the bench exits, even if it is killed.
        log: File for its output.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path, log: Path) -> None:
        self._token = uuid.uuid4().hex
        self.log = log
        self._watchdog = subprocess.Popen(
            (sys.executable, "-I", __file__, self._token, str(folder)), stdin=subprocess.PIPE, start_new_session=True
        )
        with log.open("wb") as output:
            self._leader = subprocess.Popen(
                command,
                env={**variables, TOKEN: self._token},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process ID of the launched process, which leads a process group."""
        return self._leader.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status of the launched process; None while it runs."""
        return self._leader.poll()

    def pids(self) -> list[int]:
        """Return the process IDs of all running processes."""
        return [process.pid for process in _find_processes(self._token)]

    def memory_mib(self) -> float:
        """Return the proportional set size of all processes in MiB: shared pages count once."""
        total = 0.0
        for process in _find_processes(self._token):
            # A process may exit meanwhile.
            with contextlib.suppress(psutil.Error):
                total += pss_mib(process)
        return total

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Terminate the launched process, then kill the remaining processes and delete the folder.

        Raises:
            RuntimeError: A process does not exit.
        """
        # An exiting process loses its environment, and with it the token, before it is gone.
        processes = _find_processes(self._token)
        if self._leader.poll() is None:
            self._leader.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._leader.wait(_TERMINATE_TIMEOUT_S)
        # Closes the watchdog's standard input, and waits for it.
        self._watchdog.communicate()
        self._leader.wait(_KILL_TIMEOUT_S)
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        while remaining := [process.pid for process in processes if is_running(process)]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes of {self.log.parent} do not exit: {remaining}")
            time.sleep(_POLL_S)


def is_running(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _find_processes(token: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        # Processes of other users are not readable, and any may exit meanwhile.
        with contextlib.suppress(psutil.Error):
            if process.environ().get(TOKEN) == token:
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def _watch(token: str, folder: Path) -> None:
    sys.stdin.read()
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while (remaining := _find_processes(token)) and time.monotonic() < deadline:
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(sys.argv[1], Path(sys.argv[2]))
