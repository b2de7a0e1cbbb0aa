"""Watches one running server: is each worker alive, and does a photo get an answer?

Readiness does not tell: Triton 2.51 stays ready with a worker that is dead or hangs (tried).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from jpeg_contract.run_folder import WorkerState, read_ensembles, read_workers

from jpeg_serve.errors import ProbeError, ServeError, ServerDied
from jpeg_serve.probe import ProbeSkipped, probe_once
from jpeg_serve.server import TritonServer
from jpeg_serve.state import is_stopped, members, started_at

_LOOK_S = 0.1
_PROBE_PERIOD_S = 2.0
# After a failed probe the next one follows soon: two in a row, with nothing answered in between, are a fault.
_PROBE_AGAIN_S = 0.3
_FAILED_PROBES = 2
# The least time without any progress that counts as a hang, and how many times the duration of a full batch, which is
# estimated from the photo's at the start: slow networks on slow machines take their time.
_LEAST_HANG_S = 4.0
_HANG_FACTOR = 3.0
_FULL_BATCH = 64


@dataclass(frozen=True)
class Fault:
    """Why a server must be replaced.

    Attributes:
        reason: server_died, worker_died, stopped, hangs or fails.
        detail: For the log.
    """

    reason: str
    detail: str


class Watch:
    """Watches one server that is ready.

    Args:
        server: The server.
        photo_s: How long it took to answer one photo, in seconds; of several ensembles, the slowest.
    """

    def __init__(self, server: TritonServer, photo_s: float) -> None:
        self._server = server
        self._hang_s = max(_LEAST_HANG_S, _HANG_FACTOR * _FULL_BATCH * photo_s)
        self._ensembles: dict[str, _Ensemble] = {}
        self._since: dict[int, tuple[tuple[int, ...], float]] = {}

    def wait(self, is_ending: Callable[[], bool]) -> Fault | None:
        """Wait for a fault.

        Args:
            is_ending: Whether the server shall no longer be watched.

        Returns:
            The fault, None if it shall no longer be watched.
        """
        try:
            while not is_ending():
                fault = self._look()
                if fault is not None:
                    return fault
                time.sleep(_LOOK_S)
        finally:
            for ensemble in self._ensembles.values():
                ensemble.prober.stop()
        return None

    def _look(self) -> Fault | None:
        server = self._server
        server.make_shared_memory_private()  # a reload makes new segments
        now = time.monotonic()
        workers = _workers(server)
        fault = _fault_of_processes(server, workers)
        if fault is not None:
            return fault
        for worker in workers:
            fault = self._look_at(worker, now)
            if fault is not None:
                return fault
        line = server.unhealthy_worker()
        if line:
            return Fault("hangs", f"Triton has given up a worker: {line}")
        return self._look_at_ensembles(workers, now)

    def _look_at_ensembles(self, workers: Sequence[WorkerState], now: float) -> Fault | None:
        """Look whether each ensemble answers: another one's answers say nothing about it."""
        folder = self._server.run_folder
        served = read_ensembles(folder) if folder is not None else {}
        for name in self._ensembles.keys() - served.keys():
            self._ensembles.pop(name).prober.stop()
        for name, steps in served.items():
            if name not in self._ensembles:
                prober = _Prober(self._server, name, self._hang_s)
                self._ensembles[name] = _Ensemble(prober, now)
                prober.start()
            ensemble = self._ensembles[name]
            prober = ensemble.prober
            mine = [worker for worker in workers if worker.role == "postprocess" and worker.model in steps]
            answered = sum(worker.taken for worker in mine) + prober.succeeded
            if answered != ensemble.answered:
                ensemble.answered, ensemble.progress_at = answered, now
                prober.progress()
            if prober.failures >= _FAILED_PROBES:
                return Fault("fails", f"a photo gets no labels from {name}: {prober.error}")
            if not prober.is_skipped and now - ensemble.progress_at > self._hang_s + _PROBE_PERIOD_S:
                return Fault("hangs", f"{name} answered nothing for {now - ensemble.progress_at:.1f} s")
        return None

    def _look_at(self, worker: WorkerState, now: float) -> Fault | None:
        state = (worker.begun, worker.taken, worker.passed)
        before, since = self._since.get(worker.pid, (None, now))
        if not worker.busy or before != state:
            self._since[worker.pid] = state, now
        elif now - since > self._hang_s and worker.role != "preprocess":
            # `preprocess` waits for the classifier, which is looked at itself.
            return Fault("hangs", f"the worker {_name(worker)} has computed for {now - since:.1f} s without a result")
        return None


@dataclass
class _Ensemble:
    """What is known of one ensemble: its prober, when it answered last, and how much until then."""

    prober: _Prober
    progress_at: float
    answered: int = -1


@contextlib.contextmanager
def guarded_start(server: TritonServer, *, is_loaded: bool) -> Iterator[None]:
    """Kill a server that starts as soon as one of its processes is stopped or, once it has loaded its models, dies.

    What waits for the models or the first answer then fails at once. It has long limits, since models take their time,
    and would wait as long for a process that does nothing. While models load, Triton itself reports a worker that dies,
    and why.

    Args:
        server: It runs.
        is_loaded: Whether its models are loaded.

    Raises:
        ServerDied: It was killed.
    """
    over = threading.Event()
    faults: list[Fault] = []

    def look() -> None:
        while not faults and not over.wait(_LOOK_S):
            fault = _stopped_process(server)
            if fault is None and is_loaded:
                fault = _fault_of_processes(server, _workers(server))
            if fault is not None:
                faults.append(fault)
                server.kill()

    thread = threading.Thread(target=look, name="start-guard", daemon=True)
    thread.start()
    try:
        yield
    except ServeError as error:
        for fault in faults:
            raise ServerDied(fault.detail, reason=fault.reason) from error
        raise
    finally:
        over.set()
        thread.join()


def _stopped_process(server: TritonServer) -> Fault | None:
    """Look at all processes of a server, also at those that are no workers yet."""
    for pid in members(server.pid):
        if is_stopped(pid):
            return Fault("stopped", f"a process of tritonserver ({pid}) is stopped by a signal")
    return None


def _workers(server: TritonServer) -> list[WorkerState]:
    return list(read_workers(server.run_folder)) if server.run_folder is not None else []


def _fault_of_processes(server: TritonServer, workers: Sequence[WorkerState]) -> Fault | None:
    """Look for processes that died or are stopped."""
    status = server.poll()
    if status is not None:
        return Fault("server_died", f"tritonserver ended by itself ({status})")
    if is_stopped(server.pid):
        return Fault("stopped", "tritonserver is stopped by a signal")
    for worker in workers:
        if started_at(worker.pid) is None:
            # A worker that ends as it should, at a reload, removes its file first.
            if any(each.pid == worker.pid for each in _workers(server)):
                return Fault("worker_died", f"the worker {_name(worker)} ended")
        elif is_stopped(worker.pid):
            return Fault("stopped", f"the worker {_name(worker)} is stopped by a signal")
    return None


def _name(worker: WorkerState) -> str:
    return f"{worker.role} (process {worker.pid})"


class _Prober:
    """Sends a photo to an ensemble every other second, in a thread of its own."""

    def __init__(self, server: TritonServer, ensemble: str, timeout_s: float) -> None:
        self._server, self._ensemble, self._timeout_s = server, ensemble, timeout_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"prober-{ensemble}", daemon=True)
        self.is_skipped = False
        self.succeeded = 0
        self.failures = 0
        self.error = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def progress(self) -> None:
        """Note that the ensemble answered something."""
        self.failures = 0

    def _run(self) -> None:
        pause_s = _PROBE_PERIOD_S
        while not self._stopping.wait(pause_s):
            pause_s = _PROBE_PERIOD_S
            try:
                probe_once(self._server.http_address, self._timeout_s, self._server.server_id, self._ensemble)
            except ProbeSkipped:
                self.is_skipped = True
                return  # other models than ours: the processes are watched, and no more
            except ProbeError as error:
                if error.reason == "overloaded":
                    continue  # a full queue moves, or counts as a hang
                self.error, pause_s = str(error), _PROBE_AGAIN_S
                self.failures += 1
            else:
                self.succeeded += 1
                self.failures = 0
