"""The record of each classifier form, and what it names."""

import ast
import importlib.metadata
import importlib.util
import inspect
from pathlib import Path

import msgspec
import pytest
from jpeg_build.cli.building import EngineOptions
from jpeg_build.emitters import Emitter
from jpeg_contract import forms
from jpeg_contract.forms import FORMS, ClassifierForm, OpenVinoParameters, form_of_backend, form_of_model

EACH_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)


def functions_of(module):
    """The top-level functions of a module, with the names of their parameters; frameworks are not imported."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def test_there_is_one_record_for_each_name():
    assert list(FORMS) == ["onnx", "openvino", "tensorrt", "torch_tensorrt", "tf_trt"]
    assert len(FORMS) == 5
    for name, form in FORMS.items():
        assert form.name == name


@pytest.mark.parametrize("field", ["model", "backend", "loader", "emitter", "title", "artefact"])
def test_no_two_forms_share_a_model_a_backend_or_code(field):
    values = [getattr(form, field) for form in FORMS.values()]
    assert len(set(values)) == len(values)


def test_no_two_forms_claim_the_same_file_ending():
    suffixes = [suffix for form in FORMS.values() for suffix in form.suffixes]
    assert len(set(suffixes)) == len(suffixes)
    for form in FORMS.values():
        assert Path(form.artefact).suffix in form.suffixes


@EACH_FORM
def test_the_loader_is_a_function_of_a_config(form):
    module, _, function = form.loader.partition(":")
    assert len(functions_of(module)[function]) == 1


@EACH_FORM
def test_the_emitter_has_the_functions_of_its_protocol(form):
    found = functions_of(form.emitter)
    for name, method in inspect.getmembers(Emitter, inspect.isfunction):
        if not name.startswith("_"):
            # The protocol's have `self`.
            assert len(found[name]) == len(inspect.signature(method).parameters) - 1


@EACH_FORM
def test_the_parameters_are_a_class_whose_fields_have_defaults(form):
    assert issubclass(form.parameters, msgspec.Struct)
    assert isinstance(form.parameters(), form.parameters)
    names = {field.encode_name for field in msgspec.structs.fields(form.parameters)}
    assert set(form.artefact_parameters) <= names


@EACH_FORM
def test_a_form_is_found_by_its_model_and_by_its_backend(form):
    assert form.model == f"classifier_{form.name}"
    assert (form_of_model(form.model), form_of_backend(form.backend)) == (form, form)


@pytest.mark.parametrize("model", ["preprocess", "onnx", "classifier_", "classifier_other", ""])
def test_other_models_have_no_form(model):
    assert form_of_model(model) is None


def test_other_backends_have_no_form():
    assert form_of_backend("python") is None
    assert form_of_backend("") is None


@EACH_FORM
def test_precisions_and_build_options_are_those_that_the_command_knows(form):
    assert form.precisions[0] == "fp32"
    assert set(form.precisions) <= {"fp32", "fp16", "bf16", "int8"}
    assert form.build_options <= set(EngineOptions.__dataclass_fields__)


@EACH_FORM
def test_every_package_has_a_remedy(form):
    assert form.packages
    for package in (*form.packages, *form.engine_packages):
        assert package.name.isidentifier()
        assert package.remedy


@EACH_FORM
def test_a_form_that_the_native_backend_cannot_serve_is_served_by_the_python_one(form):
    assert bool(form.native_refusal) == (form.served_by == "python")


def test_int8_of_openvino_conflicts_with_several_streams():
    conflict = FORMS["openvino"].conflict
    safe = [
        OpenVinoParameters(),
        OpenVinoParameters(num_streams="1"),
        OpenVinoParameters(num_streams="1", performance_hint="THROUGHPUT"),
        OpenVinoParameters(performance_hint="LATENCY", inference_num_threads=3),
    ]
    unsafe = [
        *(OpenVinoParameters(num_streams=streams) for streams in ("2", "AUTO", "NUMA")),
        *(OpenVinoParameters(performance_hint=hint) for hint in ("THROUGHPUT", "CUMULATIVE_THROUGHPUT")),
    ]
    assert [conflict(parameters, "int8") for parameters in safe] == [""] * len(safe)
    assert all("NUM_STREAMS" in conflict(parameters, "int8") for parameters in unsafe)
    for precision in ("fp32", "fp16", "bf16", ""):
        assert not any(conflict(parameters, precision) for parameters in (*safe, *unsafe))


@EACH_FORM
def test_the_default_parameters_conflict_with_no_precision(form):
    assert not any(form.conflict(form.parameters(), precision) for precision in form.precisions)


class Entry:
    """An entry point of an installed package."""

    def __init__(self, form):
        self._form = form

    def load(self):
        return self._form


def test_an_installed_package_adds_a_form_and_replaces_none(monkeypatch):
    def record(name, backend):
        return ClassifierForm(
            name=name,
            title="Mine",
            backend=backend,
            artefact="model.mine",
            precisions=("fp32",),
            instance_kind="CPU",
            loader="my_package:load",
            emitter="my_package.emitter",
        )

    mine = record("mine", "my_backend")
    groups = []

    def entry_points(*, group):
        groups.append(group)
        return [Entry(mine), Entry(record("onnx", "my_onnx"))]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    found = forms._Forms()
    assert list(found) == [*FORMS, "mine"]
    assert found["mine"] is mine
    assert found["mine"].model == "classifier_mine"
    assert found["onnx"] is FORMS["onnx"]
    assert groups == ["jpeg_contract.forms"]
