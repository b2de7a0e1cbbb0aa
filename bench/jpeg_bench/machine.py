"""What a result says of the machine and of the versions that it was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from jpeg_preprocess.cpus import usable_cpus

_PACKAGES = (
    "triton-jpeg-classifier",
    "nvidia-pytriton",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "torch",
    "pillow",
    "numpy",
    "tritonclient",
    "pycurl",
)


def machine() -> dict[str, Any]:
    """CPU, cores, memory and GPUs; no name or address of it."""
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((row.split(":")[1].strip() for row in rows if row.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cpu": model,
        "cores": usable_cpus(),
        "memory_gib": round(memory, 1),
        "gpus": _gpus(),
        "system": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Of the packages that matter, as far as they are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip().splitlines() if said.returncode == 0 else []
