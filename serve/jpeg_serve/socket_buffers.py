"""Larger buffers for the socket pairs through which Triton's HTTP front end hands responses to its threads.

A finished response goes to the thread of its connection through a pair of Unix sockets. With the usual buffer the pair
holds some 277 of them; the front end does not look whether another one fitted, and that response never leaves (tried on
Triton 2.51, and read in later sources). So `jpeg-serve` enlarges the buffers of its own tritonserver from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from pathlib import Path

# Linux's number of pidfd_getfd(2) on every architecture; Python has no name for it.
_SYS_PIDFD_GETFD = 438
# From Linux's asm-generic/socket.h; it may exceed net.core.wmem_max, and needs CAP_NET_ADMIN.
_SO_SNDBUFFORCE = 32
_BYTES = 8 * 2**20
# What the kernel charges for one message of a pointer's size, measured: 212,992 bytes hold 277.
_BYTES_PER_RESPONSE = 768


def enlarge(pid: int) -> int:
    """Enlarge the buffers of all Unix sockets without a name in a process.

    Args:
        pid: Of the process, which this one may trace: its child, as a rule.

    Returns:
        How many finished responses fit into the smallest pair; 0 if the system does not allow to look.
    """
    smallest = 0
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            for number in _sockets(pid):
                with contextlib.suppress(OSError), _duplicate(process, number) as unix:
                    if unix.family == socket.AF_UNIX and not unix.getsockname():
                        size = _enlarge(unix)
                        smallest = size if smallest == 0 else min(smallest, size)
        finally:
            os.close(process)
    return smallest // _BYTES_PER_RESPONSE


def _sockets(pid: int) -> list[int]:
    numbers = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith("socket:"):  # noqa: PTH115  # a name, not a path
                numbers.append(int(link.name))
    return numbers


def _duplicate(process: int, number: int) -> socket.socket:
    """Return a process's socket as one of this process. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(_SYS_PIDFD_GETFD, process, number, 0)
    if found < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd failed")
    return socket.socket(fileno=found)


def _enlarge(unix: socket.socket) -> int:
    """Enlarge the send buffer as far as the system allows, and return its size in bytes."""
    try:
        unix.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BYTES)
    except PermissionError:
        unix.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BYTES)
    return unix.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
