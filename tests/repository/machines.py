"""Machines that the checks compare repositories with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jpeg_contract.gpus import Gpu, Gpus
from jpeg_serve.machine import Machine, ServedWith


def gpus(*capabilities: str) -> Gpus:
    """GPUs of these compute capabilities."""
    found = tuple(Gpu(f"GPU {capability}", capability) for capability in capabilities)
    return Gpus(found, "" if found else "the driver shows none")


def machine(
    *capabilities: str,
    natives: Iterable[str] = (),
    packages: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    python_backends: frozenset[str] | None = None,
    serve_with: Mapping[str, ServedWith] | None = None,
) -> Machine:
    """A machine with GPUs of these compute capabilities, and with these native backends beside the Python one.

    packages: versions by import name; None for a machine with all packages.
    """
    return Machine(
        natives=frozenset({"python", *natives}),
        packages=(lambda name: "") if packages is None else packages.get,
        environment=environment or {},
        python_backends=python_backends,
        serve_with=serve_with,
        gpus=gpus(*capabilities),
    )
