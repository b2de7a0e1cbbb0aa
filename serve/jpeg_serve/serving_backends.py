"""Which backend serves the models of each classifier form: tritonserver's native one, or the Python-based one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from jpeg_contract.forms import FORMS, ClassifierForm
from jpeg_contract.model_config import KIND_CPU, ModelConfig

from jpeg_serve.machine import Machine, ServedWith
from jpeg_serve.models import PYTHON, PYTHON_MODEL, Model, Problem


@dataclass(frozen=True)
class ServedClassifier:
    """A classifier, and which backend serves it.

    Attributes:
        model: Name of the classifier.
        backend: Name of the Triton backend.
        served_with: Which of the two serves.
    """

    model: str
    backend: str
    served_with: ServedWith

    def __str__(self) -> str:
        kind = "native" if self.served_with == "native" else "Python-based"
        return f"{self.model} is served by the {kind} backend {self.backend}"


def choose_backends(models: Mapping[str, Model], served: Collection[Model], machine: Machine) -> dict[str, ServedWith]:
    """Choose which backend serves the models of each classifier form.

    A backend folder serves all models of its name, so that the choice is made for all of them together.

    Args:
        models: All models of the repository.
        served: Those that Triton loads. They decide where there are some of a form, and all of its models otherwise.
        machine: The machine that serves.

    Returns:
        The choice by the backend's name; empty if there is no tritonserver.
    """
    chosen: dict[str, ServedWith] = {}
    for form in FORMS.values() if machine.natives is not None else ():
        if form.backend not in chosen:
            loaded = [model.config for model in served if model.form is form]
            every = [model.config for model in models.values() if model.form is form]
            chosen[form.backend] = _choose(form, loaded or every, machine)
    return chosen


def _choose(form: ClassifierForm, configs: Collection[ModelConfig], machine: Machine) -> ServedWith:
    natives = machine.natives or frozenset()
    if form.backend in machine.serve_with:
        return machine.serve_with[form.backend]
    if form.backend not in natives:
        return "python"
    if form.backend not in machine.python_backends:
        return "native"
    if form.served_by == "native_on_gpu":
        return "native" if _run_on_gpus(configs, machine) else "python"
    return form.served_by


def _run_on_gpus(configs: Collection[ModelConfig], machine: Machine) -> bool:
    """Whether an instance of one of these models runs on a GPU. The driver is queried only if the configs allow one."""
    kinds = [group.kind for config in configs for group in config.instance_group]
    on_cpus = bool(kinds) and all(config.instance_group for config in configs) and set(kinds) == {KIND_CPU}
    return not on_cpus and bool(machine.gpus.capabilities)


def served_classifiers(served: Iterable[Model], chosen: Mapping[str, ServedWith]) -> list[ServedClassifier]:
    """Return the classifiers among the models that Triton loads, and which backend serves each."""
    return [
        ServedClassifier(model.name, model.backend, chosen[model.backend])
        for model in served
        if model.form is not None and model.backend in chosen
    ]


def check_backend(model: Model, chosen: Mapping[str, ServedWith], machine: Machine) -> Iterator[Problem]:
    """Find out whether the backend that serves a model exists and can serve it."""
    natives = machine.natives
    if natives is None or model.is_ensemble or not model.backend:
        return
    native = model.form is None or chosen[model.backend] == "native"
    library = f"libtriton_{model.backend}.so" if native else PYTHON_MODEL
    if model.config.runtime not in ("", library):
        yield Problem(
            model.where,
            f"runtime is {model.config.runtime}, but {library} serves it: remove runtime",
            "runtime_mismatch",
        )
    if model.form is None:
        # A model may bring the library of its backend.
        own = any(model.folder.glob("**/libtriton_*.so"))
        if not own and model.backend not in natives | machine.python_backends:
            yield _missing(model, natives | machine.python_backends)
        return
    if chosen[model.backend] == "python":
        if model.backend not in machine.python_backends or PYTHON not in natives:
            yield _missing(model, machine.python_backends if PYTHON in natives else natives)
        return
    if model.backend not in natives:
        yield Problem(
            model.where,
            f"the native backend {model.backend} is to serve it, but this tritonserver has none: remove --serve-with "
            f"{model.backend}=native",
            "native_backend_missing",
        )
    elif model.form.native_refusal:
        yield Problem(
            model.where,
            f"{model.form.native_refusal}: let the Python-based one serve it with --serve-with {model.backend}=python",
            "native_backend_refused",
        )


def _missing(model: Model, known: Collection[str]) -> Problem:
    return Problem(
        model.where,
        f"needs the backend {model.backend}, and there are only {', '.join(sorted(known)) or 'none'}: name the folder "
        "of the project's backends with --backends DIR, or serve it with a tritonserver that has it",
        "backend_missing",
    )
