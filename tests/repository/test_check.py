# ruff: noqa: E501  # one row for each case
"""jpeg-serve check on repositories that are right, wrong in one way each, and use every field there is."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from jpeg_build.report import FORMAT
from jpeg_serve import check_repository
from jpeg_serve.check import models_to_load, summary
from jpeg_serve.gpus import Gpus
from jpeg_serve.machine import Machine
from jpeg_serve.models import REPORT_FORMAT
from support import edit, run_module

ASSETS = Path(__file__).parent / "assets"


@pytest.fixture
def minimal(tmp_path):
    """The smallest repository that is right: an ensemble of two Python models."""
    shutil.copytree(ASSETS / "valid", tmp_path / "valid")
    return tmp_path / "valid"


def test_right_repositories_have_no_problem(minimal, repository):
    assert check_repository(minimal) == []
    assert check_repository(repository) == []
    assert models_to_load(repository) == ["jpeg_classifier"]
    assert "preprocess -> classifier_onnx -> postprocess" in summary(repository)


def machine(*capabilities, natives=(), packages=None, environment=None):
    """A machine with these GPUs, native backends and packages; without a list, with all packages there are."""
    return Machine(
        natives=frozenset(natives),
        packages=(lambda name: "") if packages is None else packages.get,
        environment=environment or {},
        gpus=Gpus(capabilities, "" if capabilities else "the driver shows none"),
    )


def test_every_field_there_is_can_be_used(tmp_path):
    shutil.copytree(ASSETS / "full", tmp_path / "full")
    (tmp_path / "full/everything/labels.txt").write_text("a\nb\n")
    assert check_repository(tmp_path / "full", machine("9.0")) == []


INVALID = {
    "unknown field": ("max_batch_size: 8", "max_batch: 8", "double/config.pbtxt:2: cannot be parsed: .*max_batch"),
    "syntax": ("max_batch_size: 8", "max_batch_size 8", "double/config.pbtxt:2: cannot be parsed"),
    "enum": ("TYPE_INT32", "TYPE_INT", "double/config.pbtxt:3: cannot be parsed: .*TYPE_INT"),
    "name": ("max_batch_size: 8", 'max_batch_size: 8 name: "triple"', 'name is "triple", but the folder is double'),
    "no backend": ('backend: "python"', "", "says neither backend nor platform"),
    "no batching": ("max_batch_size: 8", "", "max_batch_size is 0"),
    "no input": ("input [", "batch_input [], input []  output [", "double/config.pbtxt: has no input"),
    "no output": ("output [{ name: \"Y\" data_type: TYPE_INT32 dims: [2] }]", "", "has no output"),
    "dims": ("dims: [2]", "dims: [0]", r"dims \[0\]: each must be a size, or -1"),
    "data type": ("data_type: TYPE_INT32", "", "has no data_type"),
    "twice": ("output [{ name", "output [{ name: \"Y\" data_type: TYPE_INT32 dims: [2] }, { name", "output Y is there 2 times"),
    "small batch": ("max_batch_size: 8", "max_batch_size: 4", "max_batch_size is 8, but step double takes 4"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), INVALID.values(), ids=INVALID)
def test_each_mistake_in_a_config_is_one_line_that_names_it(minimal, old, new, said):
    edit(minimal / "double" / "config.pbtxt", old, new)
    done = run_module("jpeg_serve", "check", "--model-repository", minimal)
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert any(_matches(said, line) for line in lines), lines
    assert len(lines) <= 4, lines


EDGES = {
    "no such step": ('model_name: "double"', 'model_name: "dubble"', "step dubble: there is no such model .* double, sum"),
    "no such input": ('key: "X" value: "a"', 'key: "Z" value: "a"', "step double maps input Z, which it does not have; it has X"),
    "missing input": ('input_map { key: "X" value: "a" }', "", "step double gets nothing for its input X"),
    "no such output": ('key: "Y" value: "b"', 'key: "Z" value: "b"', "step double maps output Z"),
    "nobody makes it": ('key: "X" value: "b"', 'key: "X" value: "c"', "step sum takes tensor c, which no input and no step makes"),
    "nobody takes it": ('name: "a" data_type: TYPE_INT32 dims: [2] }', 'name: "a" data_type: TYPE_INT32 dims: [2] }, { name: "z" data_type: TYPE_INT32 dims: [1] }', "input z is taken by no step"),
    "type": ('name: "a" data_type: TYPE_INT32', 'name: "a" data_type: TYPE_FP32', "the ensemble's input a is FP32, but input X of double is INT32"),
    "shape": ('name: "a" data_type: TYPE_INT32 dims: [2]', 'name: "a" data_type: TYPE_INT32 dims: [3]', r"has dims \[3\], but input X of double has \[2\]"),
    "rank": ('name: "a" data_type: TYPE_INT32 dims: [2]', 'name: "a" data_type: TYPE_INT32 dims: [2, 1]', r"dims \[2,1\]"),
    "output": ('name: "SUM"', 'name: "TOTAL"', "output TOTAL is made by no step"),
    "made twice": ('key: "Y" value: "b"', 'key: "Y" value: "a"', "tensor a is made twice: by the ensemble's input a and by step double"),
    "cycle": ('key: "X" value: "a"', 'key: "X" value: "SUM"', "the steps double, sum wait for each other"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), EDGES.values(), ids=EDGES)
def test_each_wrong_edge_of_an_ensemble_is_named(minimal, old, new, said):
    edit(minimal / "pipeline" / "config.pbtxt", old, new)
    problems = [str(problem) for problem in check_repository(minimal)]
    assert any(_matches(said, problem) for problem in problems), problems


def _matches(pattern, line):
    return re.search(pattern, line) is not None


def _other_shape(repository):
    for model in ("preprocess", "classifier_onnx"):
        edit(repository / model / "config.pbtxt", "224, 224, 3", "240, 240, 3")


def _other_recipe(repository):
    path = repository / "preprocess" / "config.pbtxt"
    edit(path, "mobilenet_v2", "mine")
    report = json.loads((repository / "classifier_onnx/1/model.json").read_text())
    edit(path, report["recipe_sha256"], "0" * 64)


BUILT = {
    "no artefact": (lambda r: (r / "classifier_onnx/1/model.onnx").unlink(), r"model\.onnx: is missing; build it: jpeg-build mobilenet_v2 --backend onnx"),
    "not built": (lambda r: shutil.rmtree(r / "classifier_onnx/1"), "has no version folder with a model.onnx; build it: jpeg-build mobilenet_v2"),
    "no report": (lambda r: (r / "classifier_onnx/1/model.json").unlink(), r"model\.json: is missing, so nobody knows"),
    "report is no JSON": (lambda r: (r / "classifier_onnx/1/model.json").write_text("{"), "is not JSON"),
    "report is no report": (lambda r: (r / "classifier_onnx/1/model.json").write_text("{}"), "is not a report of jpeg-build"),
    "another artefact": (lambda r: (r / "classifier_onnx/1/model.onnx").write_bytes(b"x"), "sha256 differs"),
    "another recipe": (_other_recipe, "built from different recipes: preprocess from mine .*, classifier_onnx from mobilenet_v2"),
    "labels": (lambda r: edit(r / "postprocess/labels.txt", "tench\n", ""), r"labels\.txt: has 999 labels, but output__0 has dims \[1000\]"),
    "no labels": (lambda r: (r / "postprocess/labels.txt").unlink(), "label file cannot be read: No such file"),
    "another shape": (_other_shape, r"has dims \[240,240,3\], but the artefact has \[224, 224, 3\]"),
    "no config": (lambda r: (r / "preprocess/config.pbtxt").unlink(), "preprocess/config.pbtxt: is missing"),
    "no python": (lambda r: (r / "preprocess/1/model.py").unlink(), r"preprocess/1/model\.py: is missing"),
    "no version": (lambda r: shutil.rmtree(r / "jpeg_classifier/1"), "make an empty folder 1"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), BUILT.values(), ids=BUILT)
def test_what_cannot_work_is_refused_before_the_server_starts(repository, damage, said):
    damage(repository)
    done = run_module("jpeg_serve", "--model-repository", repository, "--http-port", "0")
    assert done.returncode == 1
    assert "cannot be served" in done.stderr
    assert _matches(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_a_classifier_that_is_not_chosen_may_be_unbuilt(repository):
    shutil.copytree(repository / "classifier_onnx", repository / "classifier_other")
    shutil.rmtree(repository / "classifier_other" / "1")
    edit(repository / "classifier_other" / "config.pbtxt", '"classifier_onnx"', '"classifier_other"')
    assert check_repository(repository) == []
    edit(repository / "jpeg_classifier" / "config.pbtxt", '"classifier_onnx"', '"classifier_other"')
    (problem,) = check_repository(repository)
    assert "build it: jpeg-build mobilenet_v2 --backend other" in str(problem)


def test_a_folder_that_is_no_repository_is_named(tmp_path):
    assert "there is no such folder" in str(check_repository(tmp_path / "gone")[0])
    assert "holds no model" in str(check_repository(tmp_path)[0])


def said(repository, here=None):
    return [str(problem) for problem in check_repository(repository, here or machine())]


def choose(repository, name):
    edit(repository / "jpeg_classifier" / "config.pbtxt", '"classifier_onnx"', f'"{name}"')


def add(repository, name, backend, files, *, requires=(), config="", chosen=True, version="1", sha256=None):
    """A classifier of another backend: its files, the first of which is the artefact, and a report on it."""
    folder, onnx = repository / name, repository / "classifier_onnx"
    text = (onnx / "config.pbtxt").read_text().replace("classifier_onnx", name)
    text = text.replace('platform: "onnxruntime_onnx"\n', "").replace('"onnxruntime"', f'"{backend}"')
    for place, content in files.items():
        (folder / version / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / version / place).write_bytes(content)
    (folder / "config.pbtxt").write_text(text + config)
    if (onnx / "labels.txt").exists():
        shutil.copy(onnx / "labels.txt", folder)
    first = next(iter(files))
    artefact = first.split("/")[0]
    report = json.loads((onnx / "1" / "model.json").read_text())
    report["artefact"] = {"file": artefact, "sha256": sha256 or hashlib.sha256(files[first]).hexdigest()}
    report["requires"] = dict(requires)
    (folder / version / artefact).with_suffix(".json").write_text(json.dumps(report))
    if chosen:
        choose(repository, name)


def add_version(repository, version, config=""):
    """A version beside the first one of classifier_onnx, and what follows in its config."""
    folder = repository / "classifier_onnx"
    shutil.copytree(folder / "1", folder / version)
    with (folder / "config.pbtxt").open("a") as file:
        file.write(config)
    return folder / version


def specific(*numbers):
    return f"version_policy {{ specific {{ versions: {list(numbers)} }} }}\n"


def test_versions_that_are_not_served_may_be_anything(repository):
    empty = add_version(repository, "2", specific(1))
    shutil.rmtree(empty)
    empty.mkdir()
    (repository / "classifier_onnx" / "007").mkdir()  # as Triton does, which leaves out leading zeros
    (repository / "classifier_onnx" / "old").mkdir()
    assert said(repository) == []


POLICIES = {
    "the newest": ("", r"classifier_onnx/3/model\.onnx: is missing; build it: jpeg-build mobilenet_v2 --backend onnx --version 3"),
    "the two newest": ("version_policy { latest { num_versions: 2 } }", r"classifier_onnx/3/model\.onnx: is missing"),
    "all": ("version_policy { all { } }", r"classifier_onnx/3/model\.onnx: is missing"),
    "this one": (specific(3), r"classifier_onnx/3/model\.onnx: is missing"),
    "not there": (specific(1, 7), "names version 7, which is not there; there is versions 1, 3: jpeg-build use onnx --version 3, or build it with --version 7"),
    "none": ("version_policy { latest { } }", "serves 0 versions: write num_versions: 1"),
    "none named": ("version_policy { specific { } }", "names no version"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "problem"), POLICIES.values(), ids=POLICIES)
def test_the_version_policy_decides_what_is_checked(repository, config, problem):
    (add_version(repository, "3", config) / "model.onnx").unlink()
    found = said(repository)
    assert len(found) == 1, found
    assert _matches(problem, found[0]), found


def test_a_version_folder_that_triton_misreads_is_named(repository):
    add_version(repository, "2.old")
    (problem,) = said(repository)
    assert problem == (
        "classifier_onnx/2.old: Triton takes this folder for version 2, and would serve it: rename or remove it"
    )


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("model_version: 1", "asks for version 1, but Triton will serve version 2: write model_version: -1 .*, or jpeg-build use onnx --version 1"),
        ("model_version: 9", "asks for version 9, but Triton will serve version 2: write model_version: -1 for the newest that is served$"),
        ("", "has no model_version, which Triton takes for version 0"),
    ],
)  # fmt: skip
def test_a_step_gets_a_version_that_is_served(repository, number, problem):
    add_version(repository, "2")
    path = repository / "jpeg_classifier" / "config.pbtxt"
    text = path.read_text()
    at = text.index("model_version: -1", text.index("classifier_onnx"))
    path.write_text(text[:at] + number + text[at + len("model_version: -1") :])
    (found,) = said(repository)
    assert _matches(f"step classifier_onnx {problem}", found), found


def test_all_versions_that_are_served_come_from_one_recipe(repository):
    path = add_version(repository, "2", "version_policy { all { } }\n") / "model.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "recipe": "mine", "recipe_sha256": "0" * 64}))
    (found,) = said(repository)
    assert "classifier_onnx/1/model.onnx from mobilenet_v2" in found
    assert "classifier_onnx/2/model.onnx from mine (00000000)" in found
    there = f"--model-repository {repository}"
    assert found.endswith(
        f": jpeg-build use onnx --version 1 {there}; or build from mobilenet_v2: jpeg-build mobilenet_v2 --backend onnx "
        f"--version 2 {there}"
    )


def of_another_recipe(repository, *, shape=True):
    """As if preprocess and postprocess were built from another recipe since: other pixels, other classes."""
    report = json.loads((repository / "classifier_onnx/1/model.json").read_text())
    for name in ("preprocess", "postprocess"):
        path = repository / name / "config.pbtxt"
        edit(path, '"mobilenet_v2"', '"mine"')
        edit(path, report["recipe_sha256"], "0" * 64)
    if shape:
        edit(repository / "preprocess/config.pbtxt", "224, 224, 3", "64, 64, 3")
        edit(repository / "postprocess/config.pbtxt", "dims: [1000]", "dims: [2]")
        (repository / "postprocess/labels.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize("shape", [False, True], ids=["same shapes", "other shapes"])
def test_steps_of_two_recipes_are_one_line_with_the_command_that_mends_it(repository, shape):
    """That the shapes differ, too, says nothing new, and needs no other remedy."""
    of_another_recipe(repository, shape=shape)
    (found,) = said(repository)
    assert _matches(
        r"jpeg_classifier/config.pbtxt: its steps are built from different recipes: preprocess from mine \(00000000\), "
        r"classifier_onnx from mobilenet_v2 \([0-9a-f]{8}\), postprocess from mine \(00000000\): ",
        found,
    )
    build = f"build from mine: jpeg-build mine --backend onnx --model-repository {repository}"
    assert found.endswith(f"): {build}")
    # One that is built from the right recipe and runs here is quicker to have.
    for name, digest in (("classifier_openvino", "0" * 64), ("classifier_torch_tensorrt", "1" * 64)):
        backend, file = ("openvino", "model.onnx") if name.endswith("openvino") else ("pytorch", "model.pt")
        config = f'default_model_filename: "{file}"\n'
        add(repository, name, backend, {file: b"artefact"}, config=config, chosen=False)
        edit_report(repository / name / "1" / "model.json", recipe="mine", recipe_sha256=digest)
    (found,) = said(repository)
    assert found.endswith(f"): jpeg-build use openvino --model-repository {repository}; or {build}")
    (found,) = said(repository, machine(packages={"onnxruntime": "1.22"}))
    assert found.endswith(f"): {build}")


def test_an_artefact_of_another_recipe_is_said_to_be_that_and_no_more(repository):
    """Its own build command would take all other steps to the recipe that nobody wants any more."""
    of_another_recipe(repository)
    path = repository / "classifier_onnx/config.pbtxt"
    edit(path, "224, 224, 3", "64, 64, 3")
    edit(path, "dims: [1000]", "dims: [2]")
    (repository / "classifier_onnx/labels.txt").write_text("cat\ndog\n")
    edit_report(repository / "classifier_onnx/1/model.json", precision="int8")
    build = f"jpeg-build mine --backend onnx --precision int8 --model-repository {repository}"
    (found,) = said(repository)
    assert found.endswith(f": build from mine: {build}")
    (repository / "classifier_onnx/1/model.onnx").write_bytes(b"other")
    assert [each for each in said(repository) if build not in each] == []
    assert "mobilenet_v2 --backend" not in " ".join(said(repository))


def test_configs_of_two_recipes_are_mended_by_a_build(repository):
    path = repository / "postprocess" / "config.pbtxt"
    edit(path, '"mobilenet_v2"', '"mine"')
    edit(path, json.loads((repository / "classifier_onnx/1/model.json").read_text())["recipe_sha256"], "0" * 64)
    (found,) = said(repository)
    assert found.endswith(
        f": build from mobilenet_v2: jpeg-build mobilenet_v2 --backend onnx --model-repository {repository}"
    )


def test_a_classifier_that_is_served_alone_still_has_to_fit_its_config(repository):
    of_another_recipe(repository)
    edit(repository / "classifier_onnx/config.pbtxt", "224, 224, 3", "64, 64, 3")
    shutil.rmtree(repository / "jpeg_classifier")
    found = [str(each) for each in check_repository(repository, machine(), load=["classifier_onnx"])]
    assert len(found) == 1
    assert "input__0 has dims [64,64,3], but the artefact has [224, 224, 3]; build it: " in found[0]


def edit_report(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


REPORTS = {
    "newer": ({"format": 2}, r"was written by a newer jpeg-build \(in format 2, and this jpeg-serve knows 1\)"),
    "no format": ({"format": True}, "is not a report of jpeg-build"),
    "requires": ({"requires": 5}, r"is damaged \(its requires is 5\)"),
    "inside requires": ({"requires": {"tensorrt": 8.6}}, r"is damaged \(its requires\.tensorrt is 8\.6\)"),
    "recipe": ({"recipe": None}, r"is damaged \(its recipe is null\)"),
    "digest": ({"recipe_sha256": ["a"]}, r'is damaged \(its recipe_sha256 is \["a"\]\)'),
    "precision": ({"precision": {}}, r"is damaged \(its precision is \{\}\)"),
    "classes": ({"classes": True}, r"is damaged \(its classes is true\)"),
    "input": ({"input": [224, "224", 3]}, r'is damaged \(its input is \[224, "224", 3\]\)'),
    "artefact": ({"artefact": {"file": "model.onnx"}}, r"is damaged \(it has no artefact\.sha256\)"),
    "asked": ({"asked": "x" * 99}, r'is damaged \(its asked is "x{39}\.\.\.\)'),
}


@pytest.mark.parametrize(("fields", "problem"), REPORTS.values(), ids=REPORTS)
def test_a_report_that_cannot_be_relied_on_is_refused_in_one_sentence(repository, fields, problem):
    edit_report(repository / "classifier_onnx/1/model.json", **fields)
    (found,) = said(repository)
    build = re.escape(f"build it: jpeg-build mobilenet_v2 --backend onnx --model-repository {repository}")
    assert re.fullmatch(rf"classifier_onnx/1/model\.json: {problem}; {build}", found), found


def test_the_newest_format_is_the_one_that_is_written():
    assert REPORT_FORMAT == FORMAT


def test_the_word_may_be_written_in_every_way_that_protobuf_takes(repository):
    path = repository / "jpeg_classifier/config.pbtxt"
    edit(path, 'model_name: "classifier_onnx"', "model_name: # x \n 'classifier' # y\n \"_onnx\"")
    assert said(repository) == []
    assert "preprocess -> classifier_onnx -> postprocess" in summary(repository)
    (repository / "classifier_onnx/1/model.onnx").unlink()
    assert said(repository)[0].startswith("classifier_onnx/1/model.onnx: is missing; build it: jpeg-build")


def digest_of(files):
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_an_artefact_may_be_a_folder(repository):
    # In the order of the paths as text, "." comes before "/".
    inside = {"saved_model.pb": b"graph", "variables/variables.index": b"i", "variables.more/x": b"m", "assets/a": b""}
    files = {f"model.savedmodel/{name}": content for name, content in inside.items()}
    add(repository, "classifier_tf_trt", "tensorflow", files, sha256=digest_of(inside))
    assert said(repository) == []
    (repository / "classifier_tf_trt/1/model.savedmodel/variables/variables.index").write_bytes(b"other")
    (found,) = said(repository)
    assert _matches(
        r"classifier_tf_trt/1/model\.json: speaks of another model\.savedmodel .* jpeg-build mobilenet_v2 --backend tf_trt",
        found,
    )


def test_an_artefact_may_be_a_pair_of_files(repository):
    files = {"model.xml": b"<net/>", "model.bin": b"weights"}
    add(repository, "classifier_openvino", "openvino", files, sha256=digest_of(files))
    assert said(repository) == []
    (repository / "classifier_openvino/1/model.bin").write_bytes(b"others")
    assert "speaks of another model.xml" in said(repository)[0]
    (repository / "classifier_openvino/1/model.bin").unlink()
    (found,) = said(repository)
    assert found.startswith("classifier_openvino/1/model.bin: is missing; build it: jpeg-build mobilenet_v2 --backend")


ENGINE = {"compute_capability": "9.0", "tensorrt": "8.6.1"}
TORCH = {"torch": "2.2.0", "torch_tensorrt": "2.2.0", **ENGINE}
TENSORRT = {"tensorrt": "8.6.1", "cupy": "13.0"}

MISFITS = {
    "no GPU": ("tensorrt", ENGINE, machine(packages=TENSORRT), r"model\.plan: needs a GPU of compute capability 9\.0, and here is none \(the driver shows none\)"),
    "another GPU": ("tensorrt", ENGINE, machine("8.6", packages=TENSORRT), r"was built for GPUs of compute capability 9\.0, and here are GPU 0 with 8\.6: build it on this machine: jpeg-build mobilenet_v2 --backend tensorrt"),
    "two kinds": ("tensorrt", ENGINE, machine("8.6", "9.0", packages=TENSORRT), r"here are also GPU 0 with 8\.6: keep it to the others with gpus: \[1\] .* --per-gpu"),
    "too old": ("tensorrt", {**ENGINE, "hardware_compatible": True}, machine("7.5", packages=TENSORRT), r"compute capability 8\.0 or later, and here are GPU 0 with 7\.5"),
    "another TensorRT": ("tensorrt", ENGINE, machine("9.0", packages={**TENSORRT, "tensorrt": "10.3.0"}), r"built with TensorRT 8\.6\.1, and here is 10\.3\.0, .* build it again: jpeg-build"),
    "native TensorRT": ("tensorrt", ENGINE, machine("9.0", natives=["tensorrt"], environment={"TRT_VERSION": "10.3.0.26"}), r"here is 10\.3\.0\.26"),
    "no TensorRT": ("tensorrt", ENGINE, machine("9.0", packages={}), r"needs the package tensorrt, .*: pip install -e '\.\[tensorrt\]' in this project's folder, or .* NVIDIA's Triton container"),
    "no CuPy": ("tensorrt", ENGINE, machine("9.0", packages={"tensorrt": "8.6.1"}), "needs the package cupy"),
    "no TensorFlow": ("tensorflow", {"tensorflow": "2.17.1"}, machine(packages={}), r"needs the package tensorflow, .*make build-tensorflow .*\.venv-tensorflow/bin/jpeg-serve .* up to 25\.02"),
    "no OpenVINO": ("openvino", {}, machine(packages={}), r"needs the package openvino, .*: pip install -e '\.\[serve\]' in"),
    "no ONNX Runtime": ("onnxruntime", {}, machine(packages={}), r"needs the package onnxruntime, .*: pip install -e '\.\[serve\]' in"),
    "no PyTorch": ("pytorch", {"torch": "2.2.0"}, machine(packages={}), r"needs the package torch, .*: pip install -e '\.\[build\]' in"),
    "no PyTorch beside TensorFlow": ("pytorch", {"torch": "2.2.0"}, machine(packages={"tensorflow": "2.17.1"}), r"needs the package torch, .*: serve it with \.venv/bin/jpeg-serve"),
    "no Torch-TensorRT": ("pytorch", TORCH, machine("9.0", packages={"torch": "2.2.0"}), "needs the package torch_tensorrt"),
    "another PyTorch": ("pytorch", TORCH, machine("9.0", packages={"torch": "2.3.1+cu121", "torch_tensorrt": "2.2.0"}), r"was made with torch 2\.2\.0, and here is 2\.3\.1\+cu121: build it again"),
}  # fmt: skip
FITS = {
    "the same GPU": ("tensorrt", ENGINE, machine("9.0", "9.0", packages=TENSORRT)),
    "hardware compatible": ("tensorrt", {**ENGINE, "hardware_compatible": True}, machine("8.6", packages=TENSORRT)),
    "version compatible": ("tensorrt", {**ENGINE, "version_compatible": True}, machine("9.0", packages={**TENSORRT, "tensorrt": "8.7.0"})),
    "native, unknown TensorRT": ("tensorrt", ENGINE, machine("9.0", natives=["tensorrt"])),
    "another TensorFlow": ("tensorflow", {"tensorflow": "2.15.1"}, machine(packages={"tensorflow": "2.17.1"})),
    "native TensorFlow": ("tensorflow", {"tensorflow": "2.15.1"}, machine(natives=["tensorflow"], packages={})),
    "plain TorchScript": ("pytorch", {"torch": "2.2.0"}, machine(packages={"torch": "2.14.1"})),
    "the same PyTorch": ("pytorch", TORCH, machine("9.0", packages={"torch": "2.2.0+cu121", "torch_tensorrt": "2.2.0"})),
    "native PyTorch": ("pytorch", TORCH, machine("9.0", natives=["pytorch"], packages={})),
    "nothing serves here": ("tensorrt", ENGINE, Machine(natives=None, packages=lambda name: None, environment={}, gpus=Gpus(()))),
}  # fmt: skip
FILES = {
    "tensorrt": ("classifier_tensorrt", "model.plan"),
    "tensorflow": ("classifier_tf_trt", "model.savedmodel"),
    "pytorch": ("classifier_torch_tensorrt", "model.pt"),
    "openvino": ("classifier_openvino", "model.onnx"),
    "onnxruntime": ("classifier_mine", "model.onnx"),
}


def add_requiring(repository, backend, requires, **more):
    name, file = FILES[backend]
    if backend == "openvino":  # the backend reads ONNX files, too
        more["config"] = 'default_model_filename: "model.onnx"\n'
    add(repository, name, backend, {file: b"artefact"}, requires=requires, **more)


@pytest.mark.parametrize(("backend", "requires", "here", "problem"), MISFITS.values(), ids=MISFITS)
def test_what_this_machine_cannot_run_is_refused_with_what_mends_it(repository, backend, requires, here, problem):
    add_requiring(repository, backend, requires)
    (found,) = said(repository, here)
    assert _matches(problem, found), found


@pytest.mark.parametrize(("backend", "requires", "here"), FITS.values(), ids=FITS)
def test_what_this_machine_can_run_is_not_refused(repository, backend, requires, here):
    add_requiring(repository, backend, requires)
    assert said(repository, here) == []


def test_one_line_is_enough_for_a_missing_gpu(repository):
    add_per_gpu(repository)
    edit(repository / "classifier_tensorrt" / "config.pbtxt", "count: 1", "count: 1\n  kind: KIND_GPU")
    assert len(said(repository, machine(packages=TENSORRT))) == 1
    assert said(repository, machine("9.0", packages=TENSORRT)) == []


def test_only_what_is_served_is_compared_with_the_machine(repository):
    add_requiring(repository, "tensorrt", ENGINE, chosen=False)
    assert said(repository, machine(packages={"onnxruntime": "1.22"})) == []


def test_a_refusal_names_what_is_built_and_would_run(repository):
    add_requiring(repository, "tensorrt", ENGINE)
    add_requiring(repository, "tensorflow", {"tensorflow": "2.17.1"}, chosen=False)
    here = machine(packages={"onnxruntime": "1.22"})
    found = said(repository, here)
    assert len(found) == 2  # no GPU, and no TensorRT
    command = f"; or use jpeg-build use onnx --model-repository {repository}"
    for each in found:
        assert each.endswith(command)
    (repository / "classifier_onnx/1/model.onnx").unlink()
    assert not any("jpeg-build use" in each for each in said(repository, here))


def test_a_rebuild_keeps_the_precision(repository):
    path = repository / "classifier_onnx/1/model.json"
    report = {**json.loads(path.read_text()), "precision": "int8"}
    path.write_text(json.dumps(report))
    (path.parent / "model.onnx").write_bytes(b"other")
    assert "jpeg-build mobilenet_v2 --backend onnx --precision int8" in said(repository)[0]


PER_GPU = 'cc_model_filenames { key: "8.6" value: "sm86.plan" }\ncc_model_filenames { key: "9.0" value: "sm90.plan" }\n'


def add_per_gpu(repository):
    """Engines for two kinds of GPU, each with its report."""
    for capability, name in (("8.6", "sm86"), ("9.0", "sm90")):
        add(
            repository,
            "classifier_tensorrt",
            "tensorrt",
            {f"{name}.plan": name.encode()},
            requires={**ENGINE, "compute_capability": capability},
            config=PER_GPU,
            chosen=False,
        )
    choose(repository, "classifier_tensorrt")


def test_each_kind_of_gpu_has_its_engine(repository):
    add_per_gpu(repository)
    assert said(repository, machine("8.6", "9.0", packages=TENSORRT)) == []
    (found,) = said(repository, machine("8.6", "8.0", packages=TENSORRT))
    assert _matches(
        "engines for GPUs of compute capability 8.6, 9.0, but none for 8.0, which is here: .* --per-gpu", found
    )
    assert _matches("8.6, 9.0, and here is none", said(repository, machine(packages=TENSORRT))[0])
    # One that is not for a GPU that is here is not looked into, but there must be a report on it.
    folder = repository / "classifier_tensorrt" / "1"
    (folder / "sm90.plan").write_bytes(b"other")
    assert said(repository, machine("8.6", packages=TENSORRT)) == []
    assert "sm90.json: speaks of another sm90.plan" in said(repository, machine("9.0", packages=TENSORRT))[0]
    (folder / "sm90.json").unlink()
    assert "cc_model_filenames names sm90.plan" in said(repository, machine("8.6", packages=TENSORRT))[0]
    # An engine under the usual name is for all that the map leaves out, as in Triton.
    add(
        repository,
        "classifier_tensorrt",
        "tensorrt",
        {"model.plan": b"x"},
        requires=ENGINE,
        config=PER_GPU,
        chosen=False,
    )
    found = said(repository, machine("8.0", packages=TENSORRT))
    assert any("model.plan: was built for GPUs of compute capability 9.0" in each for each in found), found


def test_instances_on_gpus_need_gpus(repository):
    path = repository / "classifier_onnx" / "config.pbtxt"
    text = path.read_text()
    path.write_text(re.sub(r"count: 1", "count: 1\n  kind: KIND_GPU\n  gpus: [1]", text, count=1))
    (found,) = said(repository, machine())
    assert "has kind: KIND_GPU, and here is no GPU (the driver shows none): write kind: KIND_CPU" in found
    (found,) = said(repository, machine("9.0"))
    assert "names GPU 1, and here are 1, counted from 0" in found
    assert said(repository, machine("9.0", "9.0")) == []
    # And on this very machine, if it has none, before Triton says so.
    if not Path("/dev/nvidia0").exists():
        assert "here is no GPU" in " ".join(map(str, check_repository(repository)))


def test_label_files_have_a_label_for_each_class(repository):
    path = repository / "classifier_onnx" / "config.pbtxt"
    text = path.read_text()
    if "label_filename" not in text:
        path.write_text(text.replace("dims: [1000]", 'dims: [1000]\n  label_filename: "labels.txt"'))
        shutil.copy(repository / "postprocess" / "labels.txt", path.parent)
    assert said(repository) == []
    edit(path.parent / "labels.txt", "tench\n", "")
    (found,) = said(repository)
    assert found.startswith("classifier_onnx/labels.txt: has 999 labels, but output__0 has dims [1000]: build")
    (path.parent / "labels.txt").unlink()
    (found,) = said(repository)
    assert _matches(
        r"classifier_onnx/labels\.txt: the label file cannot be read: No such file .*jpeg-build mobilenet_v2", found
    )
