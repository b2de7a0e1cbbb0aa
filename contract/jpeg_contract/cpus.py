"""How many CPUs this process may use. Libraries count the machine's, also in a container that has a part of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Count the CPUs that this process may run on, or fewer if its cgroup limits their time; at least 1.

    A container with a limit of 1.5 CPUs may use 2: with more threads than that, all of them are stopped together for
    the rest of each period once the time is used up.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(_CGROUPS, _own_folders())
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def machine_cpus() -> int:
    """Count the CPUs that libraries count by themselves."""
    return os.cpu_count() or 1


def _own_folders() -> list[str]:
    """Return this process's folders below the cgroup file systems, as the kernel names them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 2)[2].lstrip("/") for line in lines if line.count(":") >= 2]


def _quota(root: Path, folders: list[str]) -> float | None:
    """Return the smallest limit, in CPUs, on the way from each folder up to the root; None if there is none.

    cgroup v2 has it in cpu.max, "QUOTA PERIOD" or "max PERIOD"; v1 in two files of the controller cpu (the kernel's
    cgroup-v2.rst and sched-bwc.rst).
    """
    found = []
    for folder in {"", *folders}:
        for place in [Path(folder), *Path(folder).parents]:
            words = [*_words(root / place / "cpu.max"), *_words(root / "unified" / place / "cpu.max")]
            words = words or [
                *_words(root / "cpu" / place / "cpu.cfs_quota_us"),
                *_words(root / "cpu" / place / "cpu.cfs_period_us"),
            ]
            if len(words) >= 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
                found.append(int(words[0]) / int(words[1]))
    return min(found, default=None)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
