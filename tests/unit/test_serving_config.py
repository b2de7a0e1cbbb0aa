"""The config of a classifier as Triton hands it over."""

import pytest
from jpeg_contract.forms import FORMS, OnnxParameters, TorchParameters
from jpeg_contract.parameters import SettingsError
from jpeg_runtime import serving_config
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig
from support import as_parameters, classifier_args


def read(backend="onnxruntime", *, cpus=None, gpu=None, **config):
    return ServingConfig.from_triton(classifier_args("/models/classifier", backend, gpu=gpu, **config), cpus=cpus)


def test_fields_are_those_of_the_config():
    found = read(max_batch_size=7)
    assert found.name == "classifier"
    assert found.form is FORMS["onnx"]
    assert str(found.artefact) == "/models/classifier/1/model.onnx"
    assert (found.input_name, found.output_name) == ("input__0", "output__0")
    assert (found.max_batch_size, found.input_dims, found.output_dims) == (7, (32, 32, 3), (5,))
    assert (found.graph_level, found.cuda_graphs) == (0, None)
    assert str(read(default_model_filename="best.onnx").artefact) == "/models/classifier/1/best.onnx"


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
def test_each_backend_has_its_form_and_its_artefact(form):
    found = read(form.backend)
    assert found.form is form
    assert found.artefact.name == form.artefact


def test_optimization_is_read_as_the_native_backends_do():
    assert read(optimization={"graph": {"level": -1}}).graph_level == -1
    assert read(optimization={"cuda": {}}).cuda_graphs is False
    assert read(optimization={"cuda": {"graphs": True}}).cuda_graphs is True
    with pytest.raises(ModelLoadError, match="level is 5"):
        read(optimization={"graph": {"level": 5}})
    # The level means something to ONNX Runtime only.
    assert read("pytorch", optimization={"graph": {"level": 5}}).graph_level == 5


def test_an_instance_belongs_to_a_gpu_or_to_the_cpu():
    assert read().gpu is None
    assert read(gpu=1).gpu == 1
    args = {**classifier_args("/models/classifier", "onnxruntime"), "model_instance_kind": "MODEL"}
    with pytest.raises(ModelLoadError, match="KIND_MODEL; use KIND_GPU or KIND_CPU") as caught:
        ServingConfig.from_triton(args)
    assert caught.value.reason == "cannot_be_served"


def test_a_gpu_gets_the_file_of_its_compute_capability():
    found = read("tensorrt", gpu=0, cc_model_filenames={"9.0": "model_sm90.plan"})
    assert found.artefact_for("9.0").name == "model_sm90.plan"
    assert found.artefact_for("8.0") == found.artefact


def test_options_are_the_parameters_of_a_form():
    texts = {"intra_op_thread_count": "3", "session.intra_op.allow_spinning": "0", "SOMETHING": "x"}
    options = read(parameters=as_parameters(texts)).options(OnnxParameters)
    assert (options.intra_op_thread_count, options.inter_op_thread_count) == (3, 0)
    assert read(parameters=as_parameters(texts)).parameters == texts
    assert read("pytorch", parameters=as_parameters({"INFERENCE_MODE": "FALSE"})).options(
        TorchParameters
    ) == TorchParameters(inference_mode=False)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [(OnnxParameters, {"intra_op_thread_count": "two"}), (TorchParameters, {"INFERENCE_MODE": "perhaps"})],
)
def test_an_invalid_option_is_named(kind, parameters):
    (name, text), *_ = parameters.items()
    with pytest.raises(SettingsError, match=f"parameter {name} is '{text}'") as caught:
        read(parameters=as_parameters(parameters)).options(kind)
    assert caught.value.reason == "invalid_setting"


def test_a_classifier_has_one_input_and_one_output():
    for tensors in ("input", "output"):
        with pytest.raises(ModelLoadError, match="one input and one output"):
            read(**{tensors: []})


def test_a_backend_that_no_form_has_is_refused():
    for backend in ("python", ""):
        with pytest.raises(ModelLoadError, match="no classifier form") as caught:
            read(backend)
        assert caught.value.reason == "cannot_be_served"


def test_libraries_get_a_number_of_cpus_only_if_some_are_not_usable(monkeypatch):
    monkeypatch.setattr(serving_config, "machine_cpus", lambda: 4)
    assert [read(cpus=cpus).limited_cpus for cpus in (1, 3, 4, 5)] == [1, 3, 0, 0]
    monkeypatch.setattr(serving_config, "usable_cpus", lambda: 2)
    assert (read().cpus, read().limited_cpus) == (2, 2)
    assert read(cpus=3).cpus == 3
