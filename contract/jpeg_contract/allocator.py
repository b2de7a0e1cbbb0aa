"""How the C library keeps memory and gives it back. Other C libraries than glibc are left alone.

Source: mallopt(3).
"""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 8 * 2**20
_KEPT_BYTES = 2 * _LARGE_BYTES


def give_large_blocks_back() -> None:
    """Return blocks of 8 MiB and more to the system as soon as they are free.

    By default glibc learns to keep them, in an arena of each thread: after a few large images, a worker with four
    threads holds 1.6 GB although each of them decodes in 400 MB (measured with Pillow, which allocates in blocks of
    16 MiB). Smaller blocks stay, 16 MiB of them in each arena, since they are needed again at once: glibc no longer
    learns that either, and giving back each photo's memory takes a quarter of the time of decoding it
    (bench/NOTES.md).
    """
    _set(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    _set(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def use_one_arena() -> None:
    """Let all threads allocate from one arena, which suits a process of few threads that wait most of the time.

    By default each new thread may open one of its own, so a process that starts threads now and then grows for hours.
    """
    _set(_M_ARENA_MAX, 1)


def _set(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(option, value)
