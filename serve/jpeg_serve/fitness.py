"""Can this machine run an artefact? What its report requires, against what is here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jpeg_serve.locate import install_command
from jpeg_serve.machine import Machine
from jpeg_serve.triton_config import ModelConfig, ModelInstanceGroup

# What our Python-based backends import, by the name of the backend.
_PACKAGES = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "pytorch": ("torch",),
    "tensorflow": ("tensorflow",),
    "tensorrt": ("tensorrt", "cupy"),
}
_CONTAINER = "serve it in NVIDIA's Triton container, which has that backend itself"
_BRINGS = {
    "onnxruntime": install_command("serve"),
    "openvino": install_command("serve"),
    "torch": install_command("build"),
    "torch_tensorrt": install_command("torch-tensorrt"),
    "tensorrt": f"{install_command('tensorrt')}, or {_CONTAINER}",
    "cupy": f"{install_command('tensorrt')}, or {_CONTAINER}",
    "tensorflow": "make build-tensorflow makes an environment with it, and .venv-tensorflow/bin/jpeg-serve serves "
    "it; or serve it in NVIDIA's Triton container up to 25.02",
}

# What TensorFlow's own environment cannot hold beside its pins, or need not.
_OF_THE_USUAL_ENVIRONMENT = ("onnxruntime", "openvino", "torch", "torch_tensorrt")

# TensorRT's hardware compatibility level AMPERE_PLUS.
_HARDWARE_COMPATIBLE_FROM = (8, 0)


def misfits(
    backend: str, requires: Mapping[str, Any], machine: Machine, gpus: Mapping[int, str], build: str
) -> Iterator[str]:
    """What keeps an artefact from running here, each as a sentence without its subject, with what mends it.

    requires: of the report. gpus: the compute capability of each GPU that the model runs on, by its number. build: the
    command that builds the artefact.
    """
    if machine.natives is None:
        return
    yield from _gpu_misfits(requires, machine, gpus, build)
    packages = _PACKAGES.get(backend, ()) if machine.runs_in_python(backend) else ()
    if backend == "pytorch" and packages and "torch_tensorrt" in requires:
        packages = ("torch", "torch_tensorrt")
    missing = [package for package in packages if machine.package(package) is None]
    if missing:
        remedy = _BRINGS[missing[0]]
        if missing[0] in _OF_THE_USUAL_ENVIRONMENT and machine.package("tensorflow") is not None:
            remedy = "serve it with .venv/bin/jpeg-serve, from the environment that make setup makes"
        yield (
            f"needs the package {missing[0]}, which is not in the Python environment of this jpeg-serve, {sys.prefix}: "
            f"{remedy}"
        )
        return
    if "torch_tensorrt" in requires and packages:
        # What is inside is read by the very library that wrote it. Plain TorchScript is not so narrow.
        for package in packages:
            built, here = str(requires.get(package, "")), machine.package(package) or ""
            if not same_release(built, here):
                yield f"was made with {package} {built}, and here is {here}: build it again: {build}"
    if "tensorrt" in requires:
        built, here = str(requires["tensorrt"]), machine.tensorrt(backend) or ""
        if not loads_engine(built, here, version_compatible=bool(requires.get("version_compatible"))):
            yield (
                f"was built with TensorRT {built}, and here is {here}, which does not load it: build it again: {build}"
            )


def _gpu_misfits(requires: Mapping[str, Any], machine: Machine, gpus: Mapping[int, str], build: str) -> Iterator[str]:
    only_tensorrt = not {"torch_tensorrt", "tensorflow"} & requires.keys()
    built = str(requires.get("compute_capability", ""))
    if not built:
        return
    compatible = bool(requires.get("hardware_compatible"))
    wanted = f"{_dotted(_HARDWARE_COMPATIBLE_FROM)} or later" if compatible else built
    unfit = {index: gpu for index, gpu in gpus.items() if not runs_on(built, gpu, hardware_compatible=compatible)}
    if not gpus:
        reason = machine.gpus.why_none or "instance_group names none that is here"
        yield (
            f"needs a GPU of compute capability {wanted}, and here is none ({reason}): serve it on a machine with one"
        )
    elif len(unfit) == len(gpus):
        yield (
            f"was built for GPUs of compute capability {wanted}, and here are {_listed(gpus)}: "
            f"build it on this machine: {build}"
        )
    elif unfit:
        fitting = ", ".join(str(index) for index in gpus if index not in unfit)
        yield (
            f"was built for GPUs of compute capability {wanted}, and here are also {_listed(unfit)}: keep it to the "
            f"others with gpus: [{fitting}] in its instance_group"
            # Only engines of TensorRT itself can lie side by side, one for each kind of GPU.
            + (f", or build one for each kind on a machine that has it: {build} --per-gpu" if only_tensorrt else "")
        )


def instance_misfits(config: ModelConfig, machine: Machine) -> Iterator[str]:
    """Instances that are put on GPUs which are not here. Triton says so only once everything else is loaded."""
    groups = [group for group in config.instance_group if group.kind == ModelInstanceGroup.KIND_GPU]
    if not groups or machine.natives is None:
        return
    count = len(machine.gpus.capabilities)
    if not count:
        yield (
            f"its instance_group has kind: KIND_GPU, and here is no GPU ({machine.gpus.why_none}): write "
            "kind: KIND_CPU, or serve it on a machine with a GPU"
        )
        return
    for index in sorted({index for group in groups for index in group.gpus if index >= count}):
        yield f"its instance_group names GPU {index}, and here are {count}, counted from 0: name one of those"


def gpus_used(config: ModelConfig, capabilities: Sequence[str]) -> dict[int, str]:
    """The GPUs that a model's instances run on: those that its instance groups name, or all."""
    on_gpus = (ModelInstanceGroup.KIND_AUTO, ModelInstanceGroup.KIND_GPU)
    everywhere = any(group.kind in on_gpus and not group.gpus for group in config.instance_group)
    named = {index for group in config.instance_group for index in group.gpus}
    return {
        index: capability for index, capability in enumerate(capabilities) if everywhere or not named or index in named
    }


def runs_on(built: str, gpu: str, *, hardware_compatible: bool) -> bool:
    """Whether an engine that was built for one compute capability runs on a GPU of another.

    Source: TensorRT developer guide, "Hardware Compatibility": none does, but for engines of the level AMPERE_PLUS.
    """
    return built == gpu or (hardware_compatible and _numbers(gpu) >= _HARDWARE_COMPATIBLE_FROM)


def loads_engine(built: str, here: str, *, version_compatible: bool) -> bool:
    """Whether a TensorRT loads an engine that another one built. A version that is not known is not judged.

    Source: TensorRT developer guide, "Version Compatibility": only the very release does, unless the engine was built
    version-compatible: then all later ones of the same major version do, too.
    """
    made, runs = _numbers(built), _numbers(here)
    if not made or not runs or made == runs:
        return True
    return version_compatible and made[0] == runs[0] and made <= runs


def same_release(built: str, here: str) -> bool:
    """Whether two versions are one release, whatever comes after its three numbers. Unknown ones are not judged."""
    return not _numbers(built) or not _numbers(here) or _numbers(built) == _numbers(here)


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers: (10, 3, 0) of 10.3.0.26+cuda12.6, of which TensorRT's own check takes no more."""
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+", maxsplit=1)[0])[:3])


def _dotted(numbers: Sequence[int]) -> str:
    return ".".join(map(str, numbers))


def _listed(gpus: Mapping[int, str]) -> str:
    return ", ".join(f"GPU {index} with {capability}" for index, capability in gpus.items())
