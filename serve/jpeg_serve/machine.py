"""What the machine that serves has: GPUs, packages, native backends."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.gpus import Gpus, find_gpus
from jpeg_serve.locate import find_installation

# Distributions that bring an import package of another name, the one that states its version first. The bindings are
# what says `tensorrt.__version__`.
_DISTRIBUTIONS = {
    "tensorrt": (
        "tensorrt-bindings",
        "tensorrt-cu13-bindings",
        "tensorrt-cu12-bindings",
        "tensorrt-cu11-bindings",
        "tensorrt",
        "tensorrt-cu13",
        "tensorrt-cu12",
        "tensorrt-cu11",
    ),
    "torch_tensorrt": ("torch-tensorrt",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
}
# Where an image says which TensorRT its native backend has.
_TENSORRT_VARIABLES = ("TRT_VERSION", "TENSORRT_VERSION", "NVIDIA_TENSORRT_VERSION")


class Machine:
    """What artefacts are compared with. Everything is looked up when it is first asked for.

    natives: names of the backends that tritonserver has itself; None if there is no tritonserver to ask.
    packages: the version of an import package, "" if it is there without one, None if it is not there.
    environment: the environment variables that the server runs with.
    gpus: what to take for the GPUs instead of asking the driver.
    """

    def __init__(
        self,
        *,
        natives: frozenset[str] | None,
        packages: Callable[[str], str | None],
        environment: Mapping[str, str],
        gpus: Gpus | None = None,
    ) -> None:
        self.natives = natives
        self._packages = packages
        self._environment = environment
        self._gpus = gpus

    @cached_property
    def gpus(self) -> Gpus:
        """The GPUs that the server sees."""
        return self._gpus if self._gpus is not None else find_gpus(dict(self._environment))

    def runs_in_python(self, backend: str) -> bool:
        """Whether a backend of ours runs the models of `backend` here, in this Python environment."""
        return self.natives is not None and backend not in self.natives

    def package(self, name: str) -> str | None:
        """Version of an import package, "" if it is there without one, None if it is not there."""
        return self._packages(name)

    def tensorrt(self, backend: str) -> str | None:
        """The TensorRT that runs the engines of this backend's models, None if that cannot be known."""
        # TensorFlow opens TensorRT's libraries by itself, whatever package is there.
        if self.natives is None or (backend == "tensorflow" and self.runs_in_python(backend)):
            return None
        if self.runs_in_python(backend):
            return self.package("tensorrt") or None
        return next((self._environment[name] for name in _TENSORRT_VARIABLES if self._environment.get(name)), None)


def this_machine(backends: Path | None = None, environment: Mapping[str, str] | None = None) -> Machine:
    """The machine and the Python environment that this runs in.

    backends: the folder of tritonserver's native backends, None to look for it.
    """
    if backends is None:
        try:
            backends = find_installation().backends
        except PrerequisiteError:
            # Where nothing can be served, as on a machine that only builds, only the repository is judged.
            backends = None
    return Machine(
        natives=native_backends(backends) if backends is not None else None,
        packages=installed_version,
        environment=os.environ if environment is None else environment,
    )


def native_backends(folder: Path) -> frozenset[str]:
    """Names of the backends in a folder that are libraries."""
    return frozenset(library.parent.name for library in folder.glob("*/libtriton_*.so"))


def installed_version(package: str) -> str | None:
    """Version of an import package in this environment, "" if it states none, None if it is not there.

    Nothing is imported: frameworks take seconds.
    """
    if importlib.util.find_spec(package) is None:
        return None
    for distribution in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
