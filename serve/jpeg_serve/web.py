"""The web application beside the servers: `jpeg-web` as a child process, started again when it dies."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jpeg_contract.command_line import Progress
from jpeg_contract.remedies import install_command
from jpeg_contract.tensors import ENSEMBLE

from jpeg_serve import ports
from jpeg_serve.errors import PortError, PrerequisiteError, ServeError
from jpeg_serve.options import ServerOptions
from jpeg_serve.parent_death import terminate_with_parent

if TYPE_CHECKING:
    from jpeg_serve.models import Model

DEFAULT_WEB_PORT = 8080

# Packages of the extra `web` that the application imports.
_PACKAGES = ("fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "uvicorn")
_READY = re.compile(r"^jpeg-web: ready$")
_ADDRESS = re.compile(r"^  web +(\S+)$")
_PREFIX = "jpeg-web: "

_START_S = 60.0
_LOOK_S = 0.1
# Seconds before the second, third, ... start in a row of an application that dies early; the last one repeats.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_SHORT_LIFE_S = 5.0
# After so many early deaths in a row it is started no more; the servers go on.
_MOST_EARLY_DEATHS = 20
_END_S = 5.0


def require_web(options: ServerOptions, port: int) -> None:
    """Make sure that the web application can start, before the servers do.

    Args:
        options: Of the servers.
        port: Of the web application; 0 takes a free one later.

    Raises:
        PrerequisiteError: A package is missing.
        PortError: The port is taken.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PrerequisiteError(
            f"--web needs the package {missing[0]}: {install_command('web')}", reason="package_missing"
        )
    if not port:
        return
    if port in (options.http_port, options.grpc_port, options.metrics_port):
        raise PortError(f"port {port} is given twice: choose another with --web-port PORT", reason="port_used_twice")
    ports.require_free(options.address, port, "--web-port")


class WebApplication:
    """Keeps the web application running, from `start` to `stop`.

    Args:
        options: Of the servers, with the ports that are in use.
        port: Its port; 0 takes a free one.
        served: The models of the servers.
        progress: Takes lines about what happens.

    Attributes:
        url: Its address, once it is ready; empty before.
    """

    def __init__(self, options: ServerOptions, port: int, served: Sequence[Model], progress: Progress) -> None:
        self._options, self._progress = options, progress
        ensembles = [model.name for model in served if model.is_ensemble]
        self._models = sorted(ensembles, key=lambda name: name != ENSEMBLE)  # the first one is the default
        # One port for all starts, so that its address stays the same.
        self._port = port or ports.free_port(options.address)
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self._ending = threading.Event()
        self._failed = threading.Event()
        # Linux ends the process with the thread that started it, so this thread lives as long.
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self, is_ending: Callable[[], bool]) -> None:
        """Start it, and wait until it serves.

        Args:
            is_ending: Whether to wait no longer.

        Raises:
            ServeError: It does not become ready.
        """
        self._thread.start()
        limit = time.monotonic() + _START_S
        while not self.url and not is_ending():
            if self._failed.wait(_LOOK_S) or time.monotonic() > limit:
                raise ServeError("the web application does not start: see the lines above", reason="web_not_started")

    def stop(self) -> None:
        """Let it finish its open requests, and wait until it has ended."""
        self._ending.set()
        self._signal(signal.SIGTERM)
        if self._thread.is_alive():
            self._thread.join(self._options.drain_s + _END_S)
            self.kill()
            self._thread.join()

    def kill(self) -> None:
        """End it at once."""
        self._ending.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def _run(self) -> None:
        early_deaths = 0
        while not self._ending.is_set():
            begun = time.monotonic()
            try:
                cause = f"exit status {self._run_once()}"
            except OSError as error:
                cause = str(error)
            if self._ending.is_set():
                return
            early_deaths = early_deaths + 1 if time.monotonic() - begun < _SHORT_LIFE_S else 0
            if not self.url or early_deaths == _MOST_EARLY_DEATHS:
                self._progress(f"the web application ended, and is not started again ({cause}) [web_ended]")
                self._failed.set()
                return
            self._progress(f"the web application ended, and is started again ({cause}) [web_ended]")
            if early_deaths:
                self._ending.wait(_PAUSES_S[min(early_deaths, len(_PAUSES_S)) - 1])

    def _run_once(self) -> int:
        """Run it until it ends, hand its lines on, and return its exit status."""
        with subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # A session of its own: Ctrl-C reaches it through this process only.
            start_new_session=True,
            preexec_fn=terminate_with_parent(),  # noqa: PLW1509  # one system call, in a library that is loaded already
        ) as process:
            self._process = process
            if self._ending.is_set():  # `stop` found no process
                process.terminate()
            assert process.stderr is not None
            for line in map(str.rstrip, process.stderr):
                if address := _ADDRESS.match(line):
                    if self.url:
                        self._progress("the web application serves again")
                    self.url = address[1]
                elif not _READY.match(line) and not self._ending.is_set():
                    self._progress(f"web: {line.removeprefix(_PREFIX)}")
        return process.returncode

    def _command(self) -> list[str]:
        options, host = self._options, ports.reachable(self._options.address)
        command = [sys.executable, "-m", "jpeg_web"]
        command += ["--url", f"grpc://{host}:{options.grpc_port}"]
        command += ["--metrics-url", f"http://{host}:{options.metrics_port}/metrics"]
        command += ["--address", options.address, "--port", str(self._port), "--drain-s", str(max(1, options.drain_s))]
        for model in self._models:
            command += ["--model", model]
        return command
