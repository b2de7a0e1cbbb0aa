"""Which GPUs the CUDA driver shows, queried in a process of its own. Standard library only.

Run as a program, it prints what it found: {"gpus": [["NVIDIA H100", "9.0"]], "devices": ["0"], "why_none": ""}.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# From the CUDA driver's cuda.h: CUdevice_attribute.
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76

_ANSWER_S = 60.0

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""The variable that limits which GPUs a program sees."""

AMPERE = "8.0"
"""The first compute capability of Ampere, from which on TensorRT can build engines for other GPUs, too."""


class Gpu(NamedTuple):
    """A GPU. compute_capability: as NVIDIA writes it, "9.0"."""

    name: str
    compute_capability: str

    @property
    def architecture(self) -> str:
        """As compilers write it: "sm90"."""
        return f"sm{self.compute_capability.replace('.', '')}"


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this machine, as far as CUDA_VISIBLE_DEVICES lets a program see them.

    Attributes:
        found: In the driver's order.
        why_none: The reason, if there are none.
    """

    found: tuple[Gpu, ...]
    why_none: str = ""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capability of each."""
        return tuple(gpu.compute_capability for gpu in self.found)

    def __str__(self) -> str:
        kinds = ", ".join(sorted(set(self.capabilities)))
        return f"compute capability {kinds}" if kinds else f"none ({self.why_none})"


def find_gpus(environment: Mapping[str, str] | None = None) -> Gpus:
    """Find the GPUs that a program sees in this environment (default: this process's). None is no error.

    In a process of its own: the driver reads CUDA_VISIBLE_DEVICES once, a broken one may hang, and one that is
    initialised does not survive a fork.
    """
    try:
        answer = subprocess.run(
            [sys.executable, __file__],  # not isolated: a Python that was moved needs its PYTHONHOME
            env=dict(os.environ if environment is None else environment),
            capture_output=True,
            timeout=_ANSWER_S,
            check=True,
        )
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Gpus((), f"the CUDA driver does not answer: {error}")
    return Gpus(tuple(Gpu(*each) for each in found["gpus"]), found["why_none"])


def device_names(count: int, environment: Mapping[str, str]) -> list[str]:
    """Return the value of CUDA_VISIBLE_DEVICES that shows a program one GPU alone, for each of those seen here.

    Args:
        count: Number of GPUs that a program sees in this environment.
        environment: Its variables. The driver ends the list in CUDA_VISIBLE_DEVICES at a GPU that is not there.
    """
    visible = environment.get(VISIBLE_DEVICES)
    if not visible:
        return [str(index) for index in range(count)]
    return [name.strip() for name in visible.split(",")][:count]


def runs_on(built: str, gpu: str, *, hardware_compatible: bool) -> bool:
    """Whether an engine that was built for one compute capability runs on a GPU of another.

    Source: TensorRT developer guide, "Hardware Compatibility": none does, but for engines of the level AMPERE_PLUS.
    """
    return built == gpu or (hardware_compatible and at_least_ampere(gpu))


def at_least_ampere(compute_capability: str) -> bool:
    """Whether a GPU is of Ampere or later."""
    return _numbers(compute_capability) >= _numbers(AMPERE)


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _query_driver() -> tuple[list[tuple[str, str]], str]:
    """Query the driver's own library, which exists wherever CUDA works; nvidia-smi may be missing in containers."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return [], "no NVIDIA driver: there is no libcuda.so.1"
    count = ctypes.c_int()
    for status in (cuda.cuInit(0), cuda.cuDeviceGetCount(ctypes.byref(count))):
        if status:
            return [], f"the NVIDIA driver says: {_error_text(cuda, status)}"
    found = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        found.append((name.value.decode(), f"{major.value}.{minor.value}"))
    return found, "" if found else "the NVIDIA driver shows no GPU"


def _error_text(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(text))
    return text.value.decode() if text.value else f"error {status}"


if __name__ == "__main__":
    gpus, why_none = _query_driver()
    devices = device_names(len(gpus), os.environ)
    print(json.dumps({"gpus": gpus, "devices": devices, "why_none": why_none}))
