"""Describes the machine and the installed versions for a result."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
from jpeg_contract.cpus import usable_cpus

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


def describe_machine() -> dict[str, Any]:
    """Return CPU, cores, memory and GPUs; neither host name nor address."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cpus(),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "gpus": _gpus(),
        "system": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that affect a result, as far as they are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    # psutil does not report it, and platform.processor() is empty on Debian.
    rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((row.split(":")[1].strip() for row in rows if row.startswith("model name")), platform.processor())


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
