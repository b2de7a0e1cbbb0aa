"""How many servers run, and which GPU each of them sees."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from jpeg_contract.gpus import VISIBLE_DEVICES, device_names
from jpeg_contract.model_config import KIND_AUTO, KIND_CPU

from jpeg_serve.check import examine_repository
from jpeg_serve.errors import RepositoryProblems
from jpeg_serve.machine import Machine, backends_folder, this_machine
from jpeg_serve.models import Model, Problem
from jpeg_serve.options import LoadOptions
from jpeg_serve.serving_backends import choose_backends


def place_servers(count: int, models: Iterable[Model], machine: Machine) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each server, None to leave it as it is.

    Pixels never cross from one GPU to another: with several servers, each sees one GPU.

    Args:
        count: Number of servers; 0 takes one for each GPU if the models run on GPUs, otherwise one.
        models: Those that are served.
        machine: This machine; its driver is queried only if a model may run on a GPU.

    Raises:
        RepositoryProblems: A model names its GPUs, and the servers would see different ones.
    """
    on_gpus = [] if count == 1 else _on_gpus([model for model in models if not model.is_ensemble], machine)
    if not on_gpus:
        return [None] * max(1, count)
    named = [model for model in on_gpus if _named_gpus(model)]
    if count == 0 and named:
        return [None]  # the configs choose the GPUs themselves
    number = len(machine.gpus.found)
    if number < 2 and count == 0:
        return [None]
    if number == 0:
        return [None] * count
    if named and number > 1:
        raise RepositoryProblems.of(named[0].folder.parent, [_named(model, count) for model in named])
    names = device_names(number, os.environ)
    return [names[index % number] for index in range(count or number)]


def check_placement(devices: Sequence[str | None], options: LoadOptions) -> None:
    """Check the repository for all GPUs of several servers, before the first of them starts.

    Each server checks it for its own GPU, which says nothing about those of the others.

    Args:
        devices: Of `place_servers`.
        options: The models to serve.

    Raises:
        RepositoryProblems: The check found problems.
    """
    seen = list(dict.fromkeys(device for device in devices if device is not None))
    if len(seen) < 2:
        return
    machine = this_machine(
        backends=backends_folder(options.model_repository, options.backends),
        environment={**os.environ, VISIBLE_DEVICES: ",".join(seen)},
        serve_with=options.serve_with,
    )
    if problems := examine_repository(options.model_repository, machine, load=options.load).problems:
        raise RepositoryProblems.of(options.model_repository, problems)


def _named_gpus(model: Model) -> list[int]:
    return sorted({gpu for group in model.config.instance_group for gpu in group.gpus})


def _named(model: Model, count: int) -> Problem:
    gpus = ", ".join(map(str, _named_gpus(model)))
    return Problem(
        model.where,
        f"its instance_group names GPUs ({gpus}), but each of {count} servers sees one GPU, as its GPU 0: remove gpus, "
        "and each server uses its own; or leave out --servers, and one server uses those that are named",
        "gpus_named",
    )


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
