"""Loads the repository's content into a running server, without a failed request.

The order of the steps follows from how Triton 2.51 behaves (tried):

- Loading an ensemble loads the new models among its steps, and again those whose files changed. Requests go to the old
  ones until the new ones are ready; a request keeps the models that it began with.
- If a new step does not load, or the ensemble does not match its steps, **the old ensemble is unloaded**. So the steps
  are loaded first, one by one, and the ensemble is tried under another name.
- If a step that is in use does not load again, the old one stays. A load of the ensemble then returns 200; a load of
  the step returns the reason.
- A step that is no longer used stays loaded.
- A model that was loaded with a config of the call is not loaded again by a call without one, unless its files change.
- A step of an ensemble without a version is the newest that is loaded. So before another version of a classifier is
  loaded to be tried, the ensemble has to run the router, which names versions.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from jpeg_contract.command_line import Progress
from jpeg_contract.model_config import ModelConfig, parameters, set_parameters, to_triton_json
from jpeg_contract.model_names import is_preprocess
from jpeg_contract.remedies import restart_command
from jpeg_contract.report import find_report
from jpeg_contract.run_folder import read_ensembles, write_ensembles
from jpeg_contract.step_digests import pixels_digest

from jpeg_serve.bytecode import compile_models
from jpeg_serve.check import check_repository, models_to_load
from jpeg_serve.errors import ReloadError, RepositoryProblems
from jpeg_serve.machine import Machine
from jpeg_serve.management import Management, reason
from jpeg_serve.models import Model, models_used, read_models, served_ensembles, step_names
from jpeg_serve.state import Running, find_running

# A request looks up the steps right after the ensemble. After this time, all requests that looked up the old ensemble
# have found its steps.
_GRACE_S = 1.0

_TRIAL = ".trial"

# A share that no request is part of.
_NONE_PERCENT = 1e-9


def choose_servers(repository: Path | None, http_port: int | None) -> list[tuple[Path, Running]]:
    """Find the running servers of one `jpeg-serve`: that of a model repository, or the one at a port.

    Args:
        repository: The model repository, None for any.
        http_port: The port, None for any.

    Returns:
        The file of each server's state, and the state, in the order of their ids.

    Raises:
        ReloadError: There is no such `jpeg-serve`, or more than one.
    """
    running = [found for found in find_running() if not found[1].is_orphaned()]
    wanted = str(repository.resolve()) if repository is not None else None
    chosen = [
        (file, each)
        for file, each in running
        if wanted in (None, each.model_repository) and http_port in (None, _port(each))
    ]
    if chosen and len({each.owner for _, each in chosen}) == 1 and (chosen[0][1].server_id or len(chosen) == 1):
        return sorted(chosen, key=lambda found: found[1].server_id)
    if chosen:
        ports = ", ".join(map(str, sorted({_port(each) for _, each in chosen})))
        raise ReloadError(
            f"several servers run here: choose one with --http-port, of {ports}", reason="several_servers"
        )
    conditions = [f"that serves {wanted}"] if wanted is not None else []
    conditions += [f"with HTTP port {http_port}"] if http_port is not None else []
    others = ", ".join(f"{each.model_repository} at {each.http_address}" for _, each in running)
    raise ReloadError(
        f"this user has no running jpeg-serve {' '.join(conditions)}: start it, and it loads the current content"
        + (f"; running are {others}" if others else ""),
        reason="no_server",
    )


def http_port_of(repository: Path) -> int | None:
    """Return the HTTP port of the running `jpeg-serve` that serves a repository; None if there is none, or several."""
    try:
        return _port(choose_servers(repository, None)[0][1])
    except ReloadError:
        return None


def reload_server(
    file: Path, running: Running, machine: Machine, progress: Progress, *, load_s: float, unload_s: float
) -> list[str]:
    """Load the current content of its model repository into a server, and wait until the server serves it.

    Args:
        file: Of the server's state.
        running: The server.
        machine: Where it runs.
        progress: Takes the steps of the work.
        load_s: Time limit for one model to load, in seconds.
        unload_s: Time limit for the last requests of models that are no longer used, in seconds.

    Returns:
        For each model that the server loads by name: of an ensemble its steps, of a built one its version, recipe and
        precision.

    Raises:
        RepositoryProblems: The check found problems; nothing is changed.
        ReloadError: A model does not load; the server continues with the models that it had.
    """
    repository = Path(running.model_repository)
    with _alone(file):
        if problems := check_repository(repository, machine, load=running.load):
            raise RepositoryProblems.of(repository, problems, "; the server continues unchanged")
        compile_models(repository, running.load)
        models, _ = read_models(repository)
        wanted = models_to_load(repository, running.load)
        with Management(running.grpc_address, running.keys, load_s=load_s, server_id=running.server_id) as server:
            folder = Path(running.run_folder)
            served = read_ensembles(folder)
            # Ensembles that the repository no longer has are still served until now.
            steps, before = _used(models, wanted), _loaded(server, [*wanted, *served.keys() - set(wanted)])
            _refuse_mixtures(before, steps)
            found = served_ensembles(models, wanted)
            # The workers count what the steps of both take.
            write_ensembles(folder, {name: [*served.get(name, ()), *found.get(name, ())] for name in served | found})
            try:
                _load(server, steps, before, progress)
                versions = _verify(server, steps)
            except ReloadError:
                write_ensembles(folder, served)
                raise
            write_ensembles(folder, found)
            gone = sorted(before.keys() - steps.keys(), key=lambda name: not step_names(before[name]))
            _unload(server, gone, progress, unload_s)
        # The classifiers behind a router are named there.
        routed = {name for model in steps.values() if model.route is not None for name in model.route.models}
        return [_served(steps[name], steps, versions) for name in wanted if name not in routed - set(running.load)]


def _load(
    server: Management, steps: Mapping[str, Model], before: Mapping[str, ModelConfig], progress: Progress
) -> None:
    """Load the models, those first that no request reaches yet, then the ensembles over them.

    Args:
        server: The server.
        steps: What it is to serve.
        before: The configs of what it serves.
        progress: Takes the steps of the work.
    """
    in_use = set(before)
    states = [state for state in server.states() if state.state == "READY"]
    ready = {state.name for state in states}
    ensembles = _inner_first(steps)
    tried = _tried_versions(steps, {(state.name, int(state.version)) for state in states})
    loading = ""
    again: list[str] = []
    switched: list[str] = []

    def load(name: str) -> None:
        nonlocal loading
        loading = name
        progress(f"loading {name}" if name not in in_use else f"loading {name} again, if it changed")
        server.load(name)
        again.append(name)

    try:
        for name in sorted(
            steps.keys() - {*ensembles, *tried, *tried.values()}, key=lambda name: (name in in_use, name)
        ):
            load(name)
        for loading in sorted(tried.values()):
            server.load(loading, to_triton_json(_only_primary(steps[loading])))
        for loading in ensembles:
            _try(server, steps[loading])
            switched.append(loading)
            _load_ensemble(server, steps[loading])
        for name in tried:
            load(name)
        for loading in sorted(tried.values()):
            server.load(loading, to_triton_json(steps[loading].config))
    except ReloadError as error:
        for name in switched if tried else []:
            # The router lets them answer as before, and is not needed for it.
            with contextlib.suppress(ReloadError):
                server.load(name, to_triton_json(before[name]))
        used = _loaded(server, ensembles) if tried else {}
        for name in steps.keys() - ready - used.keys():
            # Models that no request reaches need not hold memory.
            with contextlib.suppress(ReloadError):
                server.unload(name)
        loaded = [name for name in sorted(in_use) if name in again]
        kept = f"; {', '.join(loaded)} may be new already" if loaded else ""
        raise ReloadError(
            f"{loading} was not loaded, and the server continues with its old models{kept}: {error}",
            reason=error.reason,
        ) from error


def _tried_versions(steps: Mapping[str, Model], ready: Set[tuple[str, int]]) -> dict[str, str]:
    """Return the classifiers of which another version is tried, each with its router.

    Only those whose version in use is loaded: the router can do without the other one until it is.

    Args:
        steps: What a server is to serve.
        ready: The models and versions that it has.
    """
    direct = {step for model in steps.values() for step in step_names(model.config)}
    found = {}
    for router in steps.values():
        route = router.route
        if route is None or len(route.models) > 1:
            continue
        model, versions = route.primary.model, route.versions_of(route.primary.model)
        is_loaded = (model, route.primary.version) in ready
        if model not in direct and is_loaded and not all((model, version) in ready for version in versions):
            found[model] = router.name
    return found


def _only_primary(router: Model) -> ModelConfig:
    """Return a router's config with which no request goes to the candidate."""
    route = router.route
    assert route is not None, "it is a router"
    config = ModelConfig()
    config.CopyFrom(router.config)
    set_parameters(config, replace(route, mode="split", percent=_NONE_PERCENT).to_parameters())
    return config


def _try(server: Management, ensemble: Model) -> None:
    """Load an ensemble under another name: Triton unloads one that does not match, before it reports that."""
    config = ModelConfig()
    config.CopyFrom(ensemble.config)
    config.name = ensemble.name + _TRIAL
    try:
        # A model whose config comes with the call needs a version with a file in it, here an empty one.
        server.load(config.name, to_triton_json(config), {"file:1/empty": b""})
    except ReloadError as error:
        message = str(error).replace(config.name, ensemble.name)
        # The one case in which Triton writes the reason to its log only.
        hint = "; the server's log has the reason" if "failed to poll" in message else ""
        raise ReloadError(f"{message}{hint}", reason=error.reason) from error
    finally:
        with contextlib.suppress(ReloadError):
            server.unload(config.name)


def _load_ensemble(server: Management, ensemble: Model) -> None:
    """Load an ensemble, also if Triton takes it for loaded: after a load that was taken back, its files look known."""
    server.load(ensemble.name)
    if step_names(server.config(ensemble.name) or ModelConfig()) != step_names(ensemble.config):
        server.load(ensemble.name, to_triton_json(ensemble.config))


def _verify(server: Management, steps: Mapping[str, Model]) -> dict[str, list[int]]:
    """Make sure that every model is ready without an error, and that each ensemble runs the steps of its config.

    Returns:
        The versions of each model that the server has ready.
    """
    states = list(server.states())
    versions: dict[str, list[int]] = {}
    for name, model in sorted(steps.items()):
        mine = [state for state in states if state.name == name]
        ready = [state for state in mine if state.state == "READY"]
        if not ready or any(state.reason for state in ready):
            causes = [state.reason for state in ready or mine if state.reason]
            raise ReloadError(f"{name} was not loaded: {reason(causes[0]) if causes else 'Triton gives no reason'}")
        runs = step_names(server.config(name) or ModelConfig())
        if runs != step_names(model.config):
            raise ReloadError(
                f"{name} still runs {' -> '.join(runs)}: if its config was edited meanwhile, reload again"
            )
        versions[name] = [int(state.version) for state in ready]
    return versions


def _served(model: Model, models: Mapping[str, Model], versions: Mapping[str, list[int]], version: int = -1) -> str:
    """Return a model as it is served, with the recipe and precision of it or of its steps.

    Args:
        model: The model.
        models: All that are served.
        versions: The served versions of each.
        version: -1 for the newest.
    """
    if model.is_ensemble:
        steps = [
            _served(models[step.model_name], models, versions, step.model_version)
            for step in model.config.ensemble_scheduling.step
        ]
        return f"{model.name} = {' -> '.join(steps)}"
    if model.route is not None:
        route = model.route
        primary, candidate = (
            _served(models[each.model], models, versions, each.version) for each in (route.primary, route.candidate)
        )
        return f"{model.name} ({route.mode} {route.percent:g} %: {primary} | {candidate})"
    number = max(versions[model.name]) if version == -1 else version
    built = {
        f"{report.recipe} in {report.precision}"
        for each, artefact in (model.artefacts() if model.form is not None else ())
        if each.number == number and (report := find_report(artefact)) is not None
    }
    return f"{model.name} (version {number}: {', '.join(sorted(built))})" if built else model.name


def _unload(server: Management, names: list[str], progress: Progress, unload_s: float) -> None:
    """Unload models that nothing uses any more, ensembles first, and wait until their last requests are finished."""
    if not names:
        return
    time.sleep(_GRACE_S)
    for name in names:
        server.unload(name)
    limit = time.monotonic() + unload_s
    left = set(names)
    while left and time.monotonic() < limit:
        time.sleep(0.1)
        left = {state.name for state in server.states() if state.name in names and state.state == "UNLOADING"}
    for name in sorted(names):
        progress(f"{name} still has open requests, and is unloaded after them" if name in left else f"unloaded {name}")


def _refuse_mixtures(before: Mapping[str, ModelConfig], steps: Mapping[str, Model]) -> None:
    """Refuse changes that do not go with the other steps as they are: steps are loaded one after the other.

    Raises:
        ReloadError: Such a change needs a restart.
    """
    for name in sorted(steps.keys() & before.keys()):
        was, now = before[name], steps[name].config
        if steps[name].is_ensemble:
            continue
        changed = []
        for kind, old, new in (("inputs", was.input, now.input), ("outputs", was.output, now.output)):
            if _tensors(old) != _tensors(new):
                changed.append(f"its {kind}")
        if not _makes_the_same(was, now):
            changed.append(f"its recipe (from {_recipe(was)} to {_recipe(now)})")
        if now.max_batch_size < was.max_batch_size:
            changed.append(f"its max_batch_size (from {was.max_batch_size} to {now.max_batch_size})")
        if changed:
            raise ReloadError(
                f"{name} changed in {' and '.join(changed)}, which concerns more than the classifier: for a moment old "
                f"and new steps would run together. Restart the server: {restart_command(steps[name].folder.parent)}; "
                "until then it continues unchanged",
                reason="restart_needed",
            )


def _makes_the_same(was: ModelConfig, now: ModelConfig) -> bool:
    """Whether a step makes the same pixels or labels as before, as far as its configs say."""
    old, new = parameters(was), parameters(now)
    if is_preprocess(now.name) and (pixels := pixels_digest(old)):
        return pixels == pixels_digest(new)
    # The server does not say which labels it has loaded: the recipe stands for them.
    return old.get("recipe_sha256", "") == new.get("recipe_sha256", "")


def _loaded(server: Management, wanted: list[str]) -> dict[str, ModelConfig]:
    """Return the configs that the server has of the wanted models and, now, of their steps, by name."""
    found: dict[str, ModelConfig] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        config = server.config(name) if name not in found else None
        if config is not None:
            found[name] = config
            waiting += models_used(config)
    return found


def _used(models: Mapping[str, Model], wanted: list[str]) -> dict[str, Model]:
    """Return the wanted models, their steps, and the steps of those."""
    found: dict[str, Model] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = models[name]
            waiting += models_used(models[name].config)
    return found


def _inner_first(steps: Mapping[str, Model]) -> list[str]:
    """Return the ensembles, each after those that it uses."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        for step in step_names(steps[name].config):
            visit(step)
        if steps[name].is_ensemble and name not in ordered:
            ordered.append(name)

    for name in sorted(steps):
        visit(name)
    return ordered


def _recipe(config: ModelConfig) -> str:
    texts = parameters(config)
    return f"{texts.get('recipe', '')} {texts.get('recipe_sha256', '')[:8]}"


def _tensors(tensors: Any) -> dict[str, tuple[int, list[int]]]:
    """Return type and shape of each tensor by its name."""
    return {str(tensor.name): (int(tensor.data_type), list(tensor.dims)) for tensor in tensors}


def _port(running: Running) -> int:
    return int(running.http_address.rpartition(":")[2])


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Allow one reload of a server at a time. Raises ReloadError if another one runs, or the server has stopped."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except FileNotFoundError as error:
        raise ReloadError(
            "the server has stopped meanwhile: start it, and it loads the current content", reason="server_stopped"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ReloadError(
            "another jpeg-serve reload of this server is running: try again when it is done",
            reason="reload_in_progress",
        ) from error
    finally:
        os.close(handle)
