"""Versions of installed packages, and which of them go together."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re

# Distributions that bring an import package of another name, the one that states its version first. The bindings are
# what `tensorrt.__version__` states.
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

# Distributions whose new versions may make another artefact.
_TOOLS = (
    "triton-jpeg-classifier",
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-bindings",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "torch-tensorrt",
    "tensorflow",
    "tensorflow-cpu",
    "polygraphy",
    "numpy",
    "pillow",
)


def installed_version(package: str) -> str | None:
    """Return the version of an import package in this environment, "" if it states none, None if it is not there.

    Nothing is imported: frameworks take seconds.
    """
    try:
        if importlib.util.find_spec(package) is None:
            return None
    except ModuleNotFoundError:  # of the package that it lies in
        return None
    for distribution in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def tool_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that take part in a build."""
    found = {"python": platform.python_version()}
    for package in _TOOLS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def project_version() -> str:
    """Return the version of this project."""
    return importlib.metadata.version("triton-jpeg-classifier")


def release(version: str) -> tuple[int, ...]:
    """Return the first three numbers: (10, 3, 0) of 10.3.0.26+cuda12.6, of which TensorRT's own check takes no more."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+", maxsplit=1)[0])[:3])


def same_release(built: str, here: str) -> bool:
    """Whether two versions are one release, whatever follows its three numbers. Unknown ones are not judged."""
    return not release(built) or not release(here) or release(built) == release(here)


def loads_engine(built: str, here: str, *, version_compatible: bool) -> bool:
    """Whether a TensorRT loads an engine that another one built. A version that is not known is not judged.

    Source: TensorRT developer guide, "Version Compatibility": only the very release does, unless the engine was built
    version-compatible: then all later ones of the same major version do, too.
    """
    made, runs = release(built), release(here)
    if not made or not runs or made == runs:
        return True
    return version_compatible and made[0] == runs[0] and made <= runs
