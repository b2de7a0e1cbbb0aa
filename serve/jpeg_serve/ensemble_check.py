"""Every edge of an ensemble, and whether its steps belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jpeg_contract.remedies import use_command
from jpeg_contract.report import Report, find_report
from jpeg_contract.step_digests import labels_digest, pixels_digest

from jpeg_serve.config_check import dims_match, shape, type_name
from jpeg_serve.context import CheckContext, where_of
from jpeg_serve.models import Model, Problem, Version, step_names


@dataclass(frozen=True)
class _Source:
    """The source of a tensor of an ensemble. tensor: its declaration, None if the step cannot be read."""

    name: str
    tensor: Any


def check_ensemble(ensemble: Model, context: CheckContext) -> Iterator[Problem]:
    """Check that each input of a step is made before it, once, with the same type and shape, from one recipe."""
    where, models = ensemble.where, context.models
    steps = ensemble.config.ensemble_scheduling.step
    if not steps:
        yield Problem(where, "is an ensemble without steps", "ensemble_empty")
        return
    for step in steps:
        model = models.get(step.model_name)
        if model is None and (ensemble.folder.parent / step.model_name).is_dir():
            continue  # its config cannot be read, which `read_models` reports
        if model is None:
            known = ", ".join(sorted(name for name, each in models.items() if not each.is_ensemble))
            yield Problem(
                where,
                f'step "{step.model_name}": there is no model of this name; there are {known}',
                "step_unknown",
            )
            continue
        if ensemble.config.max_batch_size > model.config.max_batch_size:
            yield Problem(
                where,
                f"max_batch_size is {ensemble.config.max_batch_size}, but step {model.name} takes "
                f"{model.config.max_batch_size}: lower the one or raise the other",
                "max_batch_size_mismatch",
            )
        yield from _check_step_version(where, step, model)
        yield from _check_names(where, "input", step.model_name, step.input_map, model.config.input)
        yield from _check_names(where, "output", step.model_name, step.output_map, model.config.output)
    for step in steps:
        if step.model_name in models:
            yield from _check_route(models[step.model_name], models)
    for chain in _chains(ensemble, models):
        yield from check_recipes(ensemble, chain, context)
    sources: dict[str, _Source] = {}
    yield from _check_sources(ensemble, models, sources)
    yield from _check_edges(ensemble, context, sources)
    yield from _check_uses(ensemble, sources)
    yield from _check_order(ensemble, models)


def _chains(ensemble: Model, models: Mapping[str, Model]) -> list[list[Model]]:
    """Return the steps that belong together: for each model that labels, those before it; else all steps."""
    steps = ensemble.config.ensemble_scheduling.step
    makers = {tensor: index for index, step in enumerate(steps) for tensor in step.output_map.values()}
    found = []
    for index, step in enumerate(steps):
        if step.model_name not in models or not models[step.model_name].is_postprocess:
            continue
        before: set[int] = set()
        waiting = [index]
        while waiting:
            at = waiting.pop()
            if at not in before:
                before.add(at)
                waiting += [makers[tensor] for tensor in steps[at].input_map.values() if tensor in makers]
        found.append([steps[at].model_name for at in sorted(before)])
    chains = found or [[step.model_name for step in steps]]
    return [_models_of(chain, models) for chain in chains]


def _models_of(chain: Iterable[str], models: Mapping[str, Model]) -> list[Model]:
    """Return the models of steps; of a router, the classifiers behind it."""
    known = [models[name] for name in chain if name in models]
    routed = [target for model in known if model.route is not None for target in model.route.models]
    return [*known, *(models[name] for name in routed if name in models)]


@dataclass(frozen=True)
class _Origin:
    """The recipe of a step, by its config or by the report on an artefact.

    Attributes:
        step: The model.
        name: The model's, or the artefact's path if there are several.
        digest: Of the recipe.
        recipe: Its name.
        version: Of the artefact, None for a config.
        report: On the artefact.
        pixels: Digest of what decides the pixels that the step makes or takes; empty if it is not known.
        labels: Digest of what decides what the logits mean that the step makes or takes; empty if it is not known.
    """

    step: Model
    name: str
    digest: str
    recipe: str
    version: Version | None = None
    report: Report | None = None
    pixels: str = ""
    labels: str = ""


def check_recipes(ensemble: Model, steps: list[Model], context: CheckContext) -> Iterator[Problem]:
    """Check that all steps come from one recipe: otherwise pixels, network and labels do not belong together.

    A network of another recipe fits, too, if it takes the same pixels and its outputs mean the same labels: so versions
    of a network that was trained again can be served beside each other, and a model that decodes can be shared. Steps
    of another recipe than most others are added to `context.mixed`.
    """
    origins = [origin for step in steps for origin in _origins(step)]
    artefacts = [origin for origin in origins if origin.report is not None]
    # Reports of earlier builds do not say what their networks take and return.
    same_pixels = _are_same(each.pixels for each in [*artefacts, *(each for each in origins if each.pixels)])
    same_labels = _are_same(each.labels for each in [*artefacts, *(each for each in origins if each.labels)])
    if not origins or (artefacts and same_pixels and same_labels):
        return
    if artefacts and same_pixels:
        origins = [each for each in origins if not each.step.is_preprocess] or origins
    if artefacts and same_labels:
        origins = [each for each in origins if not each.step.is_postprocess] or origins
    wanted = _wanted(origins)
    others = [origin for origin in origins if origin.digest != wanted.digest]
    if not others:
        return
    context.mixed.update(origin.step.name for origin in others)
    listed = ", ".join(f"{each.name} from {each.recipe} ({each.digest[:8]})" for each in origins)
    yield Problem(
        ensemble.where,
        f"its steps are built from different recipes: {listed}: {_one_recipe(ensemble, wanted, others, context)}",
        "recipe_mismatch",
    )


def _wanted(origins: list[_Origin]) -> _Origin:
    """Return the origin that most steps share; of several, the labels', which are the user's classes."""
    digests = [origin.digest for origin in origins]
    return max(origins, key=lambda origin: (digests.count(origin.digest), origin.step.is_postprocess))


def _origins(step: Model) -> Iterator[_Origin]:
    if step.parameter("recipe_sha256"):
        yield _Origin(
            step,
            step.name,
            step.parameter("recipe_sha256"),
            step.parameter("recipe"),
            pixels=pixels_digest(step.parameters) if step.is_preprocess else "",
            labels=labels_digest(step.folder, step.parameters) if step.is_postprocess else "",
        )
    artefacts = step.artefacts() if step.form is not None else []
    for version, artefact in artefacts:
        report = find_report(artefact)
        if report is not None:
            name = where_of(step, version, artefact.name) if len(artefacts) > 1 else step.name
            made = (report.recipe_sha256, report.recipe)
            yield _Origin(step, name, *made, version, report, report.pixels_sha256, report.labels_sha256)


def _are_same(digests: Iterable[str]) -> bool:
    """Whether all digests are known and equal."""
    found = set(digests)
    return len(found) == 1 and "" not in found


def _one_recipe(ensemble: Model, wanted: _Origin, others: list[_Origin], context: CheckContext) -> str:
    """Return the commands that give all steps the wanted recipe: another classifier that is built, else a build."""
    steps = _models_of(step_names(ensemble.config), context.models)
    classifiers = [step for step in steps if step.form is not None]
    if not classifiers:
        return "build them from one"
    wrong = [other for other in others if other.version is not None]
    uses = []
    if len(wrong) == len(others):  # else the configs differ, which only a build writes
        wrong_steps = [step for step in classifiers if step.name in context.mixed]
        uses = [use for step in wrong_steps for use in context.built_versions(step)[:1]]
        uses += context.built_classifiers(ensemble.name)
    builds = [context.build(other.step, other.version, other.report, wanted.recipe) for other in wrong]
    builds = builds or [context.build(step, recipe=wanted.recipe) for step in classifiers]
    build = f"build from {wanted.recipe or 'one recipe'}: {' and '.join(dict.fromkeys(builds))}"
    return f"{' or '.join(uses)}; or {build}" if uses else build


def _check_sources(ensemble: Model, models: Mapping[str, Model], sources: dict[str, _Source]) -> Iterator[Problem]:
    """Fill `sources`: the source of each tensor of the ensemble."""
    for tensor in ensemble.config.input:
        sources[tensor.name] = _Source(f"the ensemble's input {tensor.name}", tensor)
    for step in ensemble.config.ensemble_scheduling.step:
        model = models.get(step.model_name)
        if model is None:
            # Its tensors are not reported as missing in the steps after it.
            sources.update({key: _Source(step.model_name, None) for key in step.output_map.values()})
            continue
        for tensor in model.config.output:
            key = step.output_map.get(tensor.name)
            if key and key in sources:
                yield Problem(
                    ensemble.where,
                    f"tensor {key} is made twice: by {sources[key].name} and by step {model.name}",
                    "edge_duplicate",
                )
            elif key:
                sources[key] = _Source(f"output {tensor.name} of {model.name}", tensor)


def _check_edges(ensemble: Model, context: CheckContext, sources: Mapping[str, _Source]) -> Iterator[Problem]:
    where, steps = ensemble.where, ensemble.config.ensemble_scheduling.step
    makers = {tensor: step.model_name for step in steps for tensor in step.output_map.values()}
    for step in steps:
        model = context.models.get(step.model_name)
        for tensor in model.config.input if model is not None else ():
            key = step.input_map.get(tensor.name)
            if key and key not in sources:
                yield Problem(
                    where,
                    f"step {step.model_name} takes tensor {key}, which no input and no step makes",
                    "edge_without_source",
                )
            elif key:
                # `check_recipes` reports steps of two recipes, with the remedy.
                mixed = key in makers and (makers[key] in context.mixed) != (step.model_name in context.mixed)
                target = f"input {tensor.name} of {step.model_name}"
                yield from _check_edge(where, sources[key], target, tensor, any_dims=mixed)


def _check_uses(ensemble: Model, sources: Mapping[str, _Source]) -> Iterator[Problem]:
    """Check that every output has a source, and that every tensor is used: Triton refuses unused ones."""
    where, steps = ensemble.where, ensemble.config.ensemble_scheduling.step
    used = {key for step in steps for key in step.input_map.values()}
    for tensor in ensemble.config.output:
        if tensor.name not in sources:
            yield Problem(where, f"output {tensor.name} is made by no step", "edge_without_source")
        else:
            yield from _check_edge(where, sources[tensor.name], f"the ensemble's output {tensor.name}", tensor)
    for tensor in ensemble.config.input:
        if tensor.name not in used:
            yield Problem(where, f"input {tensor.name} is taken by no step", "edge_without_target")
    outputs = {tensor.name for tensor in ensemble.config.output}
    for step in steps:
        if not step.output_map:
            yield Problem(where, f"step {step.model_name} has no output_map", "edge_without_target")
        for name, key in sorted(step.output_map.items()):
            if key not in used | outputs:
                yield Problem(
                    where,
                    f"tensor {key}, output {name} of step {step.model_name}, is used by no step and is no output: "
                    "remove it from the output_map",
                    "edge_without_target",
                )


def _check_names(where: str, kind: str, step: str, mapping: Any, tensors: Iterable[Any]) -> Iterator[Problem]:
    known = {tensor.name: bool(getattr(tensor, "optional", False)) for tensor in tensors}
    for name in mapping:
        if name not in known:
            yield Problem(
                where,
                f"step {step} maps {kind} {name}, which it does not have; it has {', '.join(known) or 'none'}",
                "step_tensor_unknown",
            )
    for name, optional in known.items():
        if kind == "input" and name not in mapping and not optional:
            yield Problem(
                where, f"step {step} gets nothing for its input {name}: map a tensor to it", "step_input_missing"
            )


def _check_edge(where: str, source: _Source, target: str, taken: Any, *, any_dims: bool = False) -> Iterator[Problem]:
    made = source.tensor
    if made is None:
        return
    if made.data_type != taken.data_type:
        yield Problem(where, f"{source.name} is {type_name(made)}, but {target} is {type_name(taken)}", "edge_type")
    if not any_dims and not dims_match(made.dims, taken.dims):
        yield Problem(where, f"{source.name} has dims {shape(made)}, but {target} has {shape(taken)}", "edge_shape")


def _check_order(ensemble: Model, models: Mapping[str, Model]) -> Iterator[Problem]:
    """Find steps that wait for each other, and ensembles that run themselves."""
    steps = ensemble.config.ensemble_scheduling.step
    makers = {tensor: index for index, step in enumerate(steps) for tensor in step.output_map.values()}
    waiting = {
        index: {makers[tensor] for tensor in step.input_map.values() if tensor in makers}
        for index, step in enumerate(steps)
    }
    while ready := [index for index, needs in waiting.items() if not needs & waiting.keys()]:
        for index in ready:
            del waiting[index]
    if waiting:
        names = ", ".join(sorted(steps[index].model_name for index in waiting))
        yield Problem(ensemble.where, f"the steps {names} wait for each other", "ensemble_cycle")
    reached: set[str] = set()
    following = step_names(ensemble.config)
    while following:
        name = following.pop()
        if name not in reached and name in models:
            reached.add(name)
            following += step_names(models[name].config)
    if ensemble.name in reached:
        yield Problem(ensemble.where, "runs itself, through its own steps", "ensemble_cycle")


def _check_step_version(where: str, step: Any, model: Model) -> Iterator[Problem]:
    served = [version.number for version in model.served()]
    number = step.model_version
    if number == -1 or number in served or not served:
        return
    stated = "has no model_version, which Triton takes for version 0" if number == 0 else f"names version {number}"
    exists = number in {version.number for version in model.versions()}
    remedy = (
        f", or {use_command(model.built_as, model.folder.parent, version=number, ensemble=model.ensemble)}"
        if exists and model.built_as
        else ""
    )
    yield Problem(
        where,
        f"step {step.model_name} {stated}, but Triton serves {version_list(served)}: write model_version: -1 for the "
        f"newest served one{remedy}",
        "step_version",
    )


def _check_route(router: Model, models: Mapping[str, Model]) -> Iterator[Problem]:
    """Check that a router's classifiers exist, are served in its versions, and take and return what it does."""
    route = router.route
    for target in (route.primary, route.candidate) if route is not None else ():
        model = models.get(target.model)
        if model is None or model.is_ensemble:
            yield Problem(
                router.where, f"routes requests to {target.model}, and there is no such classifier", "step_unknown"
            )
            continue
        served = [version.number for version in model.served()]
        if target.version not in served:
            yield Problem(
                router.where,
                f"routes requests to {target}, but Triton serves {version_list(served) if served else 'none of it'}: "
                "choose again with jpeg-build use",
                "step_version",
            )
        for kind in ("input", "output"):
            ours, theirs = ({tensor.name: tensor for tensor in getattr(each.config, kind)} for each in (router, model))
            for name, tensor in ours.items():
                if name in theirs and not dims_match(tensor.dims, theirs[name].dims):
                    yield Problem(
                        router.where,
                        f"{name} has dims {shape(tensor)}, but {target.model} has {shape(theirs[name])}",
                        "edge_shape",
                    )
        if router.config.max_batch_size > model.config.max_batch_size:
            yield Problem(
                router.where,
                f"max_batch_size is {router.config.max_batch_size}, but {target.model} takes "
                f"{model.config.max_batch_size}: lower the one or raise the other",
                "max_batch_size_mismatch",
            )


def version_list(versions: list[int]) -> str:
    """Return version numbers as a sentence names them."""
    return f"version {versions[0]}" if len(versions) == 1 else f"versions {', '.join(map(str, versions))}"
