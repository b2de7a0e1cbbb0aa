"""What Linux says of a server's processes: CPU time, memory, shared memory. Source: proc(5)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_SHM = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory
_PREFIX = "shm-region-prefix-name="
_STUB = "triton_python_backend_stub"
MIB = 1 << 20


@dataclass(frozen=True)
class Process:
    """cpu_s: user and system time since it began. rss_mib: resident. pss_mib: the same, but each page that several
    processes share counted by its part, so that sums are true."""

    pid: int
    name: str
    cpu_s: float
    rss_mib: float = 0.0
    pss_mib: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """A server at one moment, and the machine. shm_mib: of its segments in /dev/shm, what is really allocated.

    busy_s: CPU time that was used by anybody on this machine since it was started. stolen_s: that the hypervisor gave
    to other machines meanwhile, where it says so.
    """

    processes: Mapping[int, Process] = field(default_factory=dict)
    shm_mib: float = 0.0
    busy_s: float = 0.0
    stolen_s: float = 0.0

    def cpu_since(self, before: Snapshot, seconds: float) -> dict[str, float]:
        """CPU cores used since an earlier moment: by each process, by all of them ("all"), by anybody ("machine"),
        and by other virtual machines in our stead ("stolen"). What others used is a measurement spoilt."""
        used: dict[str, float] = {}
        for pid, process in self.processes.items():
            earlier = before.processes[pid].cpu_s if pid in before.processes else 0.0
            used[process.name] = used.get(process.name, 0.0) + (process.cpu_s - earlier) / seconds
        sums = {
            "all": sum(used.values()),
            "machine": (self.busy_s - before.busy_s) / seconds,
            "stolen": (self.stolen_s - before.stolen_s) / seconds,
        }
        return {name: round(cores, 3) for name, cores in {**used, **sums}.items()}

    def memory(self) -> dict[str, Any]:
        """MiB of each process and of all."""
        each = [
            {"name": process.name, "pss_mib": round(process.pss_mib, 1), "rss_mib": round(process.rss_mib, 1)}
            for process in self.processes.values()
        ]
        return {
            "pss_mib": round(sum(process.pss_mib for process in self.processes.values()), 1),
            "rss_mib": round(sum(process.rss_mib for process in self.processes.values()), 1),
            "shm_mib": round(self.shm_mib, 1),
            "processes": each,
        }


def snapshot(pid: int, *, memory: bool = True) -> Snapshot:
    """A process and all its descendants. memory: ask for it, which costs some milliseconds for each."""
    found = {}
    for number in descendants(pid):
        try:
            found[number] = _process(number, memory=memory)
        except (OSError, ValueError):  # it has ended since
            continue
    shm_mib = shm_bytes(shm_prefix(pid)) / MIB if memory else 0.0
    return Snapshot(found, shm_mib, *machine_seconds(Path("/proc/stat").read_text()))


def descendants(pid: int) -> list[int]:
    """The process and all that come from it, in the order of their numbers."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                children.setdefault(_parent((folder / "stat").read_text()), []).append(int(folder.name))
            except (OSError, ValueError):
                continue
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return sorted(found)


def read_rollup(text: str) -> tuple[float, float]:
    """RSS and PSS in MiB from the text of smaps_rollup."""
    kilobytes = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("Rss", "Pss"):
            kilobytes[name] = int(value.split()[0])
    return kilobytes["Rss"] / 1024, kilobytes["Pss"] / 1024


def cpu_seconds(stat: str) -> float:
    """User and system time from the text of /proc/PID/stat, fields 14 and 15."""
    fields = _after_name(stat)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_seconds(stat: str) -> tuple[float, float]:
    """CPU time of all that runs, and stolen time, from the text of /proc/stat."""
    # user, nice, system, idle, iowait, irq, softirq, steal
    ticks = [int(field) for field in stat.split("\n", 1)[0].split()[1:9]]
    return (sum(ticks[:3]) + sum(ticks[5:7])) / _TICKS, ticks[7] / _TICKS


def shm_prefix(pid: int) -> str:
    """What the names of a tritonserver's segments begin with; empty if its command line does not say."""
    for argument in _arguments(pid):
        if _PREFIX in argument:
            return argument.partition(_PREFIX)[2]
    return ""


def shm_bytes(prefix: str) -> int:
    """Bytes that are allocated in /dev/shm under names with this prefix; 0 for no prefix."""
    if not prefix:
        return 0
    total = 0
    for segment in _SHM.glob(f"{prefix}*"):
        try:
            total += segment.stat().st_blocks * 512  # stat(2): blocks of 512 bytes, whatever the file system's are
        except OSError:
            continue
    return total


def _process(pid: int, *, memory: bool) -> Process:
    folder = Path(f"/proc/{pid}")
    cpu = cpu_seconds((folder / "stat").read_text(errors="replace"))
    rss, pss = read_rollup((folder / "smaps_rollup").read_text()) if memory else (0.0, 0.0)
    return Process(pid, _name(pid), cpu, rss, pss)


def _name(pid: int) -> str:
    """A worker's instance, as preprocess_0_0; else the name of the program."""
    arguments = _arguments(pid)
    program = Path(arguments[0]).name if arguments and arguments[0] else str(pid)
    # The arguments of the Python backend's stub: file, region, two sizes, parent, folder, offset, instance, runtime.
    return arguments[8] if program == _STUB and len(arguments) > 8 else program


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _parent(stat: str) -> int:
    return int(_after_name(stat)[1])


def _after_name(stat: str) -> list[str]:
    # The second field is the program's name in brackets, which may hold anything.
    return stat[stat.rindex(")") + 1 :].split()
