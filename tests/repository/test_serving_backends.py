# ruff: noqa: E501  # one row for each case
"""Which backend serves each classifier, and whether the machine can run the artefact."""

import os

import pytest
from jpeg_contract.forms import FORMS
from jpeg_contract.gpus import Gpus
from jpeg_contract.report import Requirements
from jpeg_serve import check_repository
from jpeg_serve.check import examine_repository
from jpeg_serve.machine import Machine
from repository.edits import add_classifier, choose, merge
from repository.machines import machine

ALL = ["onnxruntime", "openvino", "pytorch", "tensorflow", "tensorrt"]
CLASSIFIER = "classifier_onnx"


def problems(repository, here):
    return check_repository(repository, here)


def reasons(repository, here):
    return [problem.reason for problem in problems(repository, here)]


def instances(text):
    return merge(CLASSIFIER, f"instance_group {{ {text} }}", clear="instance_group")


# Instances, GPUs, and the backend that serves onnxruntime where both are there.
ONNX = {
    "CPU": ("kind: KIND_CPU", ["9.0"], "python"),
    "GPU": ("kind: KIND_GPU", ["9.0"], "native"),
    "any, with a GPU": ("", ["9.0"], "native"),
    "any, without a GPU": ("", [], "python"),
    "both": ("kind: KIND_CPU } instance_group { kind: KIND_GPU", ["9.0"], "native"),
}


@pytest.mark.parametrize(("groups", "capabilities", "expected"), ONNX.values(), ids=ONNX)
def test_ours_serves_onnx_on_cpus_and_the_native_one_on_gpus(repository, groups, capabilities, expected):
    instances(groups)(repository)
    result = examine_repository(repository, machine(*capabilities, natives=ALL))
    assert result.problems == []
    (served,) = result.classifiers
    assert (served.model, served.backend, served.served_with) == (CLASSIFIER, "onnxruntime", expected)
    assert ("native" if expected == "native" else "Python-based") in str(served)


def test_the_record_of_each_form_decides(repository):
    here = machine("9.0", natives=ALL)
    chosen = examine_repository(repository, here).served_with
    assert chosen == {
        "onnxruntime": "native",
        "openvino": "python",
        "pytorch": "native",
        "tensorflow": "native",
        "tensorrt": "native",
    }
    assert set(examine_repository(repository, machine("9.0")).served_with.values()) == {"python"}
    assert examine_repository(repository, Machine(natives=None, packages=str, environment={})).served_with == {}


def test_a_classifier_that_is_not_served_does_not_decide(repository):
    instances("kind: KIND_CPU")(repository)
    add_classifier(repository, "onnx", name="classifier_mine", config="instance_group { kind: KIND_GPU }", chosen=False)
    assert examine_repository(repository, machine("9.0", natives=ALL)).served_with["onnxruntime"] == "python"
    choose(repository, "classifier_mine")
    assert examine_repository(repository, machine("9.0", natives=ALL)).served_with["onnxruntime"] == "native"


def test_the_user_decides_for_a_backend(repository):
    def served_with(**choices):
        here = machine(natives=ALL, serve_with=choices)
        return examine_repository(repository, here).classifiers[0].served_with

    assert served_with() == "python"
    assert served_with(onnxruntime="native") == "native"
    assert served_with(onnxruntime="python") == "python"
    assert served_with(openvino="native") == "python"


def test_a_classifier_that_the_chosen_backend_cannot_serve_is_refused(repository):
    assert reasons(repository, machine(serve_with={"onnxruntime": "native"})) == ["native_backend_missing"]
    add_classifier(repository, "openvino")
    assert problems(repository, machine(natives=ALL)) == []
    (found,) = problems(repository, machine(natives=ALL, serve_with={"openvino": "native"}))
    assert found.reason == "native_backend_refused"
    assert "--serve-with openvino=python" in found.message
    # Without ours, the native one is left.
    nothing_of_ours = machine(natives=ALL, python_backends=frozenset())
    assert reasons(repository, nothing_of_ours) == ["native_backend_refused"]


def test_an_unavailable_backend_is_refused(repository):
    (found,) = problems(repository, machine(python_backends=frozenset()))
    assert (found.where, found.reason) == (f"{CLASSIFIER}/config.pbtxt", "backend_missing")
    assert "--backends" in found.message


def test_tritons_python_backend_may_be_missing(repository):
    here = Machine(natives=frozenset({"onnxruntime"}), packages=str, environment={}, gpus=Gpus(()))
    assert reasons(repository, here) == ["backend_missing"] * 3


def test_a_model_may_bring_the_library_of_its_backend(repository):
    merge(CLASSIFIER, 'backend: "mine"', clear="platform")(repository)
    assert "backend_missing" in reasons(repository, machine())
    (repository / CLASSIFIER / "libtriton_mine.so").write_text("")
    assert "backend_missing" not in reasons(repository, machine())


ENGINE = {"compute_capability": "9.0", "tensorrt": "8.6.1"}
TORCH = {"torch": "2.2.0", "torch_tensorrt": "2.2.0", **ENGINE}
TENSORRT = {"tensorrt": "8.6.1", "cupy": "13.0"}

REFUSED = {
    "no GPU": ("tensorrt", ENGINE, machine(packages=TENSORRT), "gpu_missing", "the driver shows none"),
    "another GPU": ("tensorrt", ENGINE, machine("8.6", packages=TENSORRT), "gpu_capability", "build it on this machine: jpeg-build mobilenet_v2 --backend tensorrt"),
    "two kinds": ("tensorrt", ENGINE, machine("8.6", "9.0", packages=TENSORRT), "gpu_capability", "gpus: [1]"),
    "too old": ("tensorrt", {**ENGINE, "hardware_compatible": True}, machine("7.5", packages=TENSORRT), "gpu_capability", "8.0 or later"),
    "another TensorRT": ("tensorrt", ENGINE, machine("9.0", packages={**TENSORRT, "tensorrt": "10.3.0"}), "tensorrt_version", "10.3.0"),
    "native TensorRT": ("tensorrt", ENGINE, machine("9.0", natives=["tensorrt"], environment={"TRT_VERSION": "10.3.0.26"}), "tensorrt_version", "10.3.0.26"),
    "no TensorRT": ("tensorrt", ENGINE, machine("9.0", packages={}), "package_missing", "[tensorrt]"),
    "no CuPy": ("tensorrt", ENGINE, machine("9.0", packages={"tensorrt": "8.6.1"}), "package_missing", "package cupy"),
    "no TensorFlow": ("tf_trt", {"tensorflow": "2.17.1"}, machine(packages={}), "package_missing", "[build-tensorflow]"),
    "no OpenVINO": ("openvino", {}, machine(packages={}), "package_missing", "[serve]"),
    "no ONNX Runtime": ("onnx", {}, machine(packages={}), "package_missing", "[serve]"),
    "no PyTorch": ("torch_tensorrt", {"torch": "2.2.0"}, machine(packages={}), "package_missing", "[torch]"),
    "no PyTorch beside TensorFlow": ("torch_tensorrt", {"torch": "2.2.0"}, machine(packages={"tensorflow": "2.17.1"}), "package_missing", "another environment"),
    "no Torch-TensorRT": ("torch_tensorrt", TORCH, machine("9.0", packages={"torch": "2.2.0"}), "package_missing", "package torch_tensorrt"),
    "another PyTorch": ("torch_tensorrt", TORCH, machine("9.0", packages={"torch": "2.3.1+cu121", "torch_tensorrt": "2.2.0"}), "package_version", "2.3.1+cu121"),
    "no package, although native": ("onnx", {}, machine(natives=ALL, packages={}, serve_with={"onnxruntime": "python"}), "package_missing", "[serve]"),
}  # fmt: skip
ACCEPTED = {
    "the same GPU": ("tensorrt", ENGINE, machine("9.0", "9.0", packages=TENSORRT)),
    "hardware compatible": ("tensorrt", {**ENGINE, "hardware_compatible": True}, machine("8.6", packages=TENSORRT)),
    "version compatible": ("tensorrt", {**ENGINE, "version_compatible": True}, machine("9.0", packages={**TENSORRT, "tensorrt": "8.7.0"})),
    "native, unknown TensorRT": ("tensorrt", ENGINE, machine("9.0", natives=["tensorrt"])),
    "another TensorFlow": ("tf_trt", {"tensorflow": "2.15.1"}, machine(packages={"tensorflow": "2.17.1"})),
    "native TensorFlow": ("tf_trt", {"tensorflow": "2.15.1"}, machine(natives=["tensorflow"], packages={})),
    "plain TorchScript": ("torch_tensorrt", {"torch": "2.2.0"}, machine(packages={"torch": "2.14.1"})),
    "the same PyTorch": ("torch_tensorrt", TORCH, machine("9.0", packages={"torch": "2.2.0+cu121", "torch_tensorrt": "2.2.0"})),
    "native PyTorch": ("torch_tensorrt", TORCH, machine("9.0", natives=["pytorch"], packages={})),
    "native ONNX Runtime": ("onnx", {}, machine("9.0", natives=["onnxruntime"], packages={})),
    "no server": ("tensorrt", ENGINE, Machine(natives=None, packages=lambda name: None, environment={}, gpus=Gpus(()))),
}  # fmt: skip


def add(repository, form, requires, **more):
    name = "classifier_mine" if form == "onnx" else FORMS[form].model
    return add_classifier(repository, form, name=name, requires=Requirements(**requires), **more)


@pytest.mark.parametrize(("form", "requires", "here", "reason", "fact"), REFUSED.values(), ids=REFUSED)
def test_an_artefact_that_this_machine_cannot_run_is_refused_with_the_remedy(
    repository, form, requires, here, reason, fact
):
    add(repository, form, requires)
    (found,) = problems(repository, here)
    assert found.reason == reason
    assert fact in found.message


@pytest.mark.parametrize(("form", "requires", "here"), ACCEPTED.values(), ids=ACCEPTED)
def test_an_artefact_that_this_machine_can_run_is_accepted(repository, form, requires, here):
    add(repository, form, requires)
    assert problems(repository, here) == []


def test_only_served_artefacts_are_compared_with_the_machine(repository):
    add(repository, "tensorrt", ENGINE, chosen=False)
    assert problems(repository, machine(packages={"onnxruntime": "1.22"})) == []


def test_a_refusal_names_another_classifier_that_is_built_and_runs_here(repository):
    add(repository, "tensorrt", ENGINE)
    add(repository, "tf_trt", {"tensorflow": "2.17.1"}, chosen=False)
    here = machine(packages={"onnxruntime": "1.22"})
    found = problems(repository, here)
    assert [problem.reason for problem in found] == ["gpu_missing", "package_missing"]
    command = f"; or use jpeg-build use onnx --model-repository {repository}"
    assert all(problem.message.endswith(command) for problem in found)
    (repository / CLASSIFIER / "1/model.onnx").unlink()
    assert not any("jpeg-build use" in problem.message for problem in problems(repository, here))


def test_an_engine_is_not_put_on_cpus(repository):
    add(repository, "tensorrt", ENGINE)
    merge("classifier_tensorrt", "instance_group { kind: KIND_CPU }", clear="instance_group")(repository)
    assert reasons(repository, machine("9.0", packages=TENSORRT)) == ["instance_kind", "gpu_missing"]


def add_per_gpu(repository, *more):
    """Add engines for two kinds of GPU, each with its report."""
    for capability, name in (("8.6", "model_sm86"), ("9.0", "model_sm90"), *more):
        files = {f"{name}.plan": name.encode()}
        version = add(repository, "tensorrt", {**ENGINE, "compute_capability": capability}, files=files)
    map_files = " ".join(
        f'cc_model_filenames {{ key: "{capability}" value: "{name}.plan" }}'
        for capability, name in (("8.6", "model_sm86"), ("9.0", "model_sm90"))
    )
    merge("classifier_tensorrt", map_files)(repository)
    return version


def test_each_kind_of_gpu_has_its_engine(repository):
    version = add_per_gpu(repository)
    assert problems(repository, machine("8.6", "9.0", packages=TENSORRT)) == []
    (found,) = problems(repository, machine("8.6", "8.0", packages=TENSORRT))
    assert found.reason == "gpu_capability"
    assert "none for 8.0" in found.message
    assert "--per-gpu" in found.message
    assert reasons(repository, machine(packages=TENSORRT)) == ["gpu_missing"]
    # An engine for a GPU that is not here is not read, but has a report.
    (version / "model_sm90.plan").write_bytes(b"other")
    assert problems(repository, machine("8.6", packages=TENSORRT)) == []
    assert reasons(repository, machine("9.0", packages=TENSORRT)) == ["artefact_altered"]
    (version / "model_sm90.json").unlink()
    (found,) = problems(repository, machine("8.6", packages=TENSORRT))
    assert found.reason == "report_missing"
    assert "model_sm90.plan" in found.message


BUILD = "jpeg-build mobilenet_v2 --backend tensorrt --model-repository {repository} --per-gpu"


def test_an_engine_is_built_for_the_gpu_that_lacks_it(repository):
    """jpeg-build builds for the first GPU that it sees."""
    build = BUILD.format(repository=repository)
    add_per_gpu(repository)
    (found,) = problems(repository, machine("8.6", "8.0", "8.0", packages=TENSORRT))
    assert f": CUDA_VISIBLE_DEVICES=1 {build}" in found.message
    environment = {"CUDA_VISIBLE_DEVICES": "5,3"}
    (found,) = problems(repository, machine("8.6", "8.0", packages=TENSORRT, environment=environment))
    assert f": CUDA_VISIBLE_DEVICES=3 {build}" in found.message
    (found,) = problems(repository, machine("8.0", "8.6", packages=TENSORRT))
    assert f": {build}" in found.message


def test_an_engine_is_built_for_each_of_two_kinds(repository):
    build = BUILD.format(repository=repository)
    add(repository, "tensorrt", ENGINE)
    (found,) = problems(repository, machine("8.6", "9.0", packages=TENSORRT))
    assert found.message.endswith(f": {build} and CUDA_VISIBLE_DEVICES=1 {build}")


def test_an_engine_under_the_usual_name_is_for_all_other_gpus(repository):
    add_per_gpu(repository, ("9.0", "model"))
    (found,) = problems(repository, machine("8.0", packages=TENSORRT))
    assert (found.where, found.reason) == ("classifier_tensorrt/1/model.plan", "gpu_capability")


def test_instances_on_gpus_need_gpus(repository):
    instances("count: 1 kind: KIND_GPU gpus: [1]")(repository)
    (found,) = problems(repository, machine())
    assert found.reason == "gpu_missing"
    assert "the driver shows none" in found.message
    (found,) = problems(repository, machine("9.0"))
    assert found.reason == "gpu_missing"
    assert "GPU 1" in found.message
    assert problems(repository, machine("9.0", "9.0")) == []


def test_the_driver_is_not_queried_where_nothing_depends_on_it(repository):
    class NoDriver(Machine):
        @property
        def gpus(self):
            raise AssertionError("the driver is queried")

    instances("kind: KIND_CPU")(repository)
    here = NoDriver(natives=frozenset(["python", *ALL]), packages=str, environment=os.environ, python_backends=None)
    for model in ("classifier_torch_tensorrt", "classifier_tf_trt", "classifier_tensorrt"):
        assert (repository / model).is_dir()
    assert check_repository(repository, here) == []
