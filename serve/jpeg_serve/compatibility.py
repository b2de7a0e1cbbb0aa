"""Whether this machine can run an artefact: the requirements in its report, against the machine's equipment."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jpeg_contract.forms import ClassifierForm
from jpeg_contract.gpus import AMPERE, VISIBLE_DEVICES, runs_on
from jpeg_contract.model_config import KIND_AUTO, KIND_CPU, KIND_GPU, ModelConfig
from jpeg_contract.report import Requirements
from jpeg_contract.versions import loads_engine, same_release

from jpeg_serve.machine import Machine, ServedWith

TENSORFLOW = "tensorflow"

_PER_GPU = "--per-gpu"


class Incompatibility(NamedTuple):
    """Why this machine cannot run an artefact.

    Attributes:
        reason: Stable code.
        message: A sentence without its subject, with the remedy.
    """

    reason: str
    message: str


def incompatibilities(
    form: ClassifierForm,
    requires: Requirements,
    machine: Machine,
    served_with: ServedWith | None,
    gpus: Mapping[int, str],
    *,
    build: str,
) -> Iterator[Incompatibility]:
    """Compare an artefact's requirements with the machine.

    Args:
        form: The artefact's.
        requires: Of the report.
        machine: The machine that serves.
        served_with: Which backend serves; None if there is no tritonserver, where nothing is compared.
        gpus: The compute capability of each GPU that the model runs on, by its number.
        build: The command that builds the artefact.
    """
    if served_with is None:
        return
    yield from _gpu_incompatibilities(requires, machine, gpus, build)
    packages = form.packages if served_with == "python" else ()
    if packages and requires.torch_tensorrt:
        packages += form.engine_packages
    missing = [package for package in packages if machine.package(package.name) is None]
    if missing:
        package = missing[0]
        remedy = package.remedy
        if package.name != TENSORFLOW and machine.package(TENSORFLOW) is not None:
            remedy = f"serve it from another environment, since TensorFlow's pins leave no room here: {remedy}"
        yield Incompatibility(
            "package_missing",
            f"needs the package {package.name}, which is not in the Python environment of this jpeg-serve, "
            f"{sys.prefix}: {remedy}",
        )
        return
    if packages and requires.torch_tensorrt:
        # An engine inside TorchScript is read by the very library that wrote it. Plain TorchScript is not so narrow.
        for package in packages:
            built, here = str(getattr(requires, package.name, "")), machine.package(package.name) or ""
            if not same_release(built, here):
                yield Incompatibility(
                    "package_version",
                    f"is built with {package.name} {built}, and here is {here}: build it again: {build}",
                )
    here = _tensorrt(form, machine, served_with)
    if requires.tensorrt and not loads_engine(requires.tensorrt, here, version_compatible=requires.version_compatible):
        yield Incompatibility(
            "tensorrt_version",
            f"is built with TensorRT {requires.tensorrt}, and here is {here}, which does not load it: build it again: "
            f"{build}",
        )


def _tensorrt(form: ClassifierForm, machine: Machine, served_with: ServedWith) -> str:
    """Return the version of TensorRT that runs a form's engines, empty if it is unknown."""
    if served_with == "native":
        return machine.native_tensorrt() or ""
    # TensorFlow opens TensorRT's libraries by itself, whatever package is installed.
    return "" if form.backend == TENSORFLOW else machine.package("tensorrt") or ""


def _gpu_incompatibilities(
    requires: Requirements, machine: Machine, gpus: Mapping[int, str], build: str
) -> Iterator[Incompatibility]:
    built, compatible = requires.compute_capability, requires.hardware_compatible
    if not built:
        return
    wanted = f"{AMPERE} or later" if compatible else built
    unfit = {index: gpu for index, gpu in gpus.items() if not runs_on(built, gpu, hardware_compatible=compatible)}
    if not gpus:
        cause = machine.gpus.why_none or "instance_group names none of those here"
        yield Incompatibility(
            "gpu_missing",
            f"needs a GPU of compute capability {wanted}, and here is none ({cause}): serve it on a machine with one",
        )
    elif len(unfit) == len(gpus):
        yield Incompatibility(
            "gpu_capability",
            f"is built for GPUs of compute capability {wanted}, and here are {_listed(gpus)}: build it on this "
            f"machine: {build_for_each(build, gpus, machine)}",
        )
    elif unfit:
        fitting = ", ".join(str(index) for index in gpus if index not in unfit)
        # Only engines of TensorRT itself can lie side by side, one for each kind of GPU.
        per_gpu = not (requires.torch_tensorrt or requires.tensorflow)
        yield Incompatibility(
            "gpu_capability",
            f"is built for GPUs of compute capability {wanted}, and here are also {_listed(unfit)}: limit it to the "
            f"others with gpus: [{fitting}] in its instance_group"
            + (f", or build one for each kind: {build_for_each(build, gpus, machine)}" if per_gpu else ""),
        )


def build_for_each(build: str, gpus: Mapping[int, str], machine: Machine, *, beside: bool = False) -> str:
    """Return the commands that build an engine for each kind among these GPUs.

    jpeg-build builds for the first GPU that it sees.

    Args:
        build: Builds it.
        gpus: The compute capability of each, by its number.
        machine: This machine.
        beside: The engine is for one kind of several, even if here is one.
    """
    first = {capability: index for index, capability in sorted(gpus.items(), reverse=True)}
    if (beside or len(first) > 1) and _PER_GPU not in build.split():
        build = f"{build} {_PER_GPU}"
    return " and ".join(
        f"{VISIBLE_DEVICES}={machine.device(index)} {build}" if index else build for index in sorted(first.values())
    )


def instance_incompatibilities(config: ModelConfig, machine: Machine) -> Iterator[Incompatibility]:
    """Find instances on GPUs that do not exist here. Triton finds them only once everything else is loaded."""
    on_gpus = [group for group in config.instance_group if group.kind == KIND_GPU or group.gpus]
    if not on_gpus or machine.natives is None:
        return
    count = len(machine.gpus.capabilities)
    if not count:
        yield Incompatibility(
            "gpu_missing",
            f"its instance_group puts it on a GPU, and here is none ({machine.gpus.why_none}): write kind: KIND_CPU, "
            "or serve it on a machine with a GPU",
        )
        return
    for index in sorted({index for group in on_gpus for index in group.gpus if not 0 <= index < count}):
        yield Incompatibility(
            "gpu_missing",
            f"its instance_group names GPU {index}, and here are {count}, counted from 0: name one of those",
        )


def gpus_used(config: ModelConfig, capabilities: Sequence[str]) -> dict[int, str]:
    """Return the GPUs that a model's instances run on: those that its instance groups name, or all.

    Args:
        config: The model's.
        capabilities: The compute capability of each GPU of the machine.

    Returns:
        The compute capability by the GPU's number.
    """
    groups = config.instance_group
    if groups and all(group.kind == KIND_CPU for group in groups):
        return {}
    everywhere = any(group.kind in (KIND_AUTO, KIND_GPU) and not group.gpus for group in groups)
    named = {index for group in groups for index in group.gpus}
    return {
        index: capability for index, capability in enumerate(capabilities) if everywhere or not named or index in named
    }


def _listed(gpus: Mapping[int, str]) -> str:
    return ", ".join(f"GPU {index} with {capability}" for index, capability in gpus.items())
