"""A heartbeat that needs no Python thread, and so does not stop when one holds the interpreter's lock.

A POSIX timer runs a function of the C library in a thread of its own at each expiry: `sem_post`, which counts. While
the process is frozen, expiries merge into one, and so the count shows for how long it ran. An expiry costs some 30
microseconds.

Source: timer_create(2), sigevent(3type), sem_post(3).
"""

from __future__ import annotations

import ctypes
import os

PERIOD_S = 0.04
"""Time between two beats. A busy machine delays a beat by less, and so loses none."""

_CLOCK_MONOTONIC = 1
_SIGEV_THREAD = 2
_SEM_BYTES = 32


class _Sigevent(ctypes.Structure):
    """glibc's `struct sigevent` on 64-bit Linux, as SIGEV_THREAD uses it."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_byte * 32),
    )


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class NativeHeartbeat:
    """Counts periods of `PERIOD_S` while the process runs, from its creation to the end of the process.

    Raises:
        OSError: The system allows no further timer.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._semaphore = ctypes.create_string_buffer(_SEM_BYTES)
        self._count = ctypes.c_int()
        self._require(self._libc.sem_init(self._semaphore, 0, 0))
        event = _Sigevent(
            value=ctypes.addressof(self._semaphore),
            notify=_SIGEV_THREAD,
            function=ctypes.cast(self._libc.sem_post, ctypes.c_void_p),
        )
        timer = ctypes.c_void_p()
        self._require(self._libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)))
        period = _Timespec(0, int(PERIOD_S * 1e9))
        self._require(self._libc.timer_settime(timer, 0, ctypes.byref(_Itimerspec(period, period)), None))

    @property
    def beats(self) -> int:
        """Number of periods so far in which the process ran."""
        self._libc.sem_getvalue(self._semaphore, ctypes.byref(self._count))
        return self._count.value

    def _require(self, status: int) -> None:
        if status != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
