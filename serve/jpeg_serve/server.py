"""One tritonserver process: start, wait until it is ready, stop, and remove everything that it leaves."""

from __future__ import annotations

import collections
import contextlib
import http.client
import os
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import quote

from jpeg_contract import run_folder
from jpeg_contract.gpus import VISIBLE_DEVICES
from jpeg_contract.tensors import ENSEMBLE

from jpeg_serve import ports, shared_memory, socket_buffers, state
from jpeg_serve.backends import prepare_backends
from jpeg_serve.bytecode import compile_models
from jpeg_serve.check import examine_repository, models_to_load
from jpeg_serve.connection import connect
from jpeg_serve.drain import drain
from jpeg_serve.errors import PortError, RepositoryProblems, ServeError, ServerDied
from jpeg_serve.exposure import require_shelter
from jpeg_serve.locate import Installation, find_installation
from jpeg_serve.logs import OPTIONS_WITHOUT_GPU, expected_without_gpu, format_triton_line
from jpeg_serve.machine import ServedWith, backends_folder, this_machine
from jpeg_serve.management import restricted_protocols
from jpeg_serve.models import read_models, served_ensembles
from jpeg_serve.options import ServerOptions
from jpeg_serve.parent_death import terminate_with_parent
from jpeg_serve.probe import DEFAULT_TIMEOUT_S, ProbeResult, probe
from jpeg_serve.queue_bound import QueueBound
from jpeg_serve.restrictions import restriction_arguments
from jpeg_serve.serving_backends import ServedClassifier
from jpeg_serve.tracing import trace_arguments
from jpeg_serve.triton_metrics import read_metrics

__all__ = ["Member", "ServerOptions", "TritonServer"]

# HTTP and gRPC headers with these names reach the models as request parameters. Names of headers have no case. Triton
# searches a name for the pattern: without its ends, every cookie would match, too.
FORWARDED_HEADER = "(?i)^(k|threshold|deadline)$"

# Triton's log entries about models that do not load: the model, and the reason. Triton writes an entry as one line,
# with line breaks as \n; a Python traceback follows after "At:".
_REASON = r"(.*?)(?:\\n|\"$|$)"
_FAILURES = (
    re.compile(rf"\"failed to load '([^']+)' version \d+: {_REASON}"),
    re.compile(rf"\"Poll failed for model directory '([^']+)': {_REASON}"),
    re.compile(rf"\"failed to load model '([^']+)': {_REASON}"),
)
# The consequence for an ensemble, or its own reason.
_ENSEMBLE_FAILURES = (re.compile(rf"Invalid argument: (?:in )?ensemble '?([^ ',]+)'?,? {_REASON}"),)

_MOST_OPEN_FILES = 1 << 20  # where the system sets no bound: Linux's default for a process (fs.nr_open)
_LAST_LINES = 400
_SHOWN_LINES = 8
_MAX_RESTARTS = 3
_UNLOAD_S = 2.0
# What Triton 2.51 writes about a worker that gave no sign of life for a second.
_UNHEALTHY = "is not healthy"
# Time for the server of a killed jpeg-serve to release its ports. Without open requests, it unloads its models in some
# seconds.
_ORPHAN_S = 15.0


@dataclass(frozen=True)
class Member:
    """The place of a server among those that one `jpeg-serve` runs on the same ports.

    Attributes:
        number: From 1.
        is_alone: Whether there is no other.
        visible_devices: CUDA_VISIBLE_DEVICES of the server; None leaves it as it is.
    """

    number: int
    is_alone: bool = True
    visible_devices: str | None = None


class TritonServer:
    """A tritonserver that runs from `start` to `stop`, or as long as a `with` block.

    Args:
        options: The models to serve, and where.
        log: Receives everything that tritonserver prints; None is this process's stderr.
        is_trial: It only finds out whether the repository loads: `jpeg-serve reload` does not find it.
        member: Its place, if it shares its ports, which are settled then; its metrics are on a free port of loopback.

    Attributes:
        options: With the ports that are in use.
        classifiers: Which backend serves each classifier; set by `start`.
        server_id: Its name among several on the same ports; empty if it is alone.
        most_http_responses: How many HTTP responses can finish at once without a loss; 0 if that is unknown.
    """

    def __init__(
        self,
        options: ServerOptions,
        *,
        log: BinaryIO | None = None,
        is_trial: bool = False,
        member: Member | None = None,
    ) -> None:
        self.options = self._given_options = options
        self.classifiers: list[ServedClassifier] = []
        self._log = log
        self._is_trial = is_trial
        self.member = member
        self.server_id = ""
        if member is not None and not member.is_alone:
            self.server_id = f"triton-{member.number}-{secrets.token_hex(4)}"
        self.most_http_responses = 0
        self.run_folder: Path | None = None
        self.ensembles: dict[str, list[str]] = {}
        self._ready = False
        self._queue_bound: QueueBound | None = None
        self._restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._lines: collections.deque[bytes] = collections.deque(maxlen=_LAST_LINES)
        self._shm_prefix = ""
        self._state: Path | None = None
        self._models: list[str] = []
        self._served_with: dict[str, ServedWith] = {}
        self._has_gpu = True

    def __enter__(self) -> TritonServer:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the tritonserver."""
        return self._running().pid

    @property
    def http_address(self) -> str:
        """HOST:PORT for HTTP, as tritonclient takes it."""
        return f"{ports.reachable(self.options.address)}:{self.options.http_port}"

    @property
    def grpc_address(self) -> str:
        """HOST:PORT for gRPC, as tritonclient takes it."""
        return f"{ports.reachable(self.options.address)}:{self.options.grpc_port}"

    @property
    def metrics_address(self) -> str:
        """HOST:PORT of the Prometheus metrics."""
        address = ports.LOOPBACK if self.member is not None else ports.reachable(self.options.address)
        return f"{address}:{self.options.metrics_port}"

    def start(self) -> None:
        """Check the repository and start the process.

        Raises:
            RepositoryProblems: The repository cannot be served.
            ServeError: The process cannot be started.
        """
        options = self.options
        ours = backends_folder(options.model_repository, options.backends)
        own = self._own_environment()
        # Its own GPUs count, which may be fewer than those of this process.
        machine = this_machine(backends=ours, environment={**os.environ, **own}, serve_with=options.serve_with)
        result = examine_repository(options.model_repository, machine, load=options.load)
        if result.problems:
            raise RepositoryProblems.of(options.model_repository, result.problems)
        self.classifiers, self._served_with = result.classifiers, dict(result.served_with)
        installation = find_installation()
        require_shelter(options.address, installation, behind_gateway=options.behind_gateway)
        backends = prepare_backends(installation, ours if ours.is_dir() else None, self._served_with)
        compile_models(options.model_repository, options.load)
        self._models = models_to_load(options.model_repository, options.load)
        self.options = options = self._settle_ports()
        self._shm_prefix = shared_memory.new_prefix()
        self.run_folder = state.new_run_folder()
        models, _ = read_models(options.model_repository)
        self.ensembles = served_ensembles(models, self._models)
        run_folder.write_ensembles(self.run_folder, self.ensembles)
        self._has_gpu = bool(machine.gpus.found)
        arguments = _arguments(options, self._models, backends, self._shm_prefix, has_gpu=self._has_gpu)
        environment = {**installation.environment(), **own, run_folder.VARIABLE: str(self.run_folder)}
        if self.member is not None:
            arguments += [
                *([f"--id={self.server_id}"] if self.server_id else []),
                "--reuse-http-port=true",
                "--reuse-grpc-port=true",
                f"--metrics-address={ports.LOOPBACK}",
            ]
        self._process = subprocess.Popen(
            [str(installation.executable), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C reaches it through this process only, and its workers are in its group.
            start_new_session=True,
            # The files that it writes, such as a log with requests in it (--log-file), are this user's only.
            umask=0o077,
            preexec_fn=_prepare_child(),  # noqa: PLW1509  # two system calls, in libraries that are loaded already
        )
        self._pump = threading.Thread(target=self._copy_log, name="triton-log", daemon=True)
        self._pump.start()
        if not self._is_trial:
            self._publish(installation, ours, arguments)

    def wait_until_ready(
        self, report: Callable[[float], None] | None = None, is_ending: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until every model is loaded and the server responds.

        Args:
            report: Gets the seconds waited, once a second.
            is_ending: Whether to give up.

        Raises:
            ServerDied: The server ended, or took longer than `ready_timeout_s`.
        """
        begun = reported = time.monotonic()
        while not self.is_ready():
            now = time.monotonic()
            status = self._running().poll()
            if is_ending():
                raise ServerDied("stopped before it was ready", reason="interrupted")
            if status is not None:
                if self._lost_a_port():
                    continue
                raise self._died(f"tritonserver ended before it was ready ({_describe_exit(status)})", "ended_early")
            if now - begun > self.options.ready_timeout_s:
                limit = f"{self.options.ready_timeout_s:.0f} s"
                raise self._died(f"tritonserver was not ready after {limit}", "not_ready_in_time")
            if report is not None and now - reported >= 1:
                reported = now
                report(now - begun)
            time.sleep(0.05)
        self._ready = True
        self.make_shared_memory_private()
        self.most_http_responses = socket_buffers.enlarge(self.pid)
        if not self._is_trial and self.run_folder is not None:
            self._queue_bound = QueueBound(self.run_folder, self.metrics_address, self.options.max_waiting)
            self._queue_bound.start()

    def is_ready(self) -> bool:
        """Whether the server responds, each of the models that it loads by name is ready, and it publishes metrics.

        Triton opens the port of its metrics last, some milliseconds after the one for HTTP, and ends if it is taken.
        """
        paths = ["/v2/health/ready", *(f"/v2/models/{quote(name, safe='')}/ready" for name in self._models)]
        connection = None
        try:
            connection = connect(self.http_address, self.server_id, timeout_s=2)
            for path in paths:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    return False
            if not self.options.names_of_triton & {"--allow-metrics", "--metrics-address", "--metrics-port"}:
                read_metrics(self.metrics_address)
        except (OSError, http.client.HTTPException):
            return False
        else:
            return True
        finally:
            if connection is not None:
                connection.close()

    def make_shared_memory_private(self) -> None:
        """Let nobody else read the photos in the workers' shared memory."""
        shared_memory.make_private(self._shm_prefix)

    def probe(self, timeout_s: float = DEFAULT_TIMEOUT_S, ensemble: str = ENSEMBLE) -> ProbeResult:
        """Let an ensemble classify a photo, and compare the label with the classifier's report: see `probe.probe`."""
        return probe(
            self.http_address,
            ensemble,
            timeout_s=timeout_s,
            repository=self.options.model_repository,
            server_id=self.server_id,
        )

    def poll(self) -> int | None:
        """Return the exit status of the process, negative for a signal; None while it runs."""
        return self._running().poll()

    def unhealthy_worker(self) -> str:
        """Return Triton's last log line about a worker that it takes for dead, empty if there is none."""
        return next((line for line in reversed(self._log_lines()) if _UNHEALTHY in line), "")

    def wait(self) -> int:
        """Wait until the process ends, and return its exit status, negative for a signal."""
        return self._running().wait()

    def terminate(self) -> None:
        """Start to stop the server: it accepts no new requests, and finishes the open ones. Returns at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the server and its workers at once; open requests are lost."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def drain(self) -> bool:
        """Refuse new requests and wait until the accepted ones are answered, at most `drain_s`.

        Returns:
            Whether all are answered. False, at once, if the server's first step is not this project's.
        """
        if self._process is None or self.run_folder is None or not self._ready or self._process.poll() is not None:
            return False
        return drain(self.run_folder, self.metrics_address, self.options.drain_s, lambda: self.poll() is None)

    def stop(self) -> None:
        """Drain, terminate, kill remaining workers, remove shared memory. Can be repeated."""
        if self._process is None:
            return
        try:
            drained = not self._is_trial and self.drain()
            self.terminate()
            # Without open requests, only the models are left to unload, and connections that clients keep open.
            # Otherwise tritonserver limits the wait for open requests itself.
            self._process.wait(_UNLOAD_S if drained else self.options.drain_s + 10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.clean_up()

    def clean_up(self) -> None:
        """End the process and its workers, and remove their shared memory and the server's state."""
        if self._queue_bound is not None:
            self._queue_bound.stop()
            self._queue_bound = None
        if self._process is None:
            return
        self.kill()
        self._process.wait()
        if self._state is not None:
            state.withdraw(self._state)
            self._state = None
        if self._pump is not None:
            self._pump.join(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        shared_memory.remove(self._shm_prefix)
        if self.run_folder is not None:
            shutil.rmtree(self.run_folder, ignore_errors=True)
        self._ready = False
        self._process = None

    def _publish(self, installation: Installation, ours: Path, arguments: Sequence[str]) -> None:
        """Write the state that `jpeg-serve reload` and `probe` need."""
        pid, owner = self._running().pid, os.getpid()
        started, owner_started = state.started_at(pid), state.started_at(owner)
        if started is None or owner_started is None:
            return  # it has ended already, which wait_until_ready reports
        state.find_running()  # removes the state of killed servers
        self._state = state.publish(
            state.Running(
                pid=pid,
                started=started,
                owner=owner,
                owner_started=owner_started,
                http_address=self.http_address,
                grpc_address=self.grpc_address,
                metrics_address=self.metrics_address,
                model_repository=str(self.options.model_repository.resolve()),
                prefix=sys.prefix,
                python=sys.executable,
                natives=str(installation.backends),
                backends=str(ours.resolve()),
                served_with=self._served_with,
                load=list(self.options.load),
                keys={protocol: list(key) for protocol, key in restricted_protocols(arguments).items()},
                visible_devices={**os.environ, **self._own_environment()}.get(VISIBLE_DEVICES),
                server_id=self.server_id,
                shm_prefix=self._shm_prefix,
                run_folder=str(self.run_folder),
            )
        )

    def _own_environment(self) -> dict[str, str]:
        """Return the variables of the server that differ from those of this process."""
        devices = self.member.visible_devices if self.member is not None else None
        return {} if devices is None else {VISIBLE_DEVICES: devices}

    def _settle_ports(self) -> ServerOptions:
        options = self.options
        if self.member is not None:
            return replace(options, metrics_port=ports.free_port(ports.LOOPBACK))
        settled: dict[str, int] = {}
        for name in ("http_port", "grpc_port", "metrics_port"):
            port = getattr(options, name)
            if port == 0:
                while port == 0 or port in settled.values():
                    port = ports.free_port(options.address)
            else:
                wait_until_free(options.address, port, f"--{name.replace('_', '-')}")
            if port in settled.values():
                raise PortError(
                    f"port {port} is given twice: HTTP, gRPC and metrics need one each", reason="port_used_twice"
                )
            settled[name] = port
        return replace(
            options,
            http_port=settled["http_port"],
            grpc_port=settled["grpc_port"],
            metrics_port=settled["metrics_port"],
        )

    def _lost_a_port(self) -> bool:
        """Whether it ended because a free port was taken meanwhile; it is then started again on others."""
        given = self._given_options
        chosen = 0 in (given.http_port, given.grpc_port, given.metrics_port) and self.member is None
        if not chosen or self._restarts == _MAX_RESTARTS or "already in use" not in self._last_log():
            return False
        self._restarts += 1
        self.clean_up()
        self.options = given
        self._lines.clear()
        self.start()
        return True

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServeError("the server was not started, or was stopped", reason="not_started")
        return self._process

    def _copy_log(self) -> None:
        process, log_format = self._running(), self.options.log_format
        assert process.stdout is not None
        sink = self._log or sys.stderr.buffer
        for line in process.stdout:
            entry = line if self._has_gpu else expected_without_gpu(line)
            self._lines.append(entry)
            # A full disk or a closed terminal must not block the server on a full pipe.
            with contextlib.suppress(OSError, ValueError):
                sink.write(format_triton_line(entry, process.pid, log_format))
                sink.flush()

    def _died(self, message: str, reason: str) -> ServerDied:
        """Return the error for a server that is not ready: with Triton's reasons, else with the end of its log."""
        failures = self._failures()
        lines = "\n".join(f"  {model}: {cause}" for model, cause in failures)
        return ServerDied(f"{message}:\n{lines or self._last_log()}", reason=reason, failures=failures)

    def _failures(self) -> list[tuple[str, str]]:
        """Return the models that did not load, and Triton's first reason for each."""
        lines = self._log_lines()
        for patterns in (_FAILURES, _ENSEMBLE_FAILURES):
            found: dict[str, str] = {}
            for match in (pattern.search(line) for line in lines for pattern in patterns):
                if match:
                    found.setdefault(match[1], match[2])
            if found:
                return list(found.items())
        return []

    def _log_lines(self) -> list[str]:
        if self._process is not None and self._process.poll() is not None and self._pump is not None:
            self._pump.join(timeout=5)
        return [line.decode(errors="replace").rstrip() for line in self._lines]

    def _last_log(self) -> str:
        return "\n".join(f"  {line}" for line in self._log_lines()[-_SHOWN_LINES:]) or "  (it printed nothing)"


def wait_until_free(address: str, port: int, option: str) -> None:
    """Wait until a port is free that the server of a killed jpeg-serve still uses. Raises PortError."""
    limit = time.monotonic() + _ORPHAN_S
    while True:
        try:
            return ports.require_free(address, port, option)
        except PortError as error:
            orphans = [each.pid for _, each in state.find_running() if each.holds(port) and each.is_orphaned()]
            if not orphans:
                # It may have ended meanwhile.
                return ports.require_free(address, port, option)
            if time.monotonic() > limit:
                raise PortError(
                    f"{error}. The tritonserver with process id {orphans[0]} uses it: its jpeg-serve was killed, and "
                    "it finishes its open requests. Start again when it has ended"
                ) from error
        time.sleep(0.1)


def _arguments(
    options: ServerOptions, models: Sequence[str], backends: Path, shm_prefix: str, *, has_gpu: bool
) -> list[str]:
    """Return the options of tritonserver; those that the user gives after -- replace ours."""
    address = options.address
    http_address = f"ipv6:{address}" if ":" in address else address
    arguments = [
        f"--model-repository={options.model_repository}",
        f"--backend-directory={backends}",
        f"--http-port={options.http_port}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-port={options.metrics_port}",
        # Triton's HTTP front ends take IPv6 with this prefix (libevhtp's evhtp_bind_socket), gRPC takes it in brackets.
        f"--http-address={http_address}",
        f"--grpc-address={ports.in_brackets(address)}",
        f"--metrics-address={http_address}",
        # Explicit: an unbuilt classifier does not keep the chosen one from being served.
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # A server that loads or unloads a model stays ready, or each swap would remove it from a load balancer.
        # /v2/models/NAME/ready states whether the ensemble itself is ready.
        "--strict-readiness=false",
        # The check refuses configs without tensors. Triton would start one more Python process for each model that it
        # loads, which has nothing to add, and wait for its end: a second of each start.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={options.drain_s}",
        f"--http-header-forward-pattern={FORWARDED_HEADER}",
        f"--grpc-header-forward-pattern={FORWARDED_HEADER}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *(trace_arguments(options.trace_to, options.trace_rate) if options.trace_to else ()),
        *(() if has_gpu else OPTIONS_WITHOUT_GPU),
    ]
    arguments += restriction_arguments(options.shared_memory_key_file)
    # These may be repeated, and each sets something else.
    replaceable = options.names_of_triton - {"--backend-config", "--trace-config"}
    return [argument for argument in arguments if argument.split("=")[0] not in replaceable] + list(options.triton)


def _prepare_child() -> Callable[[], None]:
    """Return the preparation of the child process, before it becomes tritonserver.

    It ends with this process. And it may open as many files as the system allows: beyond the default 1024, the kernel
    would accept connections that are never served.
    """
    end_with_parent = terminate_with_parent()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    open_files = (max(soft, most) if soft != resource.RLIM_INFINITY else soft, hard)

    def prepare() -> None:
        end_with_parent()
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)

    return prepare


def _describe_exit(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
