"""The machine that serves: its GPUs, packages and backends."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

from jpeg_contract.forms import ENTRY_POINTS, FORMS, ClassifierForm
from jpeg_contract.gpus import Gpus, device_names, find_gpus
from jpeg_contract.resources import resource
from jpeg_contract.versions import installed_version

from jpeg_serve.errors import PrerequisiteError
from jpeg_serve.locate import find_installation

ServedWith = Literal["native", "python"]
"""Which backend serves: tritonserver's native one, or the Python-based one."""

# The variables in which an image states the TensorRT of its native backend.
_TENSORRT_VARIABLES = ("TRT_VERSION", "TENSORRT_VERSION", "NVIDIA_TENSORRT_VERSION")


class Machine:
    """The machine that artefacts are compared with. Everything is looked up on first use.

    Args:
        natives: Names of tritonserver's native backends; None if there is no tritonserver.
        packages: Returns the version of an import package, "" if it states none, None if it is not installed.
        environment: The environment variables of the server.
        python_backends: Names of the Python-based backends; None takes all that this project has.
        serve_with: The backends for which the user chose which one serves.
        gpus: None queries the driver.
    """

    def __init__(
        self,
        *,
        natives: frozenset[str] | None,
        packages: Callable[[str], str | None],
        environment: Mapping[str, str],
        python_backends: frozenset[str] | None = None,
        serve_with: Mapping[str, ServedWith] | None = None,
        gpus: Gpus | None = None,
    ) -> None:
        self.natives = natives
        self.python_backends = python_backends_in(None) if python_backends is None else python_backends
        self.serve_with = dict(serve_with or {})
        self._packages = packages
        self._environment = environment
        self._gpus = gpus

    @cached_property
    def gpus(self) -> Gpus:
        """The GPUs that the server sees."""
        return self._gpus if self._gpus is not None else find_gpus(dict(self._environment))

    def package(self, name: str) -> str | None:
        """Return the version of an import package, "" if it states none, None if it is not installed."""
        return self._packages(name)

    def device(self, index: int) -> str:
        """Return the CUDA_VISIBLE_DEVICES that shows a program one of the GPUs alone."""
        return device_names(len(self.gpus.found), self._environment)[index]

    def native_tensorrt(self) -> str | None:
        """Return the version of TensorRT that the native backends use, None if it is unknown."""
        return next((self._environment[name] for name in _TENSORRT_VARIABLES if self._environment.get(name)), None)


def this_machine(
    *,
    backends: Path | None = None,
    natives: Path | None = None,
    environment: Mapping[str, str] | None = None,
    serve_with: Mapping[str, ServedWith] | None = None,
) -> Machine:
    """Describe this machine, with the Python environment of this process.

    Args:
        backends: Folder of Python-based backends, None for this project's.
        natives: Folder of tritonserver's native backends, None to look for it.
        environment: The environment variables of the server, None for those of this process.
        serve_with: The backends for which the user chose which one serves.
    """
    if natives is None:
        try:
            natives = find_installation().backends
        except PrerequisiteError:
            # A machine that only builds: the repository is checked without it.
            natives = None
    return Machine(
        natives=native_backends(natives) if natives is not None else None,
        packages=installed_version,
        environment=os.environ if environment is None else environment,
        python_backends=python_backends_in(backends),
        serve_with=serve_with,
    )


def native_backends(folder: Path) -> frozenset[str]:
    """Return the names of the backends in a folder that are libraries."""
    return frozenset(library.parent.name for library in folder.glob("*/libtriton_*.so"))


def project_backends() -> Path:
    """Return the folder of this project's Python-based backends."""
    return resource(__file__, "backends", "backends")


def backends_folder(repository: Path, chosen: Path | None) -> Path:
    """Return the folder of Python-based backends: the chosen one, or `backends` beside the repository, or ours."""
    if chosen is not None:
        return chosen
    beside = repository.resolve().parent / "backends"
    return beside if beside.is_dir() else project_backends()


def python_backends_in(folder: Path | None) -> frozenset[str]:
    """Return the names of the Python-based backends that can serve.

    Args:
        folder: Holds a folder with a model.py for each backend; None is this project's.

    Returns:
        Those of the folder, and those of forms that other packages install, for which jpeg-serve writes a model.py.
    """
    found = (folder or project_backends()).glob("*/model.py")
    return frozenset(model.parent.name for model in found) | {form.backend for form in installed_forms()}


def installed_forms() -> list[ClassifierForm]:
    """Return the classifier forms that other packages install."""
    forms: list[ClassifierForm] = [entry.load() for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    return [form for form in forms if FORMS.get(form.name) is form]
