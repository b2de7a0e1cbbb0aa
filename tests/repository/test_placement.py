"""How many servers run by default, and which GPU each of them sees."""

import pytest
from jpeg_serve.models import read_models, served_models
from jpeg_serve.placement import place_servers
from repository.edits import merge
from repository.machines import machine

CLASSIFIER = "classifier_onnx"
TWO = ["0", "1"]


def placed(repository, here, count=0):
    models, _ = read_models(repository)
    return place_servers(count, served_models(models), here)


def instances(repository, model, text):
    merge(model, f"instance_group {{ {text} }}" if text is not None else "", clear="instance_group")(repository)


# The classifier's instances, tritonserver's native backends, and the servers on a machine with two GPUs. Triton takes a
# group without a kind, and a model without a group, to the GPUs that there are.
ONNX = {
    "no kind, ours, which runs on CPUs": ("", [], [None]),
    "no kind, native": ("", ["onnxruntime"], TWO),
    "no group, ours": (None, [], [None]),
    "no group, native": (None, ["onnxruntime"], TWO),
    "CPU, native": ("kind: KIND_CPU", ["onnxruntime"], [None]),
    "GPU, native": ("kind: KIND_GPU", ["onnxruntime"], TWO),
    "one GPU, native": ("kind: KIND_GPU gpus: [1]", ["onnxruntime"], [None]),
}


@pytest.mark.parametrize(("group", "natives", "expected"), ONNX.values(), ids=ONNX)
def test_there_is_a_server_for_each_gpu_if_the_models_run_on_gpus(repository, monkeypatch, group, natives, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    instances(repository, CLASSIFIER, group)
    assert placed(repository, machine("9.0", "9.0", natives=natives)) == expected
    assert placed(repository, machine("9.0", natives=natives)) == [None]
    assert placed(repository, machine(natives=natives)) == [None]


def test_a_model_that_decodes_on_gpus_counts(repository, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for group in ("kind: KIND_GPU", ""):
        instances(repository, "preprocess", group)
        assert placed(repository, machine("9.0", "9.0")) == TWO


def test_servers_that_are_asked_for_share_the_gpus_that_are_visible(repository, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    instances(repository, CLASSIFIER, "kind: KIND_GPU")
    assert placed(repository, machine("9.0", "9.0"), 3) == ["5", "7", "5"]
    instances(repository, CLASSIFIER, "kind: KIND_CPU")
    assert placed(repository, machine("9.0", "9.0"), 3) == [None] * 3
