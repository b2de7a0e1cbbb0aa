"""A running server takes what the model repository holds now, without a request that fails.

How Triton 2.51 behaves was tried, and decides the order here:

- Loading an ensemble loads the new models among its steps, and again those whose files changed. Requests go to the old
  ones until the new ones are ready; a request keeps the models that it began with.
- If a new step does not load, or the ensemble does not fit its steps, **the old ensemble is unloaded**. So the steps
  are loaded first, one by one, and the ensemble is tried under another name.
- If a step that is in use does not load again, the old one stays; asked to load the ensemble, Triton says 200 to that,
  asked to load the step, it says why.
- A step that is no longer used stays loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jpeg_serve.bytecode import compile_models
from jpeg_serve.check import check_repository, models_to_load
from jpeg_serve.errors import ReloadError, RepositoryProblems
from jpeg_serve.machine import Machine
from jpeg_serve.management import Management, reason
from jpeg_serve.models import Model, read_models, read_report
from jpeg_serve.state import Running, find_running
from jpeg_serve.triton_config import ModelConfig, json_format

Say = Callable[[str], None]

# A request looks up the steps right after it looked up the ensemble. One that did the second before the swap has long
# done the first by then.
_GRACE_S = 1.0

_TRIAL = ".trial"


def choose_server(repository: Path | None, http_port: int | None) -> tuple[Path, Running]:
    """The running server of a model repository, or the one at a port; with its state's file.

    Raises ReloadError if there is none, or more than one.
    """
    running = [found for found in find_running() if not found[1].is_orphaned()]
    wanted = str(repository.resolve()) if repository is not None else None
    chosen = [
        (file, each)
        for file, each in running
        if wanted in (None, each.model_repository) and http_port in (None, _port(each))
    ]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        ports = ", ".join(str(_port(each)) for _, each in chosen)
        raise ReloadError(f"several servers run here: choose one with --http-port, of {ports}")
    asked = [f"that serves {wanted}"] if wanted is not None else []
    asked += [f"with HTTP port {http_port}"] if http_port is not None else []
    others = ", ".join(f"{each.model_repository} at {each.http_address}" for _, each in running)
    raise ReloadError(
        f"this user has no running jpeg-serve {' '.join(asked)}: start it, and it takes what is there now"
        + (f"; running are {others}" if others else "")
    )


def reload_server(
    file: Path, running: Running, machine: Machine, say: Say, *, load_s: float, unload_s: float
) -> list[str]:
    """Let a server take what its model repository holds now; returns when it serves that.

    load_s: how long one model may take to load. unload_s: how long to wait until models that are no longer used have
    answered their last requests. Returns what is served now, by model that was asked for: of an ensemble its steps, of
    each that was built its version, recipe and precision.

    Raises RepositoryProblems before anything is touched, ReloadError if something cannot be loaded: the server then
    goes on with what it had.
    """
    repository = Path(running.model_repository)
    with _alone(file):
        if problems := check_repository(repository, machine):
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise RepositoryProblems(f"{repository} cannot be served; the server goes on as it is:\n{lines}")
        compile_models(repository)
        models, _ = read_models(repository)
        wanted = list(running.load) or models_to_load(repository)
        absent = [name for name in wanted if name not in models]
        if absent:
            raise ReloadError(f"{repository} has no model {absent[0]}, which the server was told to load: restart it")
        with Management(running.grpc_address, running.keys, load_s=load_s) as server:
            steps, before = _used(models, wanted), _loaded(server, wanted)
            _refuse_mixtures(before, steps)
            _take(server, steps, set(before), say)
            versions = _verify(server, steps)
            _drop(server, before.keys() - steps.keys(), say, unload_s)
        return [_served(steps[name], steps, versions) for name in wanted]


def _take(server: Management, steps: Mapping[str, Model], in_use: set[str], say: Say) -> None:
    """Load the models, those first that no request reaches yet, then the ensembles over them."""
    ready = {state.name for state in server.states() if state.state == "READY"}
    ensembles = _inner_first(steps)
    loading = ""
    again: list[str] = []
    try:
        for loading in sorted(steps.keys() - set(ensembles), key=lambda name: (name in in_use, name)):
            say(f"loading {loading}" if loading not in in_use else f"loading {loading} again, if it changed")
            server.load(loading)
            again.append(loading)
        for loading in ensembles:
            _try(server, steps[loading])
            server.load(loading)
    except ReloadError as error:
        for name in steps.keys() - ready:
            # What no request reaches need not hold memory.
            with contextlib.suppress(ReloadError):
                server.unload(name)
        taken = [name for name in sorted(in_use) if name in again]
        kept = f"; {', '.join(taken)} may be new already" if taken else ""
        raise ReloadError(
            f"{loading} was not loaded, and the server goes on with what it had{kept}: {error}"
        ) from error


def _try(server: Management, ensemble: Model) -> None:
    """Load an ensemble under another name: Triton unloads one that does not fit, before it says so."""
    config = ModelConfig()
    config.CopyFrom(ensemble.config)
    config.name = ensemble.name + _TRIAL
    text = json_format.MessageToJson(config, preserving_proto_field_name=True)
    try:
        # A model whose config comes with the call needs a version with a file in it, here an empty one.
        server.load(config.name, text, {"file:1/empty": b""})
    except ReloadError as error:
        said = str(error).replace(config.name, ensemble.name)
        # The one case in which Triton keeps the reason for its log.
        raise ReloadError(f"{said}; the server's log says why" if "failed to poll" in said else said) from error
    finally:
        with contextlib.suppress(ReloadError):
            server.unload(config.name)


def _verify(server: Management, steps: Mapping[str, Model]) -> dict[str, list[int]]:
    """Every model is ready and nothing is said against it; each ensemble runs the steps that its config names.

    Returns the versions that the server has ready of each model.
    """
    states = list(server.states())
    versions: dict[str, list[int]] = {}
    for name, model in sorted(steps.items()):
        mine = [state for state in states if state.name == name]
        ready = [state for state in mine if state.state == "READY"]
        if not ready or any(state.reason for state in ready):
            said = [state.reason for state in ready or mine if state.reason]
            raise ReloadError(f"{name} was not loaded: {reason(said[0]) if said else 'Triton does not say why'}")
        runs = _step_names(server.config(name) or ModelConfig())
        if runs != _step_names(model.config):
            raise ReloadError(f"{name} runs {' -> '.join(runs)} still; was its config edited meanwhile? Reload again")
        versions[name] = [int(state.version) for state in ready]
    return versions


def _served(model: Model, models: Mapping[str, Model], versions: Mapping[str, list[int]], version: int = -1) -> str:
    """A model as it is served, with what the reports say of it or of its steps. version: -1 for the newest."""
    if model.is_ensemble:
        steps = [
            _served(models[step.model_name], models, versions, step.model_version)
            for step in model.config.ensemble_scheduling.step
        ]
        return f"{model.name} = {' -> '.join(steps)}"
    number = max(versions[model.name]) if version == -1 else version
    said = {
        f"{report['recipe']} in {report['precision']}"
        for each, artefact in model.artefacts()
        if each.number == number and isinstance(report := read_report(artefact), dict)
    }
    return f"{model.name} (version {number}: {', '.join(sorted(said))})" if said else model.name


def _drop(server: Management, names: set[str], say: Say, unload_s: float) -> None:
    """Unload models that nothing uses any more, and wait until their last requests are answered."""
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
        say(f"{name} still answers requests, and is unloaded after them" if name in left else f"unloaded {name}")


def _refuse_mixtures(before: Mapping[str, ModelConfig], steps: Mapping[str, Model]) -> None:
    """Steps are taken one after the other: what does not go with the other steps as they are needs a restart."""
    for name in sorted(steps.keys() & before.keys()):
        was, now = before[name], steps[name].config
        if steps[name].is_ensemble:
            continue
        changed = []
        for kind, old, new in (("inputs", was.input, now.input), ("outputs", was.output, now.output)):
            if _tensors(old) != _tensors(new):
                changed.append(f"its {kind}")
        if _parameter(was, "recipe_sha256") != _parameter(now, "recipe_sha256"):
            old, new = (f"{_parameter(said, 'recipe')} {_parameter(said, 'recipe_sha256')[:8]}" for said in (was, now))
            changed.append(f"its recipe (from {old} to {new})")
        if now.max_batch_size < was.max_batch_size:
            changed.append(f"its max_batch_size (from {was.max_batch_size} to {now.max_batch_size})")
        if changed:
            raise ReloadError(
                f"{name} changed in {' and '.join(changed)}, which concerns more than the classifier: for a moment old "
                "and new steps would answer together. Restart the server instead; until then it goes on as it is"
            )


def _loaded(server: Management, wanted: list[str]) -> dict[str, ModelConfig]:
    """The configs that the server has of the wanted models and of what they use now, by name."""
    found: dict[str, ModelConfig] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        config = server.config(name) if name not in found else None
        if config is not None:
            found[name] = config
            waiting += _step_names(config)
    return found


def _used(models: Mapping[str, Model], wanted: list[str]) -> dict[str, Model]:
    """The wanted models, their steps, and the steps of those."""
    found: dict[str, Model] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = models[name]
            waiting += _step_names(models[name].config)
    return found


def _inner_first(steps: Mapping[str, Model]) -> list[str]:
    """The ensembles in an order in which each comes after those that it uses."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        for step in _step_names(steps[name].config):
            visit(step)
        if steps[name].is_ensemble and name not in ordered:
            ordered.append(name)

    for name in sorted(steps):
        visit(name)
    return ordered


def _step_names(config: ModelConfig) -> list[str]:
    return [str(step.model_name) for step in config.ensemble_scheduling.step]


def _parameter(config: ModelConfig, name: str) -> str:
    return str(config.parameters[name].string_value) if name in config.parameters else ""


def _tensors(tensors: Any) -> dict[str, tuple[int, list[int]]]:
    """Type and shape of each tensor by its name."""
    return {str(tensor.name): (int(tensor.data_type), list(tensor.dims)) for tensor in tensors}


def _port(running: Running) -> int:
    return int(running.http_address.rpartition(":")[2])


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One reload of a server at a time. Raises ReloadError if another is at work, or the server has stopped."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except FileNotFoundError as error:
        raise ReloadError("the server has stopped meanwhile: start it, and it takes what is there now") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ReloadError("another jpeg-serve reload is at work on this server: try again when it is done") from error
    finally:
        os.close(handle)
