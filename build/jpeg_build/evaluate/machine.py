"""The machine that an evaluation ran on: its results are the machine's, too."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import msgspec
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.gpus import find_gpus


class Machine(msgspec.Struct, frozen=True):
    """Neither host name nor address.

    Attributes:
        cpu: Model of the CPU.
        cores: Logical CPUs that a process may use.
        gpus: Name of each GPU.
    """

    cpu: str
    cores: int
    gpus: list[str]

    @property
    def key(self) -> str:
        """Digest of what decides the last bits of a result."""
        return hashlib.sha256(msgspec.json.encode([self.cpu, self.cores, self.gpus])).hexdigest()

    def __str__(self) -> str:
        gpus = ", ".join(self.gpus) or "no GPU"
        return f"{self.cpu}, {self.cores} CPUs, {gpus}"


def this_machine() -> Machine:
    """Describe this machine."""
    return Machine(_cpu_model(), usable_cpus(), [gpu.name for gpu in find_gpus().found])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # platform.processor() is empty on Debian.
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
