# ruff: noqa: E501  # one row for each case
"""jpeg-serve check on repositories that are right, wrong in one way each, and use every field there is."""

import json
import shutil
from pathlib import Path

import pytest
from jpeg_serve import check_repository
from jpeg_serve.check import models_to_load, summary
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


def test_every_field_there_is_can_be_used():
    assert check_repository(ASSETS / "full") == []


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
    import re

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
