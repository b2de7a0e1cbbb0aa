"""A `jpeg-serve` process, started as users start it, and the processes below it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil
from jpeg_contract.folders import SHARED_MEMORY

from faults.errors import FaultsError
from faults.senders import Target

MODELS = ("preprocess", "classifier", "postprocess")
"""Begins of the names of the models with a worker."""

_STUB = "triton_python_backend_stub"
_READY = re.compile(r"ready\n  HTTP     http://(\S+)\n  gRPC     (\S+)\n  metrics  http://(\S+)/metrics")
_EVENT = re.compile(r"jpeg-serve:|[EW]\d{4} |.*\[[a-z_]+\]$")
_START_S = 120.0
_LOOK_S = 0.05


class Service:
    """`jpeg-serve` on free ports, for as long as a `with` block lasts.

    Args:
        repository: Model repository.
        log: File for its stderr.
        servers: Number of tritonservers; None leaves it to jpeg-serve.
        options: More options.
        through: A command that runs it, such as `unshare`.
        environment: Variables in addition to those of this process.
    """

    def __init__(
        self,
        repository: Path,
        log: Path,
        *,
        servers: int | None = None,
        options: Sequence[str] = (),
        through: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        arguments = ["--model-repository", str(repository)]
        for name in ("http", "grpc", "metrics"):
            arguments += [f"--{name}-port", "0"]
        if servers is not None:
            arguments += ["--servers", str(servers)]
        self._command = [*through, sys.executable, "-m", "jpeg_serve", *arguments, *options]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._addresses = ("", "", "")

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            FaultsError: It ends, or is not ready in two minutes.
        """
        with self._log.open("wb") as sink:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=self._environment
            )
        limit = time.monotonic() + _START_S
        while not (found := _READY.search(self.text())):
            if self._process.poll() is not None or time.monotonic() > limit:
                self.kill()
                raise FaultsError(f"jpeg-serve is not ready:\n{self.text()[-2000:]}", reason="service_not_ready")
            time.sleep(_LOOK_S)
        self._addresses = found[1], found[2], found[3]

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Signal jpeg-serve, and return its exit status; kill what does not end."""
        process = self._running()
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return process.wait()

    def kill(self) -> list[psutil.Process]:
        """Kill jpeg-serve and everything below it at once; return what was killed."""
        family = self.family()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._running().wait()
        return family

    @property
    def pid(self) -> int:
        """Process id of jpeg-serve."""
        return self._running().pid

    @property
    def target(self) -> Target:
        """Where it listens."""
        return Target(grpc=self._addresses[1], http=self._addresses[0])

    @property
    def metrics_url(self) -> str:
        """URL of its metrics."""
        return f"http://{self._addresses[2]}/metrics"

    def text(self) -> str:
        """Return what it printed so far."""
        return self._log.read_text(errors="replace")

    def events(self, last: int = 40) -> str:
        """Return the last lines that jpeg-serve wrote itself, and Triton's errors and warnings."""
        return "\n".join([line for line in self.text().splitlines() if _EVENT.match(line)][-last:])

    def family(self) -> list[psutil.Process]:
        """Return jpeg-serve and all processes below it."""
        try:
            me = psutil.Process(self.pid)
            return [me, *me.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def servers(self) -> list[psutil.Process]:
        """Return its tritonservers, the oldest first."""
        found = [process for process in self.family() if _program(process) == "tritonserver"]
        return sorted(found, key=lambda process: process.create_time())

    def workers(self, model: str) -> list[psutil.Process]:
        """Return the Python workers of a model, those of the oldest server first.

        Args:
            model: Begin of its name, such as "classifier".
        """
        found = []
        for process in self.family():
            arguments = _arguments(process)
            is_stub = bool(arguments) and Path(arguments[0]).name == _STUB
            if is_stub and any(argument.startswith(f"{model}") for argument in arguments[1:]):
                found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def segments(self) -> list[Path]:
        """Return its segments in /dev/shm, also those that it left."""
        return sorted(SHARED_MEMORY.glob(f"jpeg_serve_{self.pid}_*"))

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise FaultsError("jpeg-serve was not started", reason="not_started")
        return self._process


def alive(processes: Sequence[psutil.Process], timeout_s: float = 10.0) -> list[psutil.Process]:
    """Wait for processes to end, and return those that have not."""
    _, remaining = psutil.wait_procs(list(processes), timeout=timeout_s)
    return [process for process in remaining if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def _program(process: psutil.Process) -> str:
    arguments = _arguments(process)
    return Path(arguments[0]).name if arguments else ""


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
