"""One tritonserver process: started, watched, stopped, and nothing left of it."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import http.client
import os
import re
import resource
import secrets
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

from jpeg_serve import ports, shared_memory, state
from jpeg_serve.backends import prepare_backends
from jpeg_serve.bytecode import compile_models
from jpeg_serve.check import backends_needed, check_repository, models_to_load
from jpeg_serve.errors import PortError, PrerequisiteError, RepositoryProblems, ServeError, ServerDied
from jpeg_serve.locate import Installation, find_installation
from jpeg_serve.management import restricted_protocols
from jpeg_serve.tracing import trace_arguments

# HTTP and gRPC headers with this name reach the models as request parameters. Names of headers have no case. Triton
# looks for the pattern anywhere in a name: without its ends, every cookie would be handed on, too.
FORWARDED_HEADER = "(?i)^k$"

_PR_SET_PDEATHSIG = 1
_MOST_OPEN_FILES = 1 << 20  # where the system knows no bound; what Linux allows a process by default (fs.nr_open)
_LAST_WORDS = 400
_MAX_RESTARTS = 3
# How long a port may still be held by the server of a jpeg-serve that was killed. Without open requests, it needs some
# seconds to unload its models.
_ORPHAN_S = 15.0


@dataclass(frozen=True)
class ServerOptions:
    """What to serve and where.

    http_port, grpc_port, metrics_port: 0 takes a free one.
    address: what all three listen on; loopback unless told otherwise.
    load: names of the models to load; none takes the ensembles and, through them, their steps.
    backends: folder of Python-based backends; None takes `backends` beside the model repository, else this
        project's own.
    triton: further options, in tritonserver's own words; they come last and win.
    ready_timeout_s: how long the models may take to load.
    drain_s: how long open requests may take once a stop was asked for.
    trace_to: an OpenTelemetry collector's address for traces (jpeg_serve.tracing); empty traces nothing.
    trace_rate: every trace_rate-th request is traced, and each that brings the header `traceparent`; 0: only those.
    """

    model_repository: Path = Path("model_repository")
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    address: str = ports.LOOPBACK
    load: Sequence[str] = ()
    backends: Path | None = None
    triton: Sequence[str] = ()
    ready_timeout_s: float = 300.0
    drain_s: int = 30
    trace_to: str = ""
    trace_rate: int = 1


class TritonServer:
    """A tritonserver that lives from `start` to `stop`, or as long as a `with` block.

    log: gets everything that tritonserver prints; None is this process's stderr.
    """

    def __init__(self, options: ServerOptions, *, log: BinaryIO | None = None) -> None:
        self.options = self._asked = options
        self._log = log
        self._restarts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._words: collections.deque[bytes] = collections.deque(maxlen=_LAST_WORDS)
        self._shm_prefix = ""
        self._state: Path | None = None
        self._models: list[str] = []

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
        return f"{ports.reachable(self.options.address)}:{self.options.metrics_port}"

    def start(self) -> None:
        """Check the repository and start the process. Raises ServeError."""
        options = self.options
        problems = check_repository(options.model_repository, load=options.load)
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise RepositoryProblems(f"{options.model_repository} cannot be served:\n{lines}")
        installation = find_installation()
        backends = prepare_backends(installation, _our_backends(options))
        _require_backends(backends, options)
        compile_models(options.model_repository)
        self._models = list(options.load or models_to_load(options.model_repository))
        self.options = options = self._settle_ports()
        self._shm_prefix = shared_memory.new_prefix()
        arguments = _arguments(options, self._models, backends, self._shm_prefix)
        self._process = subprocess.Popen(
            [str(installation.executable), *arguments],
            env=installation.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A session of its own: Ctrl-C reaches it through us only, and its workers can be found by its group.
            start_new_session=True,
            preexec_fn=_before_it_starts(),  # noqa: PLW1509  # two system calls, in libraries that are loaded already
        )
        self._pump = threading.Thread(target=self._copy_log, name="triton-log", daemon=True)
        self._pump.start()
        self._publish(installation, arguments)

    def wait_until_ready(self, tell: Callable[[float], None] | None = None) -> None:
        """Wait until every model is loaded and the server answers; `tell` gets the seconds waited, once a second.

        Raises ServerDied if it ends before, or takes longer than `ready_timeout_s`.
        """
        begun = told = time.monotonic()
        while not self._is_ready():
            now = time.monotonic()
            status = self._running().poll()
            if status is not None:
                if self._lost_a_port():
                    continue
                raise ServerDied(f"tritonserver ended before it was ready ({_describe_exit(status)}):\n{self._why()}")
            if now - begun > self.options.ready_timeout_s:
                limit = f"{self.options.ready_timeout_s:.0f} s"
                raise ServerDied(f"tritonserver was not ready after {limit}; its last words:\n{self._why()}")
            if tell is not None and now - told >= 1:
                told = now
                tell(now - begun)
            time.sleep(0.05)

    def wait(self) -> int:
        """Wait until the process ends; returns its exit status, negative for a signal."""
        return self._running().wait()

    def terminate(self) -> None:
        """Ask the server to stop: it takes no new requests, and finishes the open ones. Returns at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the server and its workers at once; open requests are lost."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Terminate, wait for the drain, kill what is left then, and remove its shared memory. Can be repeated."""
        if self._process is None:
            return
        self.terminate()
        try:
            # tritonserver counts the drain itself; beyond it, only the unloading of the models is left.
            self._process.wait(self.options.drain_s + 10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.clean_up()

    def clean_up(self) -> None:
        """After the process has ended, or must: kill the workers that are left, and remove their shared memory."""
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
        self._process = None

    def _publish(self, installation: Installation, arguments: Sequence[str]) -> None:
        """Leave what `jpeg-serve reload` needs."""
        pid, owner = self._running().pid, os.getpid()
        started, owner_started = state.started_at(pid), state.started_at(owner)
        if started is None or owner_started is None:
            return  # it has ended already, and whoever waits for it will hear why
        state.find_running()  # removes what servers left that were killed
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
                load=list(self.options.load),
                keys={protocol: list(key) for protocol, key in restricted_protocols(arguments).items()},
                visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
            )
        )

    def _settle_ports(self) -> ServerOptions:
        options = self.options
        settled: dict[str, int] = {}
        for name in ("http_port", "grpc_port", "metrics_port"):
            port = getattr(options, name)
            if port == 0:
                while port == 0 or port in settled.values():
                    port = ports.free_port(options.address)
            else:
                _wait_until_free(options.address, port, f"--{name.replace('_', '-')}")
            if port in settled.values():
                raise PortError(f"port {port} is given for two things: HTTP, gRPC and metrics need one each")
            settled[name] = port
        return replace(
            options,
            http_port=settled["http_port"],
            grpc_port=settled["grpc_port"],
            metrics_port=settled["metrics_port"],
        )

    def _lost_a_port(self) -> bool:
        """Whether it ended because a port that was free was taken meanwhile; it is then started anew on others."""
        chosen = 0 in (self._asked.http_port, self._asked.grpc_port, self._asked.metrics_port)
        if not chosen or self._restarts == _MAX_RESTARTS or "already in use" not in self._why():
            return False
        self._restarts += 1
        self.clean_up()
        self.options = self._asked
        self._words.clear()
        self.start()
        return True

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServeError("the server was not started, or was stopped")
        return self._process

    def _is_ready(self) -> bool:
        """Whether the server answers, and each of the models that it was told to load is ready."""
        paths = ["/v2/health/ready", *(f"/v2/models/{quote(name, safe='')}/ready" for name in self._models)]
        connection = http.client.HTTPConnection(self.http_address, timeout=2)
        try:
            for path in paths:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    return False
        except (OSError, http.client.HTTPException):
            return False
        else:
            return True
        finally:
            connection.close()

    def _copy_log(self) -> None:
        stream = self._running().stdout
        assert stream is not None
        sink = self._log or sys.stderr.buffer
        for line in stream:
            self._words.append(line)
            # A full disk or a closed terminal must not block the server on a full pipe.
            with contextlib.suppress(OSError, ValueError):
                sink.write(line)
                sink.flush()

    def _why(self) -> str:
        """What the log says of the failure: a line for each model that did not load, else its last lines."""
        if self._process is not None and self._process.poll() is not None and self._pump is not None:
            self._pump.join(timeout=5)
        lines = [line.decode(errors="replace").rstrip() for line in self._words]
        # Triton writes a log entry as one line, with line breaks as \\n; after "At:" comes a Python traceback.
        failed = [re.search(r"\"failed to load '([^']+)' version \d+: (.*?)(\\n|\"$|$)", line) for line in lines]
        reasons = [f"{found[1]}: {found[2]}" for found in failed if found]
        return "\n".join(f"  {line}" for line in (reasons or lines[-8:])) or "  (it printed nothing)"


def _wait_until_free(address: str, port: int, option: str) -> None:
    """Wait for the server of a jpeg-serve that was killed, which still finishes its requests. Raises PortError."""
    limit = time.monotonic() + _ORPHAN_S
    while True:
        try:
            return ports.require_free(address, port, option)
        except PortError as error:
            orphans = [each.pid for _, each in state.find_running() if each.holds(port) and each.is_orphaned()]
            if not orphans:
                # It may have ended since: whether the port is free now is what counts.
                return ports.require_free(address, port, option)
            if time.monotonic() > limit:
                raise PortError(
                    f"{error}. The tritonserver with process id {orphans[0]} has it, whose jpeg-serve was killed, and "
                    "which still finishes its requests: start again when it has ended"
                ) from error
        time.sleep(0.1)


def _our_backends(options: ServerOptions) -> Path | None:
    beside = options.model_repository.resolve().parent / "backends"
    of_checkout = Path(__file__).parents[2] / "backends"
    places = [options.backends] if options.backends is not None else [beside, of_checkout]
    return next((place for place in places if place.is_dir()), None)


def _require_backends(backends: Path, options: ServerOptions) -> None:
    """Raises PrerequisiteError if a model that is to be loaded needs a backend that is not there."""
    present = sorted(path.name for path in backends.iterdir())
    for model, backend in backends_needed(options.model_repository).items():
        # A model may bring the code of its backend in a folder of its own.
        own = (options.model_repository / model).glob("**/libtriton_*.so")
        if backend not in present and not any(own):
            raise PrerequisiteError(
                f"{model} needs the backend {backend}, and here are {', '.join(present)}: name the folder of the "
                "project's backends with --backends DIR, or serve it with a tritonserver that has it"
            )


def _arguments(options: ServerOptions, models: Sequence[str], backends: Path, shm_prefix: str) -> list[str]:
    """The command line of tritonserver; what the user gave in its own words replaces ours."""
    address = options.address
    arguments = [
        f"--model-repository={options.model_repository}",
        f"--backend-directory={backends}",
        f"--http-port={options.http_port}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-port={options.metrics_port}",
        f"--http-address={address}",
        f"--grpc-address={address}",
        f"--metrics-address={address}",
        # Explicit: a classifier that was not built does not keep the chosen one from being served.
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # A server that loads or unloads a model is ready all the same, or each swap would take it out of a balancer's
        # list. Whether the ensemble itself is ready is asked at /v2/models/NAME/ready.
        "--strict-readiness=false",
        # Quantiles of the time that a request takes; without it there are sums and counts only.
        "--metrics-config=summary_latencies=true",
        f"--exit-timeout-secs={options.drain_s}",
        f"--http-header-forward-pattern={FORWARDED_HEADER}",
        f"--grpc-header-forward-pattern={FORWARDED_HEADER}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *(trace_arguments(options.trace_to, options.trace_rate) if options.trace_to else ()),
    ]
    given = {option.split("=")[0] for option in options.triton if option.startswith("--")}
    # Who may load models may run any code, and a web page in a browser on this machine reaches loopback, too: all
    # management is shut with a key, for this user's `jpeg-serve reload`. It keeps out web pages and other machines, not
    # other users of this one: it stands in the command line. Whoever else needs it gives a key of his own.
    key = f"model-repository,shared-memory,trace,logging:admin-key={secrets.token_hex(16)}"
    arguments += [f"--http-restricted-api={key}", f"--grpc-restricted-protocol={key}"]
    # These may stand there many times, and each sets something else.
    replaceable = given - {"--backend-config", "--metrics-config", "--trace-config"}
    return [argument for argument in arguments if argument.split("=")[0] not in replaceable] + list(options.triton)


def _before_it_starts() -> Callable[[], None]:
    """What the child does before it becomes tritonserver.

    It gets SIGTERM when this process is killed, so that no server is left without its owner. And it may open as many
    files as the system lets it: a connection beyond the usual 1024 would be accepted by the kernel and never answered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
    open_files = (max(soft, most) if soft != resource.RLIM_INFINITY else soft, hard)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        resource.setrlimit(resource.RLIMIT_NOFILE, open_files)

    return prepare


def _describe_exit(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
