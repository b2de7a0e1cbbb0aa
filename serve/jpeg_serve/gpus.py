"""Which GPUs the CUDA driver shows, asked in a process of its own. Standard library only.

Run as a program, it prints what it found: {"capabilities": ["9.0"], "why_none": ""}.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

# From the CUDA driver's cuda.h: CUdevice_attribute.
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76

_ANSWER_S = 60.0


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this machine, as far as CUDA_VISIBLE_DEVICES lets a program see them.

    capabilities: the compute capability of each, as "9.0", in the driver's order. why_none: if there are none.
    """

    capabilities: tuple[str, ...]
    why_none: str = ""

    def __str__(self) -> str:
        kinds = ", ".join(sorted(set(self.capabilities)))
        return f"compute capability {kinds}" if kinds else f"none ({self.why_none})"


def find_gpus(environment: dict[str, str]) -> Gpus:
    """The GPUs that a program sees in this environment. None is a normal state, and no error.

    In a process of its own: the driver reads CUDA_VISIBLE_DEVICES once, a broken one may hang, and one that is
    initialised does not survive a fork.
    """
    try:
        asked = subprocess.run(
            [sys.executable, __file__],  # not isolated: a Python that was moved needs its PYTHONHOME
            env=environment,
            capture_output=True,
            timeout=_ANSWER_S,
            check=True,
        )
        found = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Gpus((), f"the CUDA driver could not be asked: {error}")
    return Gpus(tuple(found["capabilities"]), found["why_none"])


def _ask_driver() -> Gpus:
    """Through the driver's own library, which is there wherever CUDA works; nvidia-smi may not be, in containers."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Gpus((), "no NVIDIA driver: there is no libcuda.so.1")
    if status := cuda.cuInit(0):
        return Gpus((), f"the NVIDIA driver says: {_words(cuda, status)}")
    count = ctypes.c_int()
    if status := cuda.cuDeviceGetCount(ctypes.byref(count)):
        return Gpus((), f"the NVIDIA driver says: {_words(cuda, status)}")
    found = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        found.append(f"{major.value}.{minor.value}")
    return Gpus(tuple(found), "" if found else "the NVIDIA driver shows no GPU")


def _words(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(text))
    return text.value.decode() if text.value else f"error {status}"


if __name__ == "__main__":
    print(json.dumps(asdict(_ask_driver())))
