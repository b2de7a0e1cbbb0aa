"""How many servers run, and which GPU each of them sees."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from jpeg_contract.model_config import KIND_AUTO, KIND_CPU

from jpeg_serve.machine import Machine
from jpeg_serve.models import Model
from jpeg_serve.serving_backends import choose_backends

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def place_servers(count: int, models: Iterable[Model], machine: Machine) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each server, None to leave it as it is.

    Pixels never cross from one GPU to another: with several servers, each sees one GPU.

    Args:
        count: Number of servers; 0 takes one for each GPU if the models run on GPUs, otherwise one.
        models: Those that are served.
        machine: This machine; its driver is queried only if a model may run on a GPU.
    """
    on_gpus = [] if count == 1 else _on_gpus([model for model in models if not model.is_ensemble], machine)
    if not on_gpus:
        return [None] * max(1, count)
    if count == 0 and any(group.gpus for model in on_gpus for group in model.config.instance_group):
        return [None]  # the configs choose the GPUs themselves
    number = len(machine.gpus.found)
    if number < 2 and count == 0:
        return [None]
    if number == 0:
        return [None] * count
    visible = os.environ.get(_VISIBLE)
    names = visible.split(",")[:number] if visible else [str(index) for index in range(number)]
    return [names[index % number] for index in range(count or number)]


def _on_gpus(models: Collection[Model], machine: Machine) -> list[Model]:
    """Return the models that may run on GPUs.

    Triton takes a group without a kind, and a model without a group, to the GPUs if there are some. What our backend
    serves on CPUs only computes there nevertheless.
    """
    found = [model for model in models if any(kind != KIND_CPU for kind in _kinds(model)) and machine.gpus.found]
    chosen = choose_backends({}, models, machine) if found else {}
    return [
        model
        for model in found
        if model.form is None
        or not model.form.ours_is_for_cpus
        or KIND_AUTO not in _kinds(model)
        or chosen.get(model.backend) != "python"
    ]


def _kinds(model: Model) -> set[int]:
    return {group.kind for group in model.config.instance_group} or {KIND_AUTO}
