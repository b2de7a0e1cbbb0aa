"""What the models inside Triton share as workers that `jpeg-serve` watches."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from jpeg_contract.run_folder import Baseline, Role, RunFolderReader, WorkerFile, WorkerState, run_folder
from jpeg_contract.tensors import MAX_BATCH_SIZE

from jpeg_runtime.stall_guard import StallGuard

BUSY = "too many requests wait: send the request again later [queue_full]"
STOPPING = "the server is stopping: send the request to another one, or again later [server_stopping]"

# How often a waiting worker looks, and after which time without any progress images do not count as waiting: they were
# cancelled, or went to models that were unloaded.
_POLL_S = 0.002
_LOST_AFTER_S = 0.25
# How many images others pass on before a worker waits no longer.
_OVERTAKEN = 2 * MAX_BATCH_SIZE


class Worker:
    """One Python worker of a server.

    Args:
        name: Of the model.
        role: Its step.

    Attributes:
        name: Of the model.

    Raises:
        OSError: The run folder cannot be written.
    """

    def __init__(self, name: str, role: Role) -> None:
        self.name = name
        folder = run_folder()
        self._file = WorkerFile(folder, role, name)
        self._folder = None if folder is None else RunFolderReader(folder)
        self._guard = StallGuard(name)
        self._backlog = _Backlog(folder, name) if folder is not None and role == "preprocess" else None
        self._reading = self._to_refuse = 0

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Wrap the execution of a batch; ends the process if its answers may be late."""
        self._file.busy = True
        try:
            yield
        finally:
            # Also after an exception, whose error may be late, too.
            self._guard.check()
            self._file.busy = False

    def refusals(self, requests: int) -> tuple[int, str]:
        """Return how many requests of a batch to refuse, the oldest first, and why: `STOPPING` or `BUSY`."""
        refused, reason = self._refusals(requests)
        if refused < requests:
            self._file.add_begun(requests - refused)
        else:
            self._guard.check()
        return refused, reason

    def _refusals(self, requests: int) -> tuple[int, str]:
        if self._folder is None:
            return 0, ""
        limit = self._folder.draining_limit()
        if limit is not None and sum(self._folder.begun_requests().values()) >= limit:
            return requests, STOPPING
        reading, excess = self._folder.excess(self.name)
        if reading != self._reading:
            # Each of the workers refuses its share.
            workers = sum(state.model == self.name for state in self._folder.workers())
            self._reading, self._to_refuse = reading, -(-excess // max(1, workers))
        refused = min(requests, self._to_refuse)
        self._to_refuse -= refused
        return refused, BUSY

    def take(self, images: int) -> None:
        """Count images of a batch that begins."""
        self._file.add_taken(images)

    def pass_on(self, images: int) -> None:
        """Count images that go on to the next step."""
        self._file.add_passed(images)

    def wait_for_classifier(self) -> float:
        """Wait while as many images wait for the classifier as it takes at once.

        So requests wait in front of the first step, where too many are refused before any work is done. Once other
        workers of this model have passed on two full batches meanwhile, it waits no longer: their batches would
        overtake this one for ever.

        Returns:
            How long it waited, in seconds: exactly 0 where the classifier has room at once.
        """
        if self._folder is None or self._backlog is None:
            return 0.0
        begun_s, passed = 0.0, 0
        while self._backlog.is_full(states := self._backlog.states(self._folder)):
            others = sum(state.passed for state in states if state.model == self.name and state.pid != os.getpid())
            if not begun_s:
                begun_s, passed = time.monotonic(), others
            elif others - passed >= _OVERTAKEN:
                break
            time.sleep(_POLL_S)
        return time.monotonic() - begun_s if begun_s else 0.0

    def close(self) -> None:
        """Withdraw from the run folder."""
        self._file.close()


class _Backlog:
    """Estimates how many images wait for the classifier: those that were passed on, less those that were taken.

    Args:
        folder: The run folder.
        model: That passes them on. Several ensembles may share it: all their classifiers take from it.

    Raises:
        OSError: The run folder cannot be written.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self._model = model
        self._baseline = Baseline(folder, model)
        self._workers: set[tuple[int, str]] = set()
        self._moved = (-1, -1)
        self._moved_at = 0.0

    def states(self, folder: RunFolderReader) -> list[WorkerState]:
        """Return the state of each worker that counts."""
        ensembles = folder.ensembles().values()
        steps = {step for each in ensembles if self._model in each for step in each}
        # A server without such a list runs models that nobody of this project put together.
        return [state for state in folder.workers() if not steps or state.model in steps]

    def is_full(self, states: list[WorkerState]) -> bool:
        """Whether as many images wait as the classifiers take at once."""
        passed = sum(state.passed for state in states if state.role == "preprocess")
        classifiers = [state for state in states if state.role == "classifier"]
        # A native classifier has no worker: its images count as waiting until the next step has taken them.
        takers = classifiers or [state for state in states if state.role == "postprocess"]
        taken = sum(state.taken for state in takers)
        if self._is_new_count(states):
            self._baseline.lost = passed - taken
        now = time.monotonic()
        if (passed, taken) != self._moved or any(state.busy for state in takers):
            self._moved, self._moved_at = (passed, taken), now
        elif now - self._moved_at > _LOST_AFTER_S:
            self._baseline.lost = passed - taken
        return passed - taken - self._baseline.lost >= MAX_BATCH_SIZE * max(1, len(classifiers))

    def _is_new_count(self, states: list[WorkerState]) -> bool:
        """Whether counts are missing since the last look, because workers left, and no colleague has seen it yet."""
        workers = {(state.pid, state.model) for state in states}
        if workers == self._workers:
            return False
        known, self._workers = self._workers, workers
        number = zlib.crc32(repr(sorted(workers)).encode())
        if number == self._baseline.counted:
            return False
        # At the first look, only colleagues know who was there before, unless all of them are new.
        all_are_new = not any(state.passed for state in states if state.model == self._model)
        if not known and not all_are_new:
            return False
        self._baseline.counted = number
        return all_are_new or bool(known - workers)
