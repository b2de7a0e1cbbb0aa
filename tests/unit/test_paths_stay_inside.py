# ruff: noqa: E501  # one row for each case
"""What a recipe, a config or a report names lies in its own folder: `path_outside` otherwise, and nothing is read."""

import json
import os
import shutil
from pathlib import Path

import msgspec
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_build.cli import main
from jpeg_build.errors import RecipeError, RepositoryError
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from jpeg_build.repository.artefacts import reported_artefact, reported_engines
from jpeg_contract.artefacts import report_path
from jpeg_contract.inside import PathOutside, inside, is_inside, refuse_file_parameter, tree_inside
from jpeg_contract.parameters import SettingsError
from jpeg_contract.report import read_report
from jpeg_runtime.onnx_runtime import session_options
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig
from jpeg_serve import check_repository
from onnx import TensorProto, helper
from repository.edits import append, merge, parameter
from repository.machines import machine
from repository.static_repository import make_repository
from support import SMALL_RECIPE, as_parameters, classifier_args, edit, small_network

OUTSIDE = "path_outside"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder with links in and out of it, beside a secret."""
    top = tmp_path_factory.mktemp("tree")
    folder = top / "folder"
    (folder / "sub").mkdir(parents=True)
    (top / "secret").write_text("secret")
    (folder / "file").write_text("mine")
    (folder / "link_in").symlink_to("file")
    (folder / "link_out").symlink_to("../secret")
    (folder / "sub" / "up").symlink_to(top)
    (folder / "loop").symlink_to("loop")
    return folder


PARTS = st.sampled_from(["file", "sub", "link_in", "link_out", "up", "loop", "..", ".", "", "secret", "new", "\0"])


@given(st.lists(PARTS, max_size=5), st.sampled_from(["", "/", "//"]))
def test_no_name_leads_out_of_its_folder(tree, parts, start):
    name = start + "/".join(parts)
    if is_inside(tree, name):
        assert os.path.commonpath([os.path.realpath(inside(tree, name)), os.path.realpath(tree)]) == str(tree)
        assert ".." not in parts
        assert not name.startswith("/")
    else:
        with pytest.raises(PathOutside) as refusal:
            inside(tree, name)
        assert refusal.value.reason == OUTSIDE


@pytest.mark.parametrize("name", ["file", "sub", "./file", "link_in", "new/deep", "..file", "sub/.x"])
def test_names_in_the_folder_are_good(tree, name):
    assert inside(tree, name) == tree / name


def test_the_folder_itself_may_be_a_link(tree, tmp_path):
    (tmp_path / "linked").symlink_to(tree)
    assert inside(tmp_path / "linked", "file").read_text() == "mine"
    assert not is_inside(tmp_path / "linked", "link_out")


def test_no_file_of_a_tree_is_a_link_out_of_it(tmp_path):
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    assert tree_inside(tmp_path, "tree") == tmp_path / "tree"
    (tmp_path / "tree" / "deep" / "variables").symlink_to("/etc/hostname")
    with pytest.raises(PathOutside):
        tree_inside(tmp_path, "tree")


# Recipes


@pytest.fixture
def recipe(tmp_path):
    """A recipe, beside a folder with files that it must not read."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    small_network(folder)
    (tmp_path / "elsewhere").mkdir()
    small_network(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "saved" / "variables").mkdir(parents=True)
    (tmp_path / "elsewhere" / "saved" / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "elsewhere" / "net.h5").write_bytes(b"weights")
    (folder / "small.toml").write_text(SMALL_RECIPE)
    return folder / "small.toml"


TENSORFLOW = '[tensorflow]\nkind = "{kind}"\n{lines}\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
KERAS = TENSORFLOW.format(kind="keras", lines='network = "ResNet50"\nweights = "NAME"')
SAVED_MODEL = TENSORFLOW.format(kind="saved_model", lines='folder = "NAME"\noutput = "logits"')

# By the key that names a file: how the recipe states it, and the file elsewhere.
KEYS = {
    "labels": (SMALL_RECIPE.replace('"small.txt"', '"NAME"'), "small.txt"),
    "file": (SMALL_RECIPE.replace('"small.onnx"', '"NAME"'), "small.onnx"),
    "weights": (SMALL_RECIPE + KERAS, "net.h5"),
    "folder": (SMALL_RECIPE + SAVED_MODEL, "saved"),
}


@pytest.mark.parametrize("how", ["above", "absolute", "link", "linked folder"])
@pytest.mark.parametrize("key", KEYS)
def test_a_recipe_names_files_beside_itself_only(recipe, key, how):
    text, name = KEYS[key]
    elsewhere = recipe.parents[1] / "elsewhere"
    (recipe.parent / "out").symlink_to(elsewhere)
    (recipe.parent / "linked").symlink_to(elsewhere / name)
    names = {
        "above": f"../elsewhere/{name}",
        "absolute": f"{elsewhere}/{name}",
        "link": "linked",
        "linked folder": f"out/{name}",
    }
    recipe.write_text(text.replace("NAME", names[how]))
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe)
    assert refusal.value.reason == OUTSIDE
    line = next(number for number, each in enumerate(recipe.read_text().splitlines(), 1) if f"{key} = " in each)
    assert str(refusal.value).startswith(f"{recipe}:{line}: ")


@pytest.mark.parametrize("key", KEYS)
def test_a_recipe_names_files_below_itself(recipe, key):
    text, name = KEYS[key]
    (recipe.parents[1] / "elsewhere").rename(recipe.parent / "below")
    recipe.write_text(text.replace("NAME", f"below/{name}"))
    assert load_recipe(recipe).name == "small"


def test_a_saved_model_holds_no_link_to_elsewhere(recipe):
    (recipe.parents[1] / "elsewhere" / "saved").rename(recipe.parent / "saved")
    (recipe.parent / "saved" / "variables" / "variables.index").symlink_to("/etc/hostname")
    recipe.write_text(KEYS["folder"][0].replace("NAME", "saved"))
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe)
    assert refusal.value.reason == OUTSIDE


def test_a_recipe_may_name_the_labels_of_the_project(recipe):
    text = SMALL_RECIPE.replace("classes = 3", "classes = 1000")
    recipe.write_text(text.replace('"small.txt"', f'"{RECIPES}/imagenet.txt"'))
    assert len(load_recipe(recipe).labels or ()) == 1000
    recipe.write_text(text.replace('"small.txt"', f'"{RECIPES}/.."'))
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe)
    assert refusal.value.reason == OUTSIDE


@pytest.mark.parametrize("location", ["../elsewhere/weights.bin", "/dev/zero", "linked.bin"])
def test_the_weights_of_an_onnx_file_lie_beside_it(recipe, location):
    (recipe.parents[1] / "elsewhere" / "weights.bin").write_bytes(bytes(16))
    (recipe.parent / "linked.bin").symlink_to("../elsewhere/weights.bin")
    weights = TensorProto(name="weights", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    graph = helper.make_graph([], "outside", [], [], [weights])
    (recipe.parent / "small.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(RecipeError) as refusal:
        load_recipe(recipe)
    assert refusal.value.reason == OUTSIDE


def test_jpeg_build_reports_the_reason_code(recipe, tmp_path, capsys):
    edit(recipe, '"small.txt"', '"../elsewhere/small.txt"')
    assert main([str(recipe), "--model-repository", str(tmp_path / "models")]) != 0
    assert capsys.readouterr().err.rstrip().endswith(f"[{OUTSIDE}]")
    assert not (tmp_path / "models").exists()


# Configs


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("right") / "model_repository")


@pytest.fixture
def repository(right, tmp_path):
    (tmp_path / "labels.txt").write_text("secret\n" * 1000)
    return Path(shutil.copytree(right, tmp_path / "model_repository"))


WARM_UP = 'model_warmup { batch_size: 1 inputs { key: "IMAGE" value { data_type: TYPE_STRING dims: [1] input_data_file: "NAME" } } }'  # fmt: skip

# By the field that names a file: the model, and a change of its config.
FIELDS = {
    "default_model_filename": ("classifier_onnx", lambda name: append("classifier_onnx", f'default_model_filename: "{name}"')),
    "cc_model_filenames": ("classifier_onnx", lambda name: append("classifier_onnx", f'cc_model_filenames {{ key: "9.0" value: "{name}" }}')),
    "label_filename": ("classifier_onnx", lambda name: append("classifier_onnx", f'output {{ label_filename: "{name}" }}')),
    "labels_file": ("postprocess", lambda name: parameter("postprocess", "labels_file", name)),
    "input_data_file": ("preprocess", lambda name: merge("preprocess", WARM_UP.replace("NAME", name))),
    "op_library_filename": ("preprocess", lambda name: append("preprocess", f'model_operations {{ op_library_filename: "{name}" }}')),
    "backend": ("preprocess", lambda name: merge("preprocess", f'backend: "{name}"', clear="backend")),
}  # fmt: skip


@pytest.mark.parametrize("how", ["above", "absolute", "link"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_config_names_files_of_its_model_only(repository, field, how):
    model, change = FIELDS[field]
    for folder in (repository / model, repository / model / "1", repository / model / "warmup"):
        folder.mkdir(exist_ok=True)
        (folder / "linked.txt").symlink_to(repository.parent / "labels.txt")
    names = {"above": "../../labels.txt", "absolute": f"{repository.parent}/labels.txt", "link": "linked.txt"}
    change(names[how])(repository)
    found = [problem for problem in check_repository(repository, machine()) if problem.reason == OUTSIDE]
    assert [problem.where for problem in found] == [f"{model}/config.pbtxt"]
    assert field in found[0].message


def test_a_file_elsewhere_is_not_read(repository):
    """`/dev/zero` has no end."""
    parameter("postprocess", "labels_file", "/dev/zero")(repository)
    assert OUTSIDE in [problem.reason for problem in check_repository(repository, machine())]


def test_a_version_may_be_a_link_to_a_folder_elsewhere(repository):
    version = repository / "classifier_onnx" / "1"
    version.rename(repository.parent / "elsewhere")
    version.symlink_to(repository.parent / "elsewhere")
    assert check_repository(repository, machine()) == []


def read_config(folder, backend="onnxruntime", **config):
    return ServingConfig.from_triton(classifier_args(folder, backend, gpu=0, **config))


@pytest.mark.parametrize("name", ["../2/model.onnx", "/etc/hostname", "linked.onnx"])
@pytest.mark.parametrize("field", ["default_model_filename", "cc_model_filenames"])
def test_a_classifier_opens_files_of_its_version_only(tmp_path, field, name):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "linked.onnx").symlink_to("/etc/hostname")
    with pytest.raises(ModelLoadError) as refusal:
        read_config(tmp_path, **{field: {"9.0": name} if field == "cc_model_filenames" else name})
    assert refusal.value.reason == OUTSIDE


FILE_PARAMETERS = [
    "session.collect_node_memory_stats_to_file",
    "session.model_external_initializers_file_folder_path",
    "session.moe.offload.source_root",
    "session.node_partition_config_file",
    "session.optimized_model_filepath",
]


@pytest.mark.parametrize("name", FILE_PARAMETERS)
def test_onnx_runtime_writes_and_reads_no_file_that_a_parameter_names(repository, tmp_path, name):
    config = read_config(tmp_path, parameters=as_parameters({name: str(tmp_path / "written")}))
    with pytest.raises(SettingsError) as refusal:
        session_options(config)
    assert refusal.value.reason == OUTSIDE
    parameter("classifier_onnx", name, str(tmp_path / "written"))(repository)
    assert [problem.reason for problem in check_repository(repository, machine())] == [OUTSIDE]


@pytest.mark.parametrize(
    "name", ["session.force_spinning_stop", "session.use_ort_model_bytes_directly", "session.enable_profiling", "file"]
)
def test_other_parameters_pass(name):
    refuse_file_parameter(name)


# Reports


@pytest.mark.parametrize("name", ["..", "../../other/1/model.onnx", "/etc/hostname", "linked.onnx"])
def test_a_report_names_files_of_its_version_only(repository, name):
    artefact = repository / "classifier_onnx" / "1" / "model.onnx"
    (artefact.parent / "linked.onnx").symlink_to("/etc/hostname")
    report = read_report(artefact)
    file = msgspec.structs.replace(report.artefact, file=name)
    with pytest.raises(RepositoryError) as refusal:
        reported_artefact(artefact, msgspec.structs.replace(report, artefact=file))
    assert refusal.value.reason == OUTSIDE
    settings = msgspec.structs.replace(report.config, engines={"9.0": name})
    with pytest.raises(RepositoryError) as refusal:
        reported_engines(artefact.parent, msgspec.structs.replace(report, config=settings))
    assert refusal.value.reason == OUTSIDE


def test_commands_refuse_such_a_report_and_a_build_replaces_it(recipe, tmp_path, capsys):
    models = tmp_path / "models"
    assert main([str(recipe), "--model-repository", str(models)]) == 0
    file = report_path(models / "classifier_onnx" / "1" / "model.onnx")
    values = json.loads(file.read_text())
    values["artefact"]["file"] = "../../../secret.onnx"
    file.write_text(json.dumps(values))
    capsys.readouterr()
    assert main(["inspect", "onnx", "--model-repository", str(models)]) == 1
    assert f"[{OUTSIDE}]" in capsys.readouterr().err
    assert main([str(recipe), "--model-repository", str(models)]) == 0
    assert read_report(models / "classifier_onnx" / "1" / "model.onnx").artefact.file == "model.onnx"
    assert onnx.load(str(models / "classifier_onnx" / "1" / "model.onnx")).graph.node
