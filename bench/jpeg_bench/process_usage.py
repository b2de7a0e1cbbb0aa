"""CPU time and memory of a server's process tree, and CPU time of the machine."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from jpeg_contract.folders import SHARED_MEMORY

MIB = 1 << 20

_REGION_PREFIX = "shm-region-prefix-name="
_STUB = "triton_python_backend_stub"
# Position of the instance's name among the arguments of the Python backend's stub.
_STUB_INSTANCE = 8


@dataclass(frozen=True)
class ProcessUsage:
    """One process at one moment.

    Attributes:
        pid: Process ID.
        name: Instance name of a Triton worker (preprocess_0_0), otherwise name of the program.
        cpu_s: User and system CPU seconds since its start.
        rss_mib: Resident set size in MiB.
        pss_mib: Proportional set size in MiB: shared pages are divided among their processes, so it can be summed.
    """

    pid: int
    name: str
    cpu_s: float
    rss_mib: float = 0.0
    pss_mib: float = 0.0


@dataclass(frozen=True)
class Usage:
    """A process tree and the machine at one moment.

    Attributes:
        processes: The processes by ID.
        shm_mib: Allocated size of the server's segments in /dev/shm, in MiB.
        machine_cpu_s: CPU seconds of all processes of the machine since its start.
        stolen_cpu_s: CPU seconds that the hypervisor gave to other virtual machines.
    """

    processes: Mapping[int, ProcessUsage] = field(default_factory=dict)
    shm_mib: float = 0.0
    machine_cpu_s: float = 0.0
    stolen_cpu_s: float = 0.0

    def cpu_cores_since(self, earlier: Usage, seconds: float) -> dict[str, float]:
        """Return CPU seconds per second since an earlier moment.

        Args:
            earlier: The earlier moment.
            seconds: Time between the moments.

        Returns:
            By process name; "all" is their sum, "machine" counts all processes of the machine, "stolen" other virtual
            machines. A large difference between "machine" and "all" spoils the measurement.
        """
        cores: dict[str, float] = {}
        for pid, process in self.processes.items():
            before = earlier.processes[pid].cpu_s if pid in earlier.processes else 0.0
            cores[process.name] = cores.get(process.name, 0.0) + (process.cpu_s - before) / seconds
        totals = {
            "all": sum(cores.values()),
            "machine": (self.machine_cpu_s - earlier.machine_cpu_s) / seconds,
            "stolen": (self.stolen_cpu_s - earlier.stolen_cpu_s) / seconds,
        }
        return {name: round(value, 3) for name, value in {**cores, **totals}.items()}

    def memory(self) -> dict[str, Any]:
        """Return MiB of all processes together and of each."""
        processes = self.processes.values()
        return {
            "pss_mib": round(sum(process.pss_mib for process in processes), 1),
            "rss_mib": round(sum(process.rss_mib for process in processes), 1),
            "shm_mib": round(self.shm_mib, 1),
            "processes": [
                {"name": process.name, "pss_mib": round(process.pss_mib, 1), "rss_mib": round(process.rss_mib, 1)}
                for process in processes
            ],
        }


def read_usage(pid: int, *, memory: bool = True) -> Usage:
    """Read the usage of a process and its descendants.

    Args:
        pid: Process ID of the server.
        memory: Whether to read the memory, which takes milliseconds per process.
    """
    found = {}
    for process in process_tree(pid):
        # Processes may exit meanwhile.
        with contextlib.suppress(psutil.Error):
            found[process.pid] = _read_process(process, memory=memory)
    times = psutil.cpu_times()
    return Usage(
        processes=found,
        shm_mib=shm_bytes(shm_prefix(pid)) / MIB if memory else 0.0,
        machine_cpu_s=times.user + times.nice + times.system + times.irq + times.softirq,
        stolen_cpu_s=times.steal,
    )


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, sorted by process ID; empty if it does not exist."""
    try:
        root = psutil.Process(pid)
        return sorted([root, *root.children(recursive=True)], key=lambda process: process.pid)
    except psutil.Error:
        return []


def pss_mib(process: psutil.Process) -> float:
    """Return the proportional set size of a process in MiB. Raises psutil.Error."""
    return float(process.memory_full_info().pss) / MIB


def shm_prefix(pid: int) -> str:
    """Return the name prefix of a tritonserver's shared memory segments; empty if its command line sets none."""
    for argument in _arguments(pid):
        if _REGION_PREFIX in argument:
            return argument.partition(_REGION_PREFIX)[2]
    return ""


def shm_bytes(prefix: str) -> int:
    """Return the allocated bytes of all segments with this name prefix; 0 for an empty prefix."""
    total = 0
    for segment in SHARED_MEMORY.glob(f"{prefix}*") if prefix else ():
        with contextlib.suppress(OSError):
            total += segment.stat().st_blocks * 512  # stat(2): in units of 512 bytes on any file system
    return total


def _read_process(process: psutil.Process, *, memory: bool) -> ProcessUsage:
    with process.oneshot():
        times = process.cpu_times()
        full = process.memory_full_info() if memory else None
        return ProcessUsage(
            pid=process.pid,
            name=_name(process.pid, process.cmdline()),
            cpu_s=times.user + times.system,
            rss_mib=full.rss / MIB if full else 0.0,
            pss_mib=full.pss / MIB if full else 0.0,
        )


def _name(pid: int, arguments: list[str]) -> str:
    program = Path(arguments[0]).name if arguments and arguments[0] else str(pid)
    return arguments[_STUB_INSTANCE] if program == _STUB and len(arguments) > _STUB_INSTANCE else program


def _arguments(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []
