"""The server under test: its processes, its log, its memory, and what it serves."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from gateway_support import Gateway, ports_of
from jpeg_contract.model_names import own_name
from jpeg_contract.tensors import CLASSIFIER_PREFIX, ENSEMBLE, POSTPROCESS, PREPROCESS
from jpeg_serve import ServerOptions, TritonServer

from fuzz.samples import FORMATS, SEVERAL, FuzzError, Model, Tensor
from fuzz.wire import Access, HttpRequest, Sender

_STATES_OF_A_FAULT = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
TRITON, GATEWAY = "tritonserver", "gateway"
_LOG_TAIL_BYTES = 6000
# A process that is about to die needs this long to be seen dead.
_DYING_S = 1.5


@dataclass(frozen=True)
class Death:
    """What ended, and how.

    Attributes:
        who: `tritonserver`, or the command line of a worker.
        how: Name of the signal, or the exit status; of a worker its state.
        log_tail: The last lines of the server's log.
    """

    who: str
    how: str
    log_tail: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Describe it for a file."""
        return {"who": self.who, "how": self.how, "log_tail": list(self.log_tail)}


class ServerUnderTest:
    """A tritonserver that can be started again.

    Args:
        repository: What it serves.
        log: File of its output, all starts one after the other.
        behind_gateway: Whether requests go through the gateway.

    Attributes:
        sender: Sends requests to it, or to its gateway.
        behind_gateway: As given.
        starts: How often it was started.
    """

    def __init__(self, repository: Path, log: Path, *, behind_gateway: bool = False) -> None:
        self._repository, self._log_path, self.behind_gateway = repository, log, behind_gateway
        self._sink = log.open("ab")
        self._server: TritonServer | None = None
        self._gateway: Gateway | None = None
        self._processes: dict[psutil.Process, str] = {}
        self._log_read = 0
        self.sender: Sender
        self.starts = 0

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        options = ServerOptions(model_repository=self._repository, http_port=0, grpc_port=0, metrics_port=0, drain_s=2)
        self._server = TritonServer(options, log=self._sink)
        try:
            self._server.start()
            self._server.wait_until_ready()
        except BaseException:
            self._server.stop()
            raise
        main = psutil.Process(self._server.pid)
        self._processes = {main: TRITON}
        for worker in main.children(recursive=True):
            self._processes[worker] = " ".join(worker.cmdline())[:200]
        if self.behind_gateway:
            self._gateway = Gateway([ports_of(self._server)], {"MODELS": f"{ENSEMBLE} {SEVERAL}"}).__enter__()
            self._processes[psutil.Process(self._gateway.process.pid)] = GATEWAY
            endpoint = self._gateway.endpoint
            address = f"localhost:{endpoint.port}"
            self.sender = Sender(address, address, access=Access(endpoint.key, endpoint.certificate))
        else:
            self.sender = Sender(self._server.http_address, self._server.grpc_address)
        self._log_read = self._log_path.stat().st_size
        self.starts += 1

    def stop(self) -> None:
        """End it at once, whatever its state."""
        if self._server is not None:
            self.sender.close()
            if self._gateway is not None:
                self._gateway.__exit__(None, None, None)
                self._gateway = None
            self._server.clean_up()
            self._server = None

    def restart(self) -> None:
        """Replace it by a new one."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._sink.close()

    @property
    def serving_processes(self) -> int:
        """Number of processes that it started with."""
        return len(self._processes)

    def death(self, *, wait: bool = False) -> Death | None:
        """Return what has ended or stopped, or None if all processes are as they were.

        Args:
            wait: Something is wrong already: give a dying process time to end.
        """
        limit = time.monotonic() + (_DYING_S if wait else 0)
        while True:
            for process, who in self._processes.items():
                how = _fault(process)
                if how is not None:
                    return self._describe_death(who, how)
            if time.monotonic() >= limit:
                return None
            time.sleep(0.02)

    def has_its_children(self) -> bool:
        """Whether the children are those that it started with; slower than `death`."""
        main = next(iter(self._processes))
        try:
            children = {main, *main.children(recursive=True)}
            return children == {process for process, who in self._processes.items() if who != GATEWAY}
        except psutil.NoSuchProcess:
            return False

    def new_log(self) -> str:
        """Return what it has logged since the last call."""
        if self._log_path.stat().st_size == self._log_read:
            return ""
        with self._log_path.open("rb") as log:
            log.seek(self._log_read)
            text = log.read()
        self._log_read += len(text)
        return text.decode(errors="replace")

    def resources(self) -> dict[str, float]:
        """Return its memory in MB, of tritonserver and of its workers, and all descriptors and threads."""
        totals = {"server_mb": 0.0, "workers_mb": 0.0, "descriptors": 0.0, "threads": 0.0}
        for process, who in self._processes.items():
            if who == GATEWAY:
                continue
            with process.oneshot():
                totals["server_mb" if who == TRITON else "workers_mb"] += process.memory_info().rss / 1e6
                totals["descriptors"] += process.num_fds()
                totals["threads"] += process.num_threads()
        return totals

    def models(self) -> tuple[Model, ...]:
        """Return the models that it serves, the ensembles first, as their metadata describe them."""
        classifier = next(
            path.name for path in sorted(self._repository.iterdir()) if (path / "1" / "model.json").is_file()
            and path.name.startswith(CLASSIFIER_PREFIX)
        )  # fmt: skip
        assert self._server is not None
        sender = Sender(self._server.http_address, self._server.grpc_address)
        try:
            names = (ENSEMBLE, SEVERAL, PREPROCESS, own_name(SEVERAL, PREPROCESS), classifier, POSTPROCESS)
            return tuple(_model(sender, name) for name in names)
        finally:
            sender.close()

    def _describe_death(self, who: str, how: str) -> Death:
        assert self._server is not None
        if who == TRITON:
            status = self._server.wait()
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        time.sleep(0.1)  # for the last lines
        with self._log_path.open("rb") as log:
            log.seek(max(0, self._log_path.stat().st_size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return Death(who, how, tuple(lines[-30:]))


def _model(sender: Sender, name: str) -> Model:
    outcome = sender.send(HttpRequest(f"GET /v2/models/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))
    if outcome.kind != "ok":
        raise FuzzError(f"the metadata of {name} cannot be read: {outcome.code} {outcome.text}")
    described = json.loads(outcome.payloads[0])
    formats = FORMATS if name in (SEVERAL, own_name(SEVERAL, PREPROCESS)) else ("jpeg",)
    return Model(name, _tensors(described["inputs"]), _tensors(described["outputs"]), formats)


def _fault(process: psutil.Process) -> str | None:
    try:
        status = process.status()
    except psutil.NoSuchProcess:
        return "gone"
    return status if status in _STATES_OF_A_FAULT else None


def _tensors(described: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(tensor["name"], tensor["datatype"], tuple(int(length) for length in tensor["shape"][1:]))
        for tensor in described
    )
