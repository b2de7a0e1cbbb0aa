"""Traffic in a process of its own, and what came of it so far."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from faults.answers import Record
from faults.errors import FaultsError
from faults.samples import Sample
from faults.senders import Load, Target, run_senders

RECOVERY_S = 10.0
"""Within this time after a fault, the service answers again."""

STEADY_S = 2.0
"""It answers again if nothing fails for so long."""

_STOP_MARGIN_S = 30.0
_LOOK_S = 0.1


class Traffic:
    """Requests that are sent as long as a `with` block lasts, each answer checked.

    Args:
        target: Where to send.
        samples: What to send.
        load: How much of it.
        keep_s: See `Record`.

    Attributes:
        record: The outcomes so far; complete after the block.
    """

    def __init__(
        self, target: Target, samples: Sequence[Sample], load: Load | None = None, *, keep_s: float | None = None
    ) -> None:
        self.record = Record(keep_s)
        self._load = load or Load()
        self._target, self._samples = target, samples
        spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        self._control, theirs = spawn.Pipe()
        self._theirs = theirs
        self._process = spawn.Process(target=run_senders, args=(target, samples, self._load, theirs), daemon=True)
        self._reader = threading.Thread(target=self._read, name="outcomes")
        self._is_complete = False

    def __enter__(self) -> Traffic:
        self._process.start()
        self._theirs.close()
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # it has ended, which _read notices
            self._control.send("stop")
        self._process.join(self._load.limit_s + _STOP_MARGIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._reader.join()
        self._control.close()
        self._process.close()
        if kind is None and not self._is_complete:
            raise FaultsError("the process that sends requests ended early", reason="senders_ended")

    def wait_until_answering(self, since: float = 0.0, within_s: float = RECOVERY_S) -> float:
        """Wait until every plain request is answered rightly again, and has been for 2 s.

        Args:
            since: Time of the fault, of the monotonic clock; requests sent before do not count.
            within_s: Longest time from `since` to the first right answer.

        Returns:
            Seconds from `since` to the first right answer after the last failure.

        Raises:
            FaultsError: The time is over.
        """
        since = since or time.monotonic()
        while True:
            recovered = self.record.recovered_at(since)
            now = time.monotonic()
            if recovered is not None and recovered - since <= within_s and now - recovered >= STEADY_S:
                return recovered - since
            if now - since > within_s + STEADY_S:
                raise FaultsError(
                    f"no right answers {within_s:g} s after the fault: {self.record.summary()}", reason="not_recovered"
                )
            time.sleep(_LOOK_S)

    def _read(self) -> None:
        while True:
            try:
                outcomes = self._control.recv()
            except EOFError:
                return
            if outcomes is None:
                self._is_complete = True
                return
            self.record.add(outcomes)
