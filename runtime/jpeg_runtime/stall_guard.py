"""Ends a worker that was stopped or frozen, before a late answer can be taken for the next request's.

Triton's Python backend waits for a worker's answer in steps of one second, by the clock on the wall. If the worker gave
no sign of life within such a step, the backend fails the request, goes on, and takes the worker's late answer for the
answer to the next request (tried on 2.51: after 1.2 s in SIGSTOP, clients got each other's labels). The same happens
after a freeze of the machine and after a jump of its clock. No answer can be called back, so a worker that may be late
ends itself; `jpeg-serve` then replaces the server. An error is better than another image's label.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from typing import NamedTuple

from jpeg_runtime.native_heartbeat import PERIOD_S, NativeHeartbeat

LIMIT_S = 0.6
"""Longest stall, as it is measured, that a worker survives.

A worker signals life every 0.3 s, and the Python backend gives up after a second: a stall below 0.7 s has no effect.
The measured stall is at most two heartbeats shorter than the true one. A lower limit would end workers of busy machines
without need: stalls of half a second occur on two cores under several test suites.
"""

_LOOK_S = 0.05
_EXIT_STATUS = 75


class Moment(NamedTuple):
    """A reading of the clocks, in seconds, and of the heartbeats."""

    monotonic: float
    wall: float
    beats: int


class StallGuard:
    """Watches the clocks of this process from its first `check` to its end.

    Two things end the process: SIGCONT, which comes after SIGSTOP, at once and before any other instruction; and a gap
    between two readings of the clocks, or between the last reading and `check`, in which the heartbeats are missing for
    longer than the limit. A Python thread alone cannot tell: others may hold the interpreter's lock for long.

    Args:
        name: Of the model, for the message.
        limit_s: Longest stall that the process survives.
    """

    def __init__(self, name: str, limit_s: float = LIMIT_S) -> None:
        self._name, self._limit_s = name, limit_s
        self._lock = threading.Lock()
        self._heartbeat: NativeHeartbeat | None = None
        self._last: Moment | None = None
        _exit_on_sigcont()

    def check(self) -> None:
        """End the process if it was stopped since the last reading; the first call starts the readings."""
        with self._lock:
            started = self._heartbeat is not None
            self._read()
        if not started:
            threading.Thread(target=self._watch, name="stall-guard", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                self._read()

    def _read(self) -> None:
        self._heartbeat = self._heartbeat or NativeHeartbeat()
        before, self._last = self._last, Moment(time.monotonic(), time.time(), self._heartbeat.beats)
        if before is None:
            return
        stalled = stalled_s(before, self._last)
        if stalled > self._limit_s:
            text = (
                f"{self._name}: stopped for {stalled:.1f} s, so its answers may be late: this worker ends [stalled]\n"
            )
            os.write(2, text.encode())
            os._exit(_EXIT_STATUS)


def stalled_s(before: Moment, after: Moment) -> float:
    """Return for how long the process cannot have run between two readings, in seconds."""
    gap = max(after.monotonic - before.monotonic, after.wall - before.wall)
    return gap - (after.beats - before.beats) * PERIOD_S


def _exit_on_sigcont() -> None:
    """Let the kernel end this process where it would go on after SIGSTOP.

    The handler is the C library's own `_exit`: a Python handler would run only after the code that sends the answer.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGCONT, ctypes.cast(libc._exit, ctypes.c_void_p))
