"""How many servers run, and which GPU each of them sees."""

from __future__ import annotations

import os
from collections.abc import Iterable

from jpeg_contract.model_config import KIND_CPU

from jpeg_serve.machine import Machine
from jpeg_serve.models import Model

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def place_servers(count: int, models: Iterable[Model], machine: Machine) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each server, None to leave it as it is.

    Pixels never cross from one GPU to another: with several servers, each sees one GPU.

    Args:
        count: Number of servers; 0 takes one for each GPU if the models run on GPUs, otherwise one.
        models: Those that are served.
        machine: This machine; its driver is queried only if a model may run on a GPU.
    """
    groups = [group for model in models for group in model.config.instance_group]
    if count == 1 or all(group.kind == KIND_CPU for group in groups):
        return [None] * max(1, count)
    if count == 0 and any(group.gpus for group in groups):
        return [None]  # the configs choose the GPUs themselves
    number = len(machine.gpus.found)
    if number < 2 and count == 0:
        return [None]
    if number == 0:
        return [None] * count
    visible = os.environ.get(_VISIBLE)
    names = visible.split(",")[:number] if visible else [str(index) for index in range(number)]
    return [names[index % number] for index in range(count or number)]
