"""The part of a classifier's config that loaders read, from the JSON that Triton hands over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from jpeg_contract.cpus import machine_cpus, usable_cpus
from jpeg_contract.errors import ReasonedError
from jpeg_contract.forms import ClassifierForm, form_of_backend
from jpeg_contract.inside import PathOutside, inside
from jpeg_contract.parameters import parameters_of, read_parameters

Parameters = TypeVar("Parameters", bound=msgspec.Struct)


class ModelLoadError(ReasonedError, ValueError):
    """The config or the artefact cannot be served; the message gives the reason and the remedy."""

    reason = "cannot_be_served"


@dataclass(frozen=True)
class ServingConfig:
    """A classifier's config.pbtxt, as far as the loaders need it.

    Attributes:
        name: Of the model.
        form: The classifier form that its backend serves.
        folder: Of the version.
        artefact: The file or folder to load; see also `artefact_for`.
        input_name: Of the one input.
        output_name: Of the one output.
        input_dims: Shape of one image, [height, width, 3].
        output_dims: Shape of one image's logits, [classes].
        max_batch_size: The most images of one batch.
        gpu: Number of the GPU that this instance belongs to, None on the CPU.
        capability_filenames: Artefacts for GPUs of a compute capability ("9.0").
        parameters: Names to texts.
        graph_level: `optimization { graph { level } }`, 0 if it is not set.
        cuda_graphs: `optimization { cuda { graphs } }`, None if there is no `cuda`.
        cpus: How many CPUs this process may use.
    """

    name: str
    form: ClassifierForm
    folder: Path
    artefact: Path
    input_name: str
    output_name: str
    input_dims: tuple[int, ...]
    output_dims: tuple[int, ...]
    max_batch_size: int
    gpu: int | None
    capability_filenames: Mapping[str, str]
    parameters: Mapping[str, str]
    graph_level: int
    cuda_graphs: bool | None
    cpus: int

    @classmethod
    def from_triton(cls, args: Mapping[str, str], *, cpus: int | None = None) -> ServingConfig:
        """Read the `args` of a Python model's `initialize`.

        Args:
            args: As Triton makes them.
            cpus: None counts those that this process may use.

        Raises:
            ModelLoadError: There is not exactly one input and one output, the backend is not one of this project's, the
                instance is neither on a GPU nor on the CPU, or a file lies outside of the version's folder.
        """
        config = json.loads(args["model_config"])
        if len(config["input"]) != 1 or len(config["output"]) != 1:
            raise ModelLoadError("a classifier has one input and one output, see docs/contract.md")
        form = form_of_backend(config.get("backend", ""))
        if form is None:
            raise ModelLoadError(f"no classifier form of this project is served by the backend {config.get('backend')}")
        filename = config.get("default_model_filename") or form.artefact
        optimization = config.get("optimization", {})
        graph_level = int(optimization.get("graph", {}).get("level", 0))
        if form.graph_levels and graph_level not in form.graph_levels:
            known = ", ".join(map(str, form.graph_levels))
            raise ModelLoadError(f"optimization graph level is {graph_level}, but must be one of {known}")
        folder = Path(args["model_repository"]) / args["model_version"]
        capability_filenames = dict(config.get("cc_model_filenames", {}))
        for name in capability_filenames.values():
            _named_in(folder, name, "cc_model_filenames")
        return cls(
            name=args["model_name"],
            form=form,
            folder=folder,
            artefact=_named_in(folder, filename, "default_model_filename"),
            input_name=config["input"][0]["name"],
            output_name=config["output"][0]["name"],
            input_dims=_dims(config["input"][0]),
            output_dims=_dims(config["output"][0]),
            max_batch_size=int(config.get("max_batch_size", 0)),
            gpu=_gpu(args),
            capability_filenames=capability_filenames,
            parameters=parameters_of(config),
            graph_level=graph_level,
            cuda_graphs=bool(optimization["cuda"].get("graphs", False)) if "cuda" in optimization else None,
            cpus=usable_cpus() if cpus is None else cpus,
        )

    @property
    def limited_cpus(self) -> int:
        """The number for a library that counts the machine's CPUs by itself: 0, its own choice, if all are usable."""
        return 0 if self.cpus >= machine_cpus() else self.cpus

    def options(self, kind: type[Parameters]) -> Parameters:
        """Read the parameters as the form's class; others are left alone. Raises SettingsError."""
        return read_parameters(kind, self.parameters, strict_names=False)

    def artefact_for(self, compute_capability: str) -> Path:
        """Return the file for a GPU: the one that `cc_model_filenames` has for it, else the default one.

        The same rule as in the native backends (triton's backend repository, src/backend_model_instance.cc).
        """
        name = self.capability_filenames.get(compute_capability)
        return self.artefact if name is None else self.folder / name


def _named_in(folder: Path, name: str, field: str) -> Path:
    try:
        return inside(folder, name)
    except PathOutside as error:
        raise ModelLoadError(f"{field} {error}", reason=error.reason) from error


def _dims(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(length) for length in tensor.get("dims", ()))


def _gpu(args: Mapping[str, str]) -> int | None:
    """Return the instance's GPU. Triton settles KIND_AUTO before it starts an instance."""
    kind = args.get("model_instance_kind", "CPU")
    if kind not in ("CPU", "GPU"):
        raise ModelLoadError(f"instance_group has kind KIND_{kind}; use KIND_GPU or KIND_CPU")
    return int(args["model_instance_device_id"]) if kind == "GPU" else None
