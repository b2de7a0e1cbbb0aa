"""What a backend reads from the config that Triton hands to it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


class BackendConfigError(ValueError):
    """The config or the artefact cannot be served; the message says why and what to do."""


@dataclass(frozen=True)
class ModelConfig:
    """A classifier's config.pbtxt, as far as the backends need it.

    artefact: the file or folder to load; see also `artefact_for`. input_name, output_name: of the one input and the
    one output. input_dims, output_dims: their shapes without the batch. max_batch_size: the most images of one batch.
    gpu: number of the GPU that this instance belongs to, None on the CPU. capability_filenames: artefacts for GPUs
    of a compute capability ("9.0"). parameters: names to texts. graph_level: `optimization { graph { level } }`, 0
    if it is not set. cuda_graphs: `optimization { cuda { graphs } }`, None if there is no `cuda`.
    """

    name: str
    artefact: Path
    input_name: str
    output_name: str
    input_dims: tuple[int, ...]
    output_dims: tuple[int, ...]
    max_batch_size: int
    gpu: int | None
    capability_filenames: Mapping[str, str]
    parameters: dict[str, str]
    graph_level: int
    cuda_graphs: bool | None

    @classmethod
    def from_triton(cls, args: dict[str, str], *, default_filename: str) -> ModelConfig:
        """From the `args` of a Python model's `initialize`.

        Raises BackendConfigError if there is not exactly one input and one output, or for an instance that is
        neither on a GPU nor on the CPU.
        """
        config: dict[str, Any] = json.loads(args["model_config"])
        if len(config["input"]) != 1 or len(config["output"]) != 1:
            raise BackendConfigError("a classifier has one input and one output, see docs/contract.md")
        filename = config.get("default_model_filename") or default_filename
        optimization = config.get("optimization", {})
        return cls(
            name=args["model_name"],
            artefact=Path(args["model_repository"]) / args["model_version"] / filename,
            input_name=config["input"][0]["name"],
            output_name=config["output"][0]["name"],
            input_dims=_dims(config["input"][0]),
            output_dims=_dims(config["output"][0]),
            max_batch_size=int(config.get("max_batch_size", 0)),
            gpu=_gpu(args),
            capability_filenames=dict(config.get("cc_model_filenames", {})),
            parameters={name: value["string_value"] for name, value in config.get("parameters", {}).items()},
            graph_level=int(optimization.get("graph", {}).get("level", 0)),
            cuda_graphs=bool(optimization["cuda"].get("graphs", False)) if "cuda" in optimization else None,
        )

    def artefact_for(self, compute_capability: str) -> Path:
        """The file for a GPU: the one that `cc_model_filenames` has for it, else the default one.

        The same rule as in the native backends (triton's backend repository, src/backend_model_instance.cc).
        """
        return self.artefact.with_name(self.capability_filenames.get(compute_capability, self.artefact.name))

    def integer(self, name: str, default: int) -> int:
        """A whole-number parameter. Raises BackendConfigError if it is none."""
        text = self.parameters.get(name, str(default))
        try:
            return int(text)
        except ValueError as error:
            raise BackendConfigError(f"parameter {name} is {text!r}, but must be a whole number") from error

    def boolean(self, name: str, default: bool) -> bool:
        """A yes-or-no parameter. Raises BackendConfigError if it is none."""
        text = self.parameters.get(name, str(default)).lower()
        if text not in (*_YES, *_NO):
            raise BackendConfigError(f"parameter {name} is {text!r}, but must be true or false")
        return text in _YES


def _dims(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(length) for length in tensor.get("dims", ()))


def _gpu(args: Mapping[str, str]) -> int | None:
    """Triton has settled KIND_AUTO before it starts an instance: what comes here is CPU, GPU or MODEL."""
    kind = args.get("model_instance_kind", "CPU")
    if kind not in ("CPU", "GPU"):
        raise BackendConfigError(f"instance_group has kind KIND_{kind}; use KIND_GPU or KIND_CPU")
    return int(args["model_instance_device_id"]) if kind == "GPU" else None
