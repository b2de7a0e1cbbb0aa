"""Is a model repository fit to be served? Every config, every edge of the ensembles, every report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jpeg_serve.artefacts import Place, check_files, check_recipes
from jpeg_serve.machine import Machine, this_machine
from jpeg_serve.models import Model, Problem, read_models, served_models
from jpeg_serve.triton_config import model_config_pb2

__all__ = ["Problem", "backends_needed", "check_repository", "models_to_load", "summary"]


def check_repository(repository: Path, machine: Machine | None = None, *, load: Sequence[str] = ()) -> list[Problem]:
    """Everything that is wrong with a repository, in the order of its models; an empty list if nothing is.

    machine: where it is to be served; None for this one. load: models that are loaded instead of the ensembles.

    A model that no ensemble uses may be unbuilt, and so may a version that no policy chooses: they are not served.
    """
    models, problems = read_models(repository)
    if problems and not models:
        return problems
    for model in models.values():
        problems += _check_config(model)
    place = Place(models, machine or this_machine())
    for model in models.values():
        if model.is_ensemble:
            problems += _check_ensemble(model, place)
    unknown = [name for name in load if name not in models]
    problems += [Problem(str(repository), f"has no model {name}, which is to be loaded") for name in unknown]
    for model in served_models(models, load):
        problems += _check_versions(model)
        problems += check_files(model, place)
    return problems


def models_to_load(repository: Path) -> list[str]:
    """The ensembles, through which Triton loads their steps; all models if there is no ensemble."""
    models, _ = read_models(repository)
    ensembles = [model.name for model in models.values() if model.is_ensemble]
    return ensembles or list(models)


def backends_needed(repository: Path) -> dict[str, str]:
    """The models that are served, and the backend that each of them needs."""
    models, _ = read_models(repository)
    return {model.name: model.backend for model in served_models(models) if not model.is_ensemble}


def summary(repository: Path) -> str:
    """One line on a repository that has no problem."""
    models, _ = read_models(repository)
    parts = [f"{repository}: no problem found"]
    for model in models.values():
        if model.is_ensemble:
            steps = " -> ".join(step.model_name for step in model.config.ensemble_scheduling.step)
            parts.append(f"{model.name} = {steps}")
    return "; ".join(parts)


def _check_config(model: Model) -> Iterator[Problem]:
    config, where = model.config, model.where
    if config.name and config.name != model.name:
        yield Problem(where, f'name is "{config.name}", but the folder is {model.name}: Triton wants them equal')
    if not config.backend and not config.platform:
        yield Problem(where, "says neither backend nor platform")
    if config.max_batch_size < 1:
        yield Problem(
            where,
            f"max_batch_size is {config.max_batch_size}, but the stages exchange batches: set at least 1",
        )
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            yield Problem(where, f"has no {kind}")
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield Problem(where, f"{kind} {name} is there {count} times")
        for tensor in tensors:
            if tensor.data_type == model_config_pb2.TYPE_INVALID:
                yield Problem(where, f"{kind} {tensor.name} has no data_type")
            if not tensor.dims or any(dim == 0 or dim < -1 for dim in tensor.dims):
                yield Problem(where, f"{kind} {tensor.name} has dims {_dims(tensor)}: each must be a size, or -1")


def _check_ensemble(ensemble: Model, place: Place) -> Iterator[Problem]:
    """One recipe, and every edge: what a step takes is made before it, once, with the same type and shape."""
    where, models = ensemble.where, place.models
    steps = ensemble.config.ensemble_scheduling.step
    if not steps:
        yield Problem(where, "is an ensemble without steps")
        return
    for step in steps:
        model = models.get(step.model_name)
        if model is None:
            near = ", ".join(sorted(name for name, each in models.items() if not each.is_ensemble))
            yield Problem(where, f"step {step.model_name}: there is no such model that can be read; there are {near}")
            continue
        if ensemble.config.max_batch_size > model.config.max_batch_size:
            yield Problem(
                where,
                f"max_batch_size is {ensemble.config.max_batch_size}, but step {model.name} takes "
                f"{model.config.max_batch_size}: lower the one or raise the other",
            )
        yield from _check_step_version(where, step, model)
        yield from _check_names(where, "input", step.model_name, step.input_map, model.config.input)
        yield from _check_names(where, "output", step.model_name, step.output_map, model.config.output)
    yield from check_recipes(ensemble, [models[step.model_name] for step in steps if step.model_name in models], place)
    made: dict[str, tuple[str, Any]] = {}
    yield from _check_makers(ensemble, models, made)
    yield from _check_takers(ensemble, place, made)
    yield from _check_order(where, steps)


def _check_makers(ensemble: Model, models: Mapping[str, Model], made: dict[str, tuple[str, Any]]) -> Iterator[Problem]:
    """Fills `made`: who makes each tensor of the ensemble, and as what."""
    for tensor in ensemble.config.input:
        made[tensor.name] = (f"the ensemble's input {tensor.name}", tensor)
    for step in ensemble.config.ensemble_scheduling.step:
        model = models.get(step.model_name)
        if model is None:
            # What it would make is not blamed on the steps after it.
            made.update(dict.fromkeys(step.output_map.values(), (step.model_name, None)))
            continue
        for tensor in model.config.output:
            key = step.output_map.get(tensor.name)
            if key and key in made:
                yield Problem(ensemble.where, f"tensor {key} is made twice: by {made[key][0]} and by step {model.name}")
            elif key:
                made[key] = (f"output {tensor.name} of {model.name}", tensor)


def _check_takers(ensemble: Model, place: Place, made: Mapping[str, tuple[str, Any]]) -> Iterator[Problem]:
    where, steps = ensemble.where, ensemble.config.ensemble_scheduling.step
    makers = {tensor: step.model_name for step in steps for tensor in step.output_map.values()}
    used: set[str] = set()
    for step in steps:
        used.update(step.input_map.values())
        model = place.models.get(step.model_name)
        for tensor in model.config.input if model is not None else ():
            key = step.input_map.get(tensor.name)
            if key and key not in made:
                yield Problem(where, f"step {step.model_name} takes tensor {key}, which no input and no step makes")
            elif key:
                # Of steps from two recipes it was said that they do not go together, and what to do.
                mixed = key in makers and (makers[key] in place.mixed) != (step.model_name in place.mixed)
                target = f"input {tensor.name} of {step.model_name}"
                yield from _check_edge(where, *made[key], target, tensor, any_dims=mixed)
    for tensor in ensemble.config.output:
        if tensor.name not in made:
            yield Problem(where, f"output {tensor.name} is made by no step")
        else:
            yield from _check_edge(where, *made[tensor.name], f"the ensemble's output {tensor.name}", tensor)
    for tensor in ensemble.config.input:
        if tensor.name not in used:
            yield Problem(where, f"input {tensor.name} is taken by no step")


def _check_names(where: str, kind: str, step: str, mapping: Any, tensors: Iterable[Any]) -> Iterator[Problem]:
    known = {tensor.name: bool(getattr(tensor, "optional", False)) for tensor in tensors}
    for name in mapping:
        if name not in known:
            yield Problem(
                where, f"step {step} maps {kind} {name}, which it does not have; it has {', '.join(known) or 'none'}"
            )
    for name, optional in known.items():
        if kind == "input" and name not in mapping and not optional:
            yield Problem(where, f"step {step} gets nothing for its input {name}")


def _check_edge(
    where: str, source: str, made: Any, target: str, taken: Any, *, any_dims: bool = False
) -> Iterator[Problem]:
    if made is None:
        return
    if made.data_type != taken.data_type:
        yield Problem(where, f"{source} is {_type(made)}, but {target} is {_type(taken)}")
    fits = len(made.dims) == len(taken.dims) and all(
        a in (b, -1) or b == -1 for a, b in zip(made.dims, taken.dims, strict=True)
    )
    if not fits and not any_dims:
        yield Problem(where, f"{source} has dims {_dims(made)}, but {target} has {_dims(taken)}")


def _check_order(where: str, steps: Any) -> Iterator[Problem]:
    """Steps that wait for each other."""
    makers = {tensor: step.model_name for step in steps for tensor in step.output_map.values()}
    waits = {step.model_name: {makers[t] for t in step.input_map.values() if t in makers} for step in steps}
    while ready := [name for name, needs in waits.items() if not needs & waits.keys()]:
        for name in ready:
            del waits[name]
    if waits:
        yield Problem(where, f"the steps {', '.join(sorted(waits))} wait for each other")


def _check_step_version(where: str, step: Any, model: Model) -> Iterator[Problem]:
    served = [version.number for version in model.served()]
    if step.model_version == -1 or step.model_version in served or not served:
        return
    number = step.model_version
    said = "has no model_version, which Triton takes for version 0" if number == 0 else f"asks for version {number}"
    there = number in {version.number for version in model.versions()}
    remedy = f", or jpeg-build use {model.built_as} --version {number}" if there and model.built_as else ""
    yield Problem(
        where,
        f"step {step.model_name} {said}, but Triton will serve {_listed(served)}: write model_version: -1 for the "
        f"newest that is served{remedy}",
    )


def _check_versions(model: Model) -> Iterator[Problem]:
    """The version policy chooses something, and only what is there."""
    policy = model.config.version_policy
    numbers = [version.number for version in model.versions()]
    if policy.HasField("latest") and not policy.latest.num_versions:
        yield Problem(model.where, "version_policy latest serves 0 versions: write num_versions: 1, or leave it out")
    if policy.HasField("specific") and not policy.specific.versions:
        yield Problem(model.where, "version_policy specific names no version: name one, or leave it out")
    for number in model.missing_versions():
        remedy = "name one that is, or leave the policy out to serve the newest"
        if model.built_as and numbers:
            remedy = f"jpeg-build use {model.built_as} --version {numbers[-1]}, or build it with --version {number}"
        there = f"there is {_listed(numbers)}" if numbers else "there is none at all"
        yield Problem(model.where, f"version_policy names version {number}, which is not there; {there}: {remedy}")


def _listed(versions: list[int]) -> str:
    return f"version {versions[0]}" if len(versions) == 1 else f"versions {', '.join(map(str, versions))}"


def _type(tensor: Any) -> str:
    return str(model_config_pb2.DataType.Name(tensor.data_type)).removeprefix("TYPE_")


def _dims(tensor: Any) -> str:
    return f"[{','.join(map(str, tensor.dims))}]"
