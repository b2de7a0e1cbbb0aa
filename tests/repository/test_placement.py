"""How many servers run by default, and which GPU each of them sees."""

import pytest
from jpeg_contract.report import Requirements
from jpeg_serve.errors import RepositoryProblems
from jpeg_serve.models import read_models, served_models
from jpeg_serve.options import ServerOptions
from jpeg_serve.placement import check_placement, place_servers
from jpeg_serve.server import Member, TritonServer
from repository.edits import add_classifier, merge
from repository.machines import gpus, machine

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


KINDS = {"0": "9.0", "1": "8.6", "2": "9.0"}


def see_two_kinds(monkeypatch):
    """Let the driver show GPUs of two kinds, as far as CUDA_VISIBLE_DEVICES lets a program see them."""

    def find(environment=None):
        return gpus(*(KINDS[name] for name in (environment or {}).get("CUDA_VISIBLE_DEVICES", "0,1,2").split(",")))

    monkeypatch.setattr("jpeg_serve.machine.find_gpus", find)


def add_engine(repository):
    requires = Requirements(compute_capability="9.0")
    add_classifier(repository, "tensorrt", requires=requires, config="instance_group { kind: KIND_GPU }")


def reasons(caught):
    return {problem.reason for problem in caught.value.problems}


@pytest.mark.parametrize(("device", "refused"), [("0", False), ("1", True), ("2", False)])
def test_a_server_is_checked_for_the_gpu_that_it_sees(repository, monkeypatch, device, refused):
    see_two_kinds(monkeypatch)
    add_engine(repository)
    with pytest.raises(RepositoryProblems) as caught:  # of a package that is not installed here, at least
        TritonServer(ServerOptions(repository), member=Member(1, is_alone=False, visible_devices=device)).start()
    assert ("gpu_capability" in reasons(caught)) is refused


def test_a_server_that_does_not_see_a_named_gpu_is_refused(repository, monkeypatch):
    """As after an edit, when it is started again."""
    see_two_kinds(monkeypatch)
    instances(repository, CLASSIFIER, "kind: KIND_GPU gpus: [1]")
    with pytest.raises(RepositoryProblems) as caught:
        TritonServer(ServerOptions(repository), member=Member(2, is_alone=False, visible_devices="1")).start()
    assert reasons(caught) == {"gpu_missing"}


def test_all_gpus_of_several_servers_are_checked_before_the_first_one_starts(repository, monkeypatch):
    see_two_kinds(monkeypatch)
    add_engine(repository)
    for devices, refused in ((["0", "1"], True), (["0", "2"], False)):
        with pytest.raises(RepositoryProblems) as caught:
            check_placement(devices, ServerOptions(repository))
        assert ("gpu_capability" in reasons(caught)) is refused
    check_placement([None], ServerOptions(repository))  # its server checks it
