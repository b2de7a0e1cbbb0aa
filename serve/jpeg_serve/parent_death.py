"""Child processes that end with this process, so that none runs without its owner."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # prctl(2)


def terminate_with_parent() -> Callable[[], None]:
    """Return a function for a new child process that lets Linux send it SIGTERM when its parent ends, also by SIGKILL.

    For `preexec_fn`: the library is loaded here, and the child makes one system call. The parent is the thread that
    starts the child, not its process: that thread must live as long as the child is needed.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare
