"""Opens an artefact as the server does: with the loader, the config and the settings that serve."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.gpus import find_gpus
from jpeg_contract.model_config import KIND_CPU, KIND_GPU, ModelConfig, to_triton_json


def serving_args(config: ModelConfig, version_folder: Path) -> dict[str, str]:
    """Return the arguments that Triton hands to a classifier's model when it starts the first instance.

    Args:
        config: Of the classifier.
        version_folder: With the artefact; its name stands for the version.
    """
    gpu = _gpu_of_first_instance(config)
    return {
        "model_config": to_triton_json(config),
        "model_name": config.name,
        "model_repository": str(version_folder.parent.resolve()),
        "model_version": version_folder.name,
        "model_instance_kind": "CPU" if gpu is None else "GPU",
        "model_instance_device_id": str(gpu or 0),
    }


def _gpu_of_first_instance(config: ModelConfig) -> int | None:
    """Return the GPU of the first instance, None for the CPU. As Triton settles KIND_AUTO: a GPU if there is one."""
    group = config.instance_group[0] if config.instance_group else None
    if group is not None and group.kind == KIND_CPU:
        return None
    named = int(group.gpus[0]) if group is not None and group.gpus else 0
    if group is not None and group.kind == KIND_GPU:
        return named
    return named if find_gpus().found else None
