# ruff: noqa: E501  # one row for each case
"""jpeg-serve check on repositories that are right, and on repositories with one mistake each."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jpeg_build.cli import main as build_cli
from jpeg_contract import model_config
from jpeg_contract.report import SCHEMA_VERSION
from jpeg_contract.step_digests import labels_digest, pixels_digest
from jpeg_serve import check_repository
from jpeg_serve.check import models_to_load, summary
from jpeg_serve.cli import main as serve_cli
from jpeg_serve.config_check import check_config
from jpeg_serve.contract_check import check_contract
from jpeg_serve.models import read_models
from jpeg_serve.warm_up_check import check_warm_up
from repository.edits import add_classifier, append, choose, merge, parameter
from repository.machines import machine
from repository.mistakes import (
    CLASSIFIER,
    ENSEMBLE,
    MISTAKES,
    POSTPROCESS,
    PREPROCESS,
    UNUSUAL,
    pixels,
    tensor,
    warm_up,
)
from repository.static_repository import COMMITTED
from support import edit

ASSETS = Path(__file__).parent / "assets"


@pytest.fixture
def minimal(tmp_path):
    """The smallest repository that is right: an ensemble of two Python models."""
    shutil.copytree(ASSETS / "valid", tmp_path / "valid")
    return tmp_path / "valid"


def problems(repository, here=None):
    return check_repository(repository, here or machine())


def reasons(repository, here=None):
    return [problem.reason for problem in problems(repository, here)]


def test_right_repositories_have_no_problem(minimal, repository):
    assert check_repository(minimal) == []
    assert check_repository(repository) == []
    assert models_to_load(repository) == [ENSEMBLE]
    assert f"{PREPROCESS} -> {CLASSIFIER} -> {POSTPROCESS}" in summary(repository)


def test_every_committed_config_is_right():
    models, found = read_models(COMMITTED)
    assert found == []
    assert len(models) == 8
    for model in models.values():
        assert [*check_config(model), *check_contract(model), *check_warm_up(model)] == []


def test_every_field_of_a_config_can_be_used(tmp_path):
    shutil.copytree(ASSETS / "full", tmp_path / "full")
    (tmp_path / "full/everything/labels.txt").write_text("a\nb\n")
    (tmp_path / "full/everything/env.tar.gz").write_text("")
    assert check_repository(tmp_path / "full", machine("9.0")) == []


def test_a_problem_is_one_line_with_its_place_and_its_reason(minimal):
    edit(minimal / "double" / "config.pbtxt", "max_batch_size: 8", "max_batch: 8")
    (found,) = problems(minimal)
    assert (found.where, found.reason) == ("double/config.pbtxt:2", "invalid_config")
    assert str(found) == f"{found.where}: {found.message} [invalid_config]"
    assert "max_batch" in found.message


# A mistake in a config, and a problem that it leads to: its place and its reason.
INVALID = {
    "syntax": ("max_batch_size: 8", "max_batch_size 8", "double/config.pbtxt:2", "invalid_config"),
    "enum": ("TYPE_INT32", "TYPE_INT", "double/config.pbtxt:3", "invalid_config"),
    "two schedulers": ("max_batch_size: 8", "max_batch_size: 8 dynamic_batching {} sequence_batching {}", "double/config.pbtxt:2", "invalid_config"),
    "name": ("max_batch_size: 8", 'max_batch_size: 8 name: "triple"', "double/config.pbtxt", "name_mismatch"),
    "no backend": ('backend: "python"', "", "double/config.pbtxt", "backend_unset"),
    "unknown platform": ('backend: "python"', 'platform: "python"', "double/config.pbtxt", "platform_unknown"),
    "platform of another backend": ('backend: "python"', 'backend: "python" platform: "onnxruntime_onnx"', "double/config.pbtxt", "platform_mismatch"),
    "no batching": ("max_batch_size: 8", "", "double/config.pbtxt", "max_batch_size"),
    "negative batch": ("max_batch_size: 8", "max_batch_size: -1", "double/config.pbtxt", "max_batch_size"),
    "no input": ("input [", "batch_input [], input []  output [", "double/config.pbtxt", "tensor_missing"),
    "no output": ('output [{ name: "Y" data_type: TYPE_INT32 dims: [2] }]', "", "double/config.pbtxt", "tensor_missing"),
    "dims 0": ("dims: [2]", "dims: [0]", "double/config.pbtxt", "tensor_shape"),
    "dims -2": ("dims: [2]", "dims: [-2]", "double/config.pbtxt", "tensor_shape"),
    "no dims": ("dims: [2]", "", "double/config.pbtxt", "tensor_shape"),
    "reshape": ("dims: [2]", "dims: [2] reshape { shape: [3] }", "double/config.pbtxt", "tensor_shape"),
    "shape tensor": ("dims: [2]", "dims: [2] is_shape_tensor: true", "double/config.pbtxt", "tensor_option"),
    "no data type": ("data_type: TYPE_INT32", "", "double/config.pbtxt", "tensor_type"),
    "twice": ("output [{ name", 'output [{ name: "Y" data_type: TYPE_INT32 dims: [2] }, { name', "double/config.pbtxt", "tensor_duplicate"),
    "small batch": ("max_batch_size: 8", "max_batch_size: 4", "pipeline/config.pbtxt", "max_batch_size_mismatch"),
    "unknown backend": ('backend: "python"', 'backend: "nonsense"', "double/config.pbtxt", "backend_missing"),
    "library": ('backend: "python"', 'backend: "python" runtime: "model.py"', "double/config.pbtxt", "runtime_mismatch"),
    "environment": ('backend: "python"', 'backend: "python" parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/none.tar.gz" } }', "double/config.pbtxt", "environment_missing"),
    "steps of no ensemble": ('backend: "python"', 'backend: "python" ensemble_scheduling { step { model_name: "sum" model_version: -1 } }', "double/config.pbtxt", "platform_mismatch"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "where", "reason"), INVALID.values(), ids=INVALID)
def test_each_mistake_in_a_config_is_named(minimal, old, new, where, reason):
    edit(minimal / "double" / "config.pbtxt", old, new)
    found = problems(minimal)
    assert (where, reason) in [(problem.where, problem.reason) for problem in found], found
    assert all("\n" not in str(problem) for problem in found)


def test_a_config_that_is_not_utf_8_is_named_without_its_consequences(repository):
    path = repository / CLASSIFIER / "config.pbtxt"
    path.write_bytes(b"# \xe9\n" + path.read_bytes())
    (found,) = problems(repository)
    assert (found.where, found.reason) == (f"{CLASSIFIER}/config.pbtxt", "invalid_config")
    assert "UTF-8" in found.message


EDGES = {
    "no such step": ('model_name: "double"', 'model_name: "dubble"', "step_unknown", "double, sum"),
    "no such input": ('key: "X" value: "a"', 'key: "Z" value: "a"', "step_tensor_unknown", "Z"),
    "missing input": ('input_map { key: "X" value: "a" }', "", "step_input_missing", "X"),
    "no such output": ('key: "Y" value: "b"', 'key: "Z" value: "b"', "step_tensor_unknown", "Z"),
    "no source": ('key: "X" value: "b"', 'key: "X" value: "c"', "edge_without_source", "tensor c"),
    "unused input": ('name: "a" data_type: TYPE_INT32 dims: [2] }', 'name: "a" data_type: TYPE_INT32 dims: [2] }, { name: "z" data_type: TYPE_INT32 dims: [1] }', "edge_without_target", "input z"),
    "unused tensor": ("step [", 'step [{ model_name: "double" model_version: -1 input_map { key: "X" value: "a" } output_map { key: "Y" value: "u" } },', "edge_without_target", "tensor u"),
    "no output map": ('output_map { key: "Y" value: "b" }', "", "edge_without_target", "double"),
    "type": ('name: "a" data_type: TYPE_INT32', 'name: "a" data_type: TYPE_FP32', "edge_type", "FP32"),
    "shape": ('name: "a" data_type: TYPE_INT32 dims: [2]', 'name: "a" data_type: TYPE_INT32 dims: [3]', "edge_shape", "[3]"),
    "rank": ('name: "a" data_type: TYPE_INT32 dims: [2]', 'name: "a" data_type: TYPE_INT32 dims: [2, 1]', "edge_shape", "[2,1]"),
    "output": ('name: "SUM"', 'name: "TOTAL"', "edge_without_source", "TOTAL"),
    "made twice": ('key: "Y" value: "b"', 'key: "Y" value: "a"', "edge_duplicate", "tensor a"),
    "cycle": ('key: "X" value: "a"', 'key: "X" value: "SUM"', "ensemble_cycle", "double, sum"),
    "itself": ('model_name: "double"', 'model_name: "pipeline"', "ensemble_cycle", "itself"),
    "no steps": ("ensemble_scheduling", "metric_tags { } ensemble_scheduling { } #", "invalid_config", ""),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "reason", "fact"), EDGES.values(), ids=EDGES)
def test_each_wrong_edge_of_an_ensemble_is_named(minimal, old, new, reason, fact):
    edit(minimal / "pipeline" / "config.pbtxt", old, new)
    found = problems(minimal)
    assert any(problem.reason == reason and fact in problem.message for problem in found), found


def test_an_ensemble_has_steps(minimal):
    path = minimal / "pipeline" / "config.pbtxt"
    path.write_text(path.read_text().partition("ensemble_scheduling")[0])
    assert "ensemble_empty" in reasons(minimal)


def test_ensembles_within_an_ensemble_are_checked_to_their_steps(minimal):
    shutil.copytree(minimal / "pipeline", minimal / "outer")
    path = minimal / "outer" / "config.pbtxt"
    path.write_text(
        'platform: "ensemble" max_batch_size: 8 input [{ name: "a" data_type: TYPE_INT32 dims: [2] }]'
        'output [{ name: "SUM" data_type: TYPE_INT32 dims: [1] }] ensemble_scheduling { step {'
        'model_name: "pipeline" model_version: -1 input_map { key: "a" value: "a" }'
        'output_map { key: "SUM" value: "SUM" } } }'
    )
    assert problems(minimal) == []
    (minimal / "double" / "1" / "model.py").unlink()
    assert [problem.reason for problem in check_repository(minimal, machine(), load=["outer"])] == ["model_missing"]
    edit(minimal / "pipeline" / "config.pbtxt", 'model_name: "double"', 'model_name: "outer"')
    assert "ensemble_cycle" in reasons(minimal)


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_refused_with_its_reason(repository, mistake):
    mistake.change(repository)
    assert reasons(repository) == mistake.reasons


@pytest.mark.parametrize("unusual", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_repositories_that_are_right_are_accepted(repository, unusual):
    unusual(repository)
    assert problems(repository) == []


def test_warm_up_files_have_the_size_of_the_input(repository):
    warm_up(f"""batch_size: 1 {pixels(data='input_data_file: "f"')}""")(repository)
    file = repository / CLASSIFIER / "warmup" / "f"
    file.parent.mkdir()
    file.write_bytes(b"abc")
    (found,) = problems(repository)
    assert (found.where, found.reason) == (f"{CLASSIFIER}/warmup/f", "warm_up_file")
    assert "150528" in found.message
    file.write_bytes(bytes(150528))
    assert problems(repository) == []


@pytest.mark.parametrize(
    ("content", "is_right"),
    [
        (b"\x04\x00\x00\x00\xff\xd8\xff\xe0", True),
        (b"\xff\xd8\xff\xe0", False),
        (b"\x04\x00\x00\x00\xff\xd8\xff\xe0" * 2, False),
        (b"\x05\x00\x00\x00hello", False),
        (b"", False),
    ],
)
def test_warm_up_files_of_images_have_a_length_before_each(repository, content, is_right):
    merge(PREPROCESS, """model_warmup { batch_size: 1 inputs { key: "IMAGE" value { data_type: TYPE_STRING dims: [1] input_data_file: "f" } } }""")(repository)  # fmt: skip
    file = repository / PREPROCESS / "warmup" / "f"
    file.parent.mkdir()
    file.write_bytes(content)
    assert reasons(repository) == ([] if is_right else ["warm_up_file"])


def test_a_classifier_that_is_not_chosen_may_be_unbuilt(repository):
    shutil.rmtree(repository / CLASSIFIER / "1")
    add_classifier(repository, "openvino")
    assert problems(repository) == []
    choose(repository, CLASSIFIER)
    (found,) = problems(repository)
    assert found.reason == "version_missing"
    assert f"jpeg-build mobilenet_v2 --backend onnx --model-repository {repository}" in found.message


def test_a_classifier_that_jpeg_build_does_not_build_gets_no_build_command(repository):
    add_classifier(repository, "onnx", name="classifier_mine")
    shutil.rmtree(repository / "classifier_mine" / "1")
    (found,) = problems(repository)
    assert found.reason == "version_missing"
    assert "jpeg-build mobilenet_v2" not in found.message
    assert f"jpeg-build use onnx --model-repository {repository}" in found.message


def test_a_folder_that_is_no_repository_is_named(tmp_path):
    (gone,) = check_repository(tmp_path / "gone")
    assert gone.reason == "repository_missing"
    (empty,) = check_repository(tmp_path)
    assert empty.reason == "repository_empty"


def test_a_model_to_load_exists(repository):
    (found,) = check_repository(repository, machine(), load=[CLASSIFIER, "nothing"])
    assert found.reason == "model_missing"
    assert "nothing" in found.message


def add_version(repository, version, config=""):
    """Add a version beside the first one of the classifier, and text to its config."""
    shutil.copytree(repository / CLASSIFIER / "1", repository / CLASSIFIER / version)
    append(CLASSIFIER, config)(repository)
    return repository / CLASSIFIER / version


def specific(*numbers):
    return f"version_policy {{ specific {{ versions: {list(numbers)} }} }}"


def test_versions_that_are_not_served_may_be_anything(repository):
    empty = add_version(repository, "2", specific(1))
    shutil.rmtree(empty)
    empty.mkdir()
    (repository / CLASSIFIER / "007").mkdir()  # Triton skips leading zeros
    (repository / CLASSIFIER / "old").mkdir()
    assert problems(repository) == []


POLICIES = {
    "the newest": ("", f"{CLASSIFIER}/3/model.onnx", "artefact_missing", "--version 3"),
    "the two newest": ("version_policy { latest { num_versions: 2 } }", f"{CLASSIFIER}/3/model.onnx", "artefact_missing", "--version 3"),
    "all": ("version_policy { all { } }", f"{CLASSIFIER}/3/model.onnx", "artefact_missing", "--version 3"),
    "this one": (specific(3), f"{CLASSIFIER}/3/model.onnx", "artefact_missing", "--version 3"),
    "missing": (specific(1, 7), f"{CLASSIFIER}/config.pbtxt", "version_missing", "jpeg-build use onnx --version 1"),
    "none": ("version_policy { latest { } }", f"{CLASSIFIER}/config.pbtxt", "version_policy", "num_versions: 1"),
    "none named": ("version_policy { specific { } }", f"{CLASSIFIER}/config.pbtxt", "version_policy", "names no version"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "where", "reason", "fact"), POLICIES.values(), ids=POLICIES)
def test_the_version_policy_selects_the_versions_to_check(repository, config, where, reason, fact):
    (add_version(repository, "3", config) / "model.onnx").unlink()
    (found,) = problems(repository)
    assert (found.where, found.reason) == (where, reason)
    assert fact in found.message


def test_a_version_folder_that_triton_misreads_is_named(repository):
    add_version(repository, "2.old")
    (found,) = problems(repository)
    assert (found.where, found.reason) == (f"{CLASSIFIER}/2.old", "version_folder")


ANOTHER = {"recipe": "another", "recipe_sha256": "b" * 64}


def passes(repository):
    """The digests of a network that takes the pixels and returns the logits that the steps around it do."""
    preprocess, postprocess = (
        model_config.read(repository / name / "config.pbtxt") for name in (PREPROCESS, POSTPROCESS)
    )
    return {
        "pixels_sha256": pixels_digest(model_config.parameters(preprocess)),
        "labels_sha256": labels_digest(repository / POSTPROCESS, model_config.parameters(postprocess)),
    }


def test_hints_name_what_fits_whatever_its_recipe(repository):
    """A network of another recipe fits if it takes the same pixels and its outputs mean the same labels."""
    facts: dict[str, Any] = {**ANOTHER, **passes(repository)}
    add_classifier(repository, "openvino", chosen=False, **facts)
    (repository / CLASSIFIER / "1" / "model.onnx").unlink()
    (found,) = problems(repository)
    command = f"jpeg-build use openvino --model-repository {repository}"
    assert found.message.endswith(f"; or use {command}")
    assert build_cli(shlex.split(command)[1:]) == 0
    assert problems(repository) == []


@pytest.mark.parametrize("known", [{}, {"pixels_sha256": "c" * 64}, {"labels_sha256": "c" * 64}])
def test_hints_name_nothing_that_does_not_fit(repository, known):
    facts: dict[str, Any] = {**ANOTHER, **({**passes(repository), **known} if known else {})}
    add_classifier(repository, "openvino", chosen=False, **facts)
    (repository / CLASSIFIER / "1" / "model.onnx").unlink()
    (found,) = problems(repository)
    assert "jpeg-build use" not in found.message


def test_hints_name_another_version_of_the_same_classifier(repository):
    (add_version(repository, "2") / "model.onnx").unlink()
    (found,) = problems(repository)
    assert (found.where, found.reason) == (f"{CLASSIFIER}/2/model.onnx", "artefact_missing")
    command = f"jpeg-build use onnx --version 1 --model-repository {repository}"
    assert found.message.endswith(f"; or use {command}")
    assert build_cli(shlex.split(command)[1:]) == 0
    assert problems(repository) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [("model_version: 1", "jpeg-build use onnx --version 1"), ("model_version: 9", "-1"), ("", "version 0")],
)
def test_a_step_names_a_version_that_is_served(repository, number, remedy):
    add_version(repository, "2")
    path = repository / ENSEMBLE / "config.pbtxt"
    text = path.read_text()
    at = text.index("model_version: -1", text.index(CLASSIFIER))
    path.write_text(text[:at] + number + text[at + len("model_version: -1") :])
    (found,) = problems(repository)
    assert found.reason == "step_version"
    assert remedy in found.message
    assert "Triton serves version 2" in found.message


OTHER_SHA256 = "0" * 64


def edit_report(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_all_versions_that_are_served_come_from_one_recipe(repository):
    path = add_version(repository, "2", "version_policy { all { } }") / "model.json"
    edit_report(path, recipe="mine", recipe_sha256=OTHER_SHA256)
    (found,) = problems(repository)
    assert found.reason == "recipe_mismatch"
    assert f"{CLASSIFIER}/1/model.onnx from mobilenet_v2" in found.message
    assert f"{CLASSIFIER}/2/model.onnx from mine (00000000)" in found.message
    option = f"--model-repository {repository}"
    assert found.message.endswith(
        f"jpeg-build use onnx --version 1 {option}; or build from mobilenet_v2: jpeg-build mobilenet_v2 --backend onnx "
        f"--version 2 {option}"
    )


def test_the_precision_in_the_config_is_that_of_the_newest_served_version(repository):
    for number in ("2", "3"):
        path = add_version(repository, number, "") / "model.json"
        edit_report(path, precision="fp16")
        (found,) = problems(repository)
        assert (found.where, found.reason) == (f"{CLASSIFIER}/config.pbtxt", "precision_differs")
        assert f"jpeg-build use onnx --version {number}" in found.message
    # Of several, the newest counts; and who states none claims none.
    append(CLASSIFIER, "version_policy { all { } }")(repository)
    assert [each.reason for each in problems(repository)] == ["precision_differs"]
    edit(repository / CLASSIFIER / "config.pbtxt", 'value: "fp32"', 'value: "fp16"')
    assert problems(repository) == []
    edit(repository / CLASSIFIER / "config.pbtxt", 'key: "precision"', 'key: "team"')
    assert problems(repository) == []


def of_another_recipe(repository, *, shape=True):
    """Let preprocess and postprocess come from another recipe: other pixels, other classes."""
    for name in (PREPROCESS, POSTPROCESS):
        parameter(name, "recipe", "mine")(repository)
        parameter(name, "recipe_sha256", OTHER_SHA256)(repository)
    if shape:
        parameter(PREPROCESS, "crop_size", "64,64")(repository)
        tensor(PREPROCESS, "output", dims=[64, 64, 3])(repository)
        tensor(POSTPROCESS, "input", dims=[2])(repository)
        (repository / POSTPROCESS / "labels.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize("shape", [False, True], ids=["same shapes", "other shapes"])
def test_steps_of_two_recipes_are_one_problem_with_the_command_that_fixes_it(repository, shape):
    """The different shapes follow from the recipes, and need no remedy of their own."""
    of_another_recipe(repository, shape=shape)
    (found,) = problems(repository)
    assert (found.where, found.reason) == (f"{ENSEMBLE}/config.pbtxt", "recipe_mismatch")
    for origin in (f"{PREPROCESS} from mine (00000000)", f"{CLASSIFIER} from mobilenet_v2 ("):
        assert origin in found.message
    build = f"build from mine: jpeg-build PATH/mine.toml --backend onnx --model-repository {repository}"
    assert found.message.endswith(f"): {build}")
    # A classifier that is built from the right recipe and runs here comes first.
    for form, digest in (("openvino", OTHER_SHA256), ("torch_tensorrt", "1" * 64)):
        add_classifier(repository, form, chosen=False, recipe="mine", recipe_sha256=digest)
    (found,) = problems(repository)
    assert found.message.endswith(f"): jpeg-build use openvino --model-repository {repository}; or {build}")
    (found,) = problems(repository, machine(packages={"onnxruntime": "1.22"}))
    assert found.message.endswith(f"): {build}")


def test_an_artefact_of_another_recipe_is_built_from_the_repositorys_recipe(repository):
    """Its own build command would return all other steps to the old recipe."""
    of_another_recipe(repository)
    tensor(CLASSIFIER, "input", dims=[64, 64, 3])(repository)
    tensor(CLASSIFIER, "output", dims=[2])(repository)
    merge(CLASSIFIER, "", clear="model_warmup")(repository)
    (repository / CLASSIFIER / "labels.txt").write_text("cat\ndog\n")
    edit_report(repository / CLASSIFIER / "1/model.json", precision="int8")
    edit(repository / CLASSIFIER / "config.pbtxt", 'value: "fp32"', 'value: "int8"')
    build = f"jpeg-build PATH/mine.toml --backend onnx --precision int8 --model-repository {repository}"
    (found,) = problems(repository)
    assert found.message.endswith(f": build from mine: {build}")
    (repository / CLASSIFIER / "1/model.onnx").write_bytes(b"other")
    found = problems(repository)
    assert [problem.reason for problem in found] == ["recipe_mismatch", "artefact_altered"]
    assert all(build in problem.message for problem in found)


def test_configs_of_two_recipes_are_fixed_by_a_build(repository):
    parameter(POSTPROCESS, "recipe", "mine")(repository)
    parameter(POSTPROCESS, "recipe_sha256", OTHER_SHA256)(repository)
    (found,) = problems(repository)
    assert found.reason == "recipe_mismatch"
    assert found.message.endswith(
        f": build from mobilenet_v2: jpeg-build mobilenet_v2 --backend onnx --model-repository {repository}"
    )


def test_a_classifier_that_is_served_alone_matches_its_config(repository):
    tensor(CLASSIFIER, "input", dims=[64, 64, 3])(repository)
    merge(CLASSIFIER, "", clear="model_warmup")(repository)
    shutil.rmtree(repository / ENSEMBLE)
    (found,) = check_repository(repository, machine(), load=[CLASSIFIER])
    assert found.reason == "artefact_shape"
    assert "[64,64,3]" in found.message
    assert "[224, 224, 3]" in found.message


REPORTS = {
    "newer": ({"schema_version": SCHEMA_VERSION + 1}, "report_newer"),
    "outdated": ({"schema_version": None, "format": 1}, "report_outdated"),
    "no schema": ({"schema_version": None}, "report_unreadable"),
    "requires": ({"requires": 5}, "report_unreadable"),
    "inside requires": ({"requires": {"tensorrt": 8.6}}, "report_unreadable"),
    "digest": ({"recipe_sha256": ["a"]}, "report_unreadable"),
    "artefact": ({"artefact": {"file": "model.onnx"}}, "report_unreadable"),
}


@pytest.mark.parametrize(("fields", "reason"), REPORTS.values(), ids=REPORTS)
def test_a_report_that_cannot_be_used_is_one_problem_with_the_build_command(repository, fields, reason):
    edit_report(repository / CLASSIFIER / "1/model.json", **fields)
    (found,) = problems(repository)
    assert (found.where, found.reason) == (f"{CLASSIFIER}/1/model.json", reason)
    assert found.message.endswith(f"; build it: jpeg-build mobilenet_v2 --backend onnx --model-repository {repository}")


def test_the_name_of_the_classifier_may_be_written_in_every_way_that_protobuf_allows(repository):
    path = repository / ENSEMBLE / "config.pbtxt"
    edit(path, f'model_name: "{CLASSIFIER}"', "model_name: # x \n 'classifier' # y\n \"_onnx\"")
    assert problems(repository) == []
    assert f"{PREPROCESS} -> {CLASSIFIER} -> {POSTPROCESS}" in summary(repository)
    (repository / CLASSIFIER / "1/model.onnx").unlink()
    assert reasons(repository) == ["artefact_missing"]


def test_an_artefact_may_be_a_folder(repository):
    # In the order of the paths as text, "." comes before "/".
    inside = {"saved_model.pb": b"graph", "variables/variables.index": b"i", "variables.more/x": b"m", "assets/a": b""}
    version = add_classifier(repository, "tf_trt", {f"model.savedmodel/{name}": data for name, data in inside.items()})
    assert problems(repository) == []
    (version / "model.savedmodel/variables/variables.index").write_bytes(b"other")
    (found,) = problems(repository)
    assert (found.where, found.reason) == ("classifier_tf_trt/1/model.json", "artefact_altered")
    assert "jpeg-build mobilenet_v2 --backend tf_trt" in found.message


def test_an_artefact_may_be_a_pair_of_files(repository):
    version = add_classifier(repository, "openvino")
    assert problems(repository) == []
    (version / "model.bin").write_bytes(b"others")
    assert reasons(repository) == ["artefact_altered"]
    (version / "model.bin").unlink()
    (found,) = problems(repository)
    assert (found.where, found.reason) == ("classifier_openvino/1/model.bin", "artefact_missing")


def test_parameters_that_do_not_go_with_the_precision_are_refused(repository):
    config = 'parameters { key: "NUM_STREAMS" value { string_value: "4" } }'
    version = add_classifier(repository, "openvino", config=config, precision="int8")
    (found,) = problems(repository)
    assert (found.where, found.reason) == ("classifier_openvino/config.pbtxt", "parameter_conflict")
    edit_report(version / "model.json", precision="fp32")
    edit(version.parent / "config.pbtxt", 'value: "int8"', 'value: "fp32"')
    assert problems(repository) == []


@pytest.mark.parametrize(
    ("form", "requested", "options"),
    [
        ("onnx", {"trt": False}, "--precision int8"),
        ("torch_tensorrt", {"trt": False, "per_gpu": False}, "--precision int8 --no-trt"),
        ("tensorrt", {"trt": True, "per_gpu": True}, "--precision int8 --per-gpu"),
        ("tensorrt", {"hardware_compatible": True}, "--precision int8 --hardware-compatible"),
        ("tensorrt", {"from_onnx": "ab12", "tool": "trtexec"}, "--precision int8 --from-onnx --tool trtexec"),
        ("tensorrt", {"tool": "polygraphy"}, "--precision int8"),
    ],
)
def test_a_rebuild_keeps_the_options_of_the_build(repository, form, requested, options):
    version = add_classifier(repository, form, precision="int8", requested=requested, name=f"classifier_{form}")
    next(version.glob("model.[op]*")).write_bytes(b"other")
    (found,) = problems(repository, machine("9.0"))
    assert found.reason == "artefact_altered"
    assert f"jpeg-build mobilenet_v2 --backend {form} {options} --model-repository" in found.message


def test_label_files_have_a_label_for_each_class(repository):
    edit(repository / CLASSIFIER / "labels.txt", "tench\n", "")
    (found,) = problems(repository)
    assert (found.where, found.reason) == (f"{CLASSIFIER}/labels.txt", "invalid_labels")
    assert "999" in found.message
    assert "jpeg-build mobilenet_v2" in found.message
    edit(repository / CLASSIFIER / "labels.txt", "goldfish\n", "\n")
    (found,) = problems(repository)
    assert found.where == f"{CLASSIFIER}/labels.txt:1"
    assert str(repository) not in found.where


def test_problems_become_json(repository):
    (repository / CLASSIFIER / "1/model.onnx").unlink()
    (found,) = problems(repository)
    assert msgspec.to_builtins(found) == {
        "where": f"{CLASSIFIER}/1/model.onnx",
        "message": found.message,
        "reason": "artefact_missing",
    }


@pytest.mark.parametrize(
    ("is_terminal", "reported"), [(False, ["10 s", "20 s"]), (True, [f"{s} s" for s in range(1, 26)])]
)
def test_the_trial_reports_each_second_on_a_terminal_only(repository, monkeypatch, capsys, is_terminal, reported):
    def load(_, report):
        for seconds in range(1, 26):
            report(seconds + 0.02)
        return []

    monkeypatch.setattr("jpeg_serve.trial.run_trial", load)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    assert serve_cli(["check", "--model-repository", str(repository)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "trial" in line]
    assert [line.rpartition(", ")[2] for line in lines[1:]] == reported
