"""jpeg-build's commands on a repository with a small network of the test's own."""

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import pytest
from jpeg_build.build import candidates
from jpeg_build.checks.as_served import run_as_served
from jpeg_build.checks.parity import TOLERANCES
from jpeg_build.cli import app, main
from jpeg_build.init.facts import Facts
from jpeg_build.recipe.table import RECIPES
from jpeg_contract import model_config
from jpeg_contract.report import read_report, to_json
from jpeg_contract.versions import project_version
from jpeg_runtime.isolated import IsolatedClassifier
from onnx import numpy_helper
from support import PHOTOS, ROOT, SMALL_RECIPE, edit, photo, run, small_network


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    small_network(folder)
    (folder / "small.toml").write_text(SMALL_RECIPE)
    return folder / "small.toml"


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "model_repository"


def build(recipe, repository, *options):
    return main([str(recipe), "--model-repository", str(repository), *options])


def artefact(repository, version=1, backend="onnx"):
    return repository / f"classifier_{backend}" / str(version)


def config_of(repository, model):
    return model_config.read(repository / model / "config.pbtxt")


def ensembles_word(repository):
    return model_config.chosen_classifier(config_of(repository, "jpeg_classifier"))


def served(repository, backend="onnx"):
    return model_config.pinned_version(config_of(repository, f"classifier_{backend}"))


def reason(text):
    """The reason code at the end of an error."""
    line = next(line for line in text.splitlines() if line.startswith("jpeg-build: error: "))
    found = re.search(r"\[([a-z_0-9]+)\]$", line)
    assert found is not None, line
    return found[1]


def failure(capsys):
    """The error of a command that failed: its text, and its reason code."""
    text = capsys.readouterr().err
    return text, reason(text)


def test_versions_lie_side_by_side_and_each_is_one_command_away(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    first = (artefact(repository) / "model.onnx").read_bytes()
    assert build(recipe, repository, "--version", "2", "--precision", "fp16") == 0
    assert (artefact(repository) / "model.onnx").read_bytes() == first
    assert (artefact(repository, 2) / "model.onnx").read_bytes() != first
    # The new one is tried and chosen before it serves.
    assert served(repository) == 1

    where = ["--model-repository", str(repository)]
    assert main(["use", "onnx", "--version", "2", *where]) == 0
    assert served(repository) == 2
    assert main(["use", "onnx", "--version", "1", *where]) == 0
    assert served(repository) == 1
    # Without --version the newest is built again, and a note names the version that is served.
    capsys.readouterr()
    assert build(recipe, repository) == 0
    assert (artefact(repository, 2) / "model.onnx").read_bytes() == first
    text = capsys.readouterr().err
    assert "classifier_onnx serves version 1" in text
    assert f"jpeg-build use onnx --version 2 --model-repository {repository}" in text
    assert main(["use", "onnx", "--version", "newest", *where]) == 0
    assert served(repository) is None
    assert main(["use", "onnx", "--version", "7", *where]) == 1
    text, code = failure(capsys)
    assert code == "not_built"
    assert "version 7 of classifier_onnx" in text
    assert "jpeg-build PATH/small.toml --backend onnx --version 7" in text


def test_a_build_of_another_recipe_names_the_commands_that_make_the_ensemble_servable(
    recipe, repository, tmp_path, capsys
):
    where = f"--model-repository {repository}"
    small_network(tmp_path)
    other = tmp_path / "other.toml"
    other.write_text(SMALL_RECIPE)
    edit(other, "resize_size = 32", "resize_size = 40")
    assert build(recipe, repository, "--backend", "openvino") == 0
    capsys.readouterr()
    assert build(other, repository) == 0
    text = capsys.readouterr().err
    assert "THE ENSEMBLE CANNOT BE SERVED AS IT IS" in text
    assert f"jpeg-build use onnx {where}" in text
    assert f"jpeg-build {other} --backend openvino {where}" in text

    # Nor can the ensemble be switched to a classifier of another recipe.
    assert main(["use", "openvino", *where.split()]) == 1
    text, code = failure(capsys)
    assert code == "recipe_differs"
    assert "of the recipe small" in text or "from the recipe small" in text
    assert f"jpeg-build PATH/other.toml --backend openvino --version 1 {where}" in text
    assert f"jpeg-build PATH/small.toml --backend openvino {where}" in text
    assert main(["use", "onnx", *where.split()]) == 0
    assert f"jpeg-serve reload {where}" in capsys.readouterr().err


def test_use_changes_one_word_and_refuses_what_is_not_built(recipe, repository, capsys):
    where = ["--model-repository", str(repository)]
    assert main(["use", "onnx", *where]) == 1
    assert failure(capsys)[1] == "not_built"
    assert main(["use", "caffe", *where]) == 2
    assert failure(capsys)[1] == "invalid_call"
    assert build(recipe, repository) == build(recipe, repository, "--backend", "openvino") == 0
    assert ensembles_word(repository) == "classifier_onnx"  # a build keeps the choice
    path = repository / "jpeg_classifier" / "config.pbtxt"
    path.write_text("# mine\n" + path.read_text())
    before = path.read_text()
    assert main(["use", "openvino", *where]) == 0
    assert path.read_text() == before.replace("classifier_onnx", "classifier_openvino")
    capsys.readouterr()
    assert main(["use", "openvino", *where]) == 0
    assert "uses classifier_openvino already" in capsys.readouterr().err
    assert main(["use", "tensorrt", *where]) == 1
    text, code = failure(capsys)
    assert code == "not_built"
    assert f"jpeg-build PATH/small.toml --backend tensorrt --model-repository {repository}" in text
    assert "built are onnx, openvino" in text
    assert ensembles_word(repository) == "classifier_openvino"


def test_verify_compares_the_artefact_again(recipe, repository, capsys):
    assert build(recipe, repository, "--backend", "openvino") == 0
    where = ["--model-repository", str(repository), "--recipe", str(recipe)]
    capsys.readouterr()
    assert main(["verify", "openvino", *where, "--speed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["classifier"], found["version"], found["server"]) == ("classifier_openvino", "1", None)
    assert found["parity"]["relative_difference"] < 1e-5
    assert {1, 2, 3, 16, 64} <= set(found["parity"]["batches"])
    assert sorted(map(int, found["images_per_second"])) == [1, 8, 32, 64]

    # A bias of the artefact is changed: every logit of one class is off.
    weights = artefact(repository, backend="openvino") / "model.bin"
    data = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    bias = np.array([0.5, -0.25, 0.125], np.float32).view(np.uint8)
    places = [i for i in range(len(data) - 12) if (data[i : i + 12] == bias).all()]
    assert len(places) == 1
    data[places[0] : places[0] + 12] = np.array([0.5, 2.0, 0.125], np.float32).view(np.uint8)
    weights.write_bytes(data.tobytes())
    assert main(["verify", "openvino", *where]) == 1
    text, code = failure(capsys)
    assert code == "parity"
    assert "the fp32 artefact" in text


def test_verify_needs_the_recipe_of_the_build(recipe, repository, tmp_path, capsys):
    assert build(recipe, repository) == 0
    where = ["--model-repository", str(repository)]
    assert main(["verify", "onnx", *where]) == 1
    text, code = failure(capsys)
    assert code == "recipe_missing"
    assert "'small'" in text
    assert "--recipe FILE" in text
    assert main(["verify", "onnx", *where, "--recipe", "mobilenet_v2"]) == 1
    assert failure(capsys)[1] == "recipe_differs"


def test_verify_prints_a_summary_unless_json_is_requested(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    capsys.readouterr()
    assert main(["verify", "onnx", "--model-repository", str(repository), "--recipe", str(recipe)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("classifier_onnx/1: small in fp32")
    assert "{" not in text


def test_inspect_describes_an_artefact(recipe, repository, capsys):
    assert build(recipe, repository) == build(recipe, repository, "--backend", "openvino") == 0
    capsys.readouterr()
    folder = str(repository / "classifier_onnx")
    for what in ("onnx", "openvino", "classifier_onnx", folder, str(artefact(repository) / "model.onnx")):
        assert main(["inspect", what, "--model-repository", str(repository)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["inputs"] == {"input__0": found["inputs"]["input__0"]}
        assert found["inputs"]["input__0"].startswith("uint8[")
        assert found["inputs"]["input__0"].endswith(",32,32,3]")
        assert found["report"]["recipe"] == "small"
        assert found["operators"]
    assert main(["inspect", "photo.jpg"]) == 1
    assert failure(capsys)[1] == "unknown_artefact"
    assert main(["inspect", "gone.onnx"]) == 1
    assert failure(capsys)[1] == "artefact_missing"
    assert main(["inspect", str(recipe.with_name("small.onnx"))]) == 0
    (repository / "empty.onnx").touch()
    assert main(["inspect", str(repository / "empty.onnx")]) == 1
    text, code = failure(capsys)
    assert code == "artefact_unreadable"
    assert "empty.onnx" in text


def test_auto_takes_the_fastest_within_tolerance(recipe, repository, capsys):
    assert build(recipe, repository, "--precision", "auto", "--json") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    speeds = report["images_per_second"]
    assert set(speeds) == {"fp32", "fp16", "int8"}
    within = {name: speed for name, speed in speeds.items() if speed is not None}
    assert report["precision"] == max(within, key=within.__getitem__)
    assert f"{report['precision']}: " in printed.err
    assert to_json(read_report(artefact(repository) / "model.onnx")) == report
    assert build(recipe, repository, "--precision", "auto", "--if-needed") == 0
    assert "up to date" in capsys.readouterr().err
    assert build(recipe, repository, "--precision", "fp32", "--if-needed") == 0
    assert "up to date" not in capsys.readouterr().err


def test_going_back_to_a_version_of_another_precision_restores_its_settings(recipe, repository):
    assert build(recipe, repository, "--backend", "openvino") == 0
    assert build(recipe, repository, "--backend", "openvino", "--precision", "bf16", "--version", "2") == 0

    def hint():
        return model_config.parameters(config_of(repository, "classifier_openvino")).get("HINT_BF16")

    where = ["--model-repository", str(repository)]
    assert hint() is None
    assert main(["use", "openvino", "--version", "2", *where]) == 0
    assert hint() == "YES"
    assert main(["use", "openvino", "--version", "1", *where]) == 0
    assert hint() is None
    # A build of a version that is not served leaves the config alone.
    assert build(recipe, repository, "--backend", "openvino", "--precision", "bf16", "--version", "2") == 0
    assert hint() is None
    assert main(["use", "openvino", "--version", "newest", *where]) == 0
    assert hint() == "YES"


def test_the_config_states_the_precision_of_the_version_that_is_served(recipe, repository):
    def stated():
        return config_of(repository, "classifier_onnx").metric_tags["precision"]

    where = ["--model-repository", str(repository)]
    assert build(recipe, repository) == 0
    assert stated() == "fp32"
    assert build(recipe, repository, "--version", "2", "--precision", "fp16") == 0
    assert stated() == "fp32"
    assert main(["use", "onnx", "--version", "newest", *where]) == 0
    assert stated() == "fp16"
    # The newest is served, not the one that was built last.
    assert build(recipe, repository, "--version", "1") == 0
    assert stated() == "fp16"
    assert main(["use", "onnx", "--version", "1", *where]) == 0
    assert stated() == "fp32"
    assert main(["use", "onnx", "--version", "newest", *where]) == 0
    assert stated() == "fp16"


def test_auto_goes_on_without_a_precision_that_cannot_be_built(recipe, repository, capsys, monkeypatch):
    from jpeg_build.emitters import precision
    from jpeg_build.errors import NetworkError

    def refuse(*_):
        raise NetworkError("no layer of this network can be int8")

    monkeypatch.setattr(precision, "int8_forms", refuse)
    assert build(recipe, repository, "--precision", "auto", "--json") == 0
    printed = capsys.readouterr()
    assert "int8: left out: no layer of this network can be int8" in printed.err
    assert json.loads(printed.out)["images_per_second"]["int8"] is None


def test_an_option_that_would_do_nothing_is_refused(recipe, repository, capsys):
    assert build(recipe, repository, "--per-gpu") == 2
    text, code = failure(capsys)
    assert code == "invalid_call"
    assert "--per-gpu has a meaning for tensorrt only, not for onnx" in text
    for option in ("--max-batch=8", "--no-trt", "--version-compatible"):
        assert build(recipe, repository, option) == 2
        assert failure(capsys)[1] == "invalid_call"
    assert build(recipe, repository, "--backend", "tensorrt", "--max-batch", "8", "--opt-batch", "9") == 2
    text, code = failure(capsys)
    assert code == "invalid_call"
    assert "not in this order" in text
    assert not repository.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--backend", "caffe"),
        ("--precision", "fp64"),
        ("--version", "0"),
        ("--max-batch", "1.5"),
        ("--colour",),
        ("--checkpoint", "a.pth", "--weights", "none"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_refused_on_one_line(recipe, repository, capsys, options):
    assert build(recipe, repository, *options) == 2
    text, code = failure(capsys)
    assert code == "invalid_call"
    assert text.count("\n") == 1, text
    assert not repository.exists()


def test_a_recipe_that_does_not_exist_is_a_wrong_call(repository, capsys):
    assert build("gone", repository) == 2
    assert failure(capsys)[1] == "recipe_not_found"
    assert not repository.exists()


def test_other_photos_are_another_build(recipe, repository, tmp_path, capsys):
    shutil.copytree(PHOTOS, tmp_path / "photos")
    (tmp_path / "photos" / "cat.jpg").write_bytes(photo("chelsea"))
    assert build(recipe, repository, "--precision", "int8") == 0
    assert build(recipe, repository, "--precision", "int8", "--if-needed") == 0
    assert "up to date" in capsys.readouterr().err
    other = ["--precision", "int8", "--calibration", str(tmp_path / "photos"), "--if-needed"]
    assert build(recipe, repository, *other) == 0
    assert "calibrating" in capsys.readouterr().err
    assert build(recipe, repository, *other) == 0
    assert "up to date" in capsys.readouterr().err


def test_calibration_leaves_out_and_names_images_that_cannot_be_decoded(recipe, repository, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    wanted = ["--precision", "int8", "--calibration", str(tmp_path / "photos")]
    assert build(recipe, repository, *wanted) == 1
    text, code = failure(capsys)
    assert code == "no_photos"
    assert "calibrate int8" in text
    assert "--calibration" in text
    shutil.copytree(PHOTOS, tmp_path / "photos", dirs_exist_ok=True)
    (tmp_path / "photos" / "half.jpg").write_bytes(photo("chelsea")[:2000])
    assert build(recipe, repository, *wanted, "--json") == 0
    printed = capsys.readouterr()
    assert "left out of the calibration: " in printed.err
    assert "half.jpg: truncated JPEG" in printed.err
    assert json.loads(printed.out)["details"]["calibration_images"] == 7


def test_a_photo_that_cannot_be_decoded_ends_the_build(recipe, repository, tmp_path, capsys):
    shutil.copytree(PHOTOS, tmp_path / "photos")
    (tmp_path / "photos" / "half.jpg").write_bytes(photo("chelsea")[:2000])
    assert build(recipe, repository, "--photos", str(tmp_path / "photos")) == 1
    text, code = failure(capsys)
    assert code == "invalid_photo"
    assert "half.jpg" in text
    assert not (repository / "classifier_onnx").exists()


def test_a_precision_that_a_backend_does_not_have_is_refused(recipe, repository, capsys):
    assert build(recipe, repository, "--precision", "bf16") == 2
    text, code = failure(capsys)
    assert code == "invalid_call"
    assert "onnx has the precisions fp32, fp16, int8, not bf16" in text


def test_calibration_is_refused_where_nothing_is_calibrated(recipe, repository, tmp_path, capsys):
    assert build(recipe, repository, "--calibration", str(tmp_path)) == 2
    text, code = failure(capsys)
    assert code == "invalid_call"
    assert "--calibration is for int8" in text


def test_a_folder_named_like_a_photo_is_ignored(recipe, repository, tmp_path):
    shutil.copytree(PHOTOS, tmp_path / "photos")
    (tmp_path / "photos" / "album.jpg").mkdir()
    assert build(recipe, repository, "--photos", str(tmp_path / "photos")) == 0


def changed_network(folder, change):
    """The small network with its weights, by name, changed."""
    small_network(folder)
    model = onnx.load(str(folder / "small.onnx"))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(change(tensor.name, numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, str(folder / "small.onnx"))
    (folder / "small.toml").write_text(SMALL_RECIPE)
    return model, folder / "small.toml"


def test_a_network_that_is_itself_in_half_precision_is_judged_as_one(repository, tmp_path, capsys):
    model, recipe = changed_network(tmp_path, lambda _, values: values.astype(np.float16))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, str(tmp_path / "small.onnx"))
    assert build(recipe, repository, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["precision"] == "fp32"
    assert report["tolerance"] == msgspec.to_builtins(TOLERANCES["fp16"])
    assert main(["verify", "onnx", "--model-repository", str(repository), "--recipe", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tolerance"] == msgspec.to_builtins(TOLERANCES["fp16"])


def test_a_network_with_nan_in_its_output_is_refused(repository, tmp_path, capsys):
    _, recipe = changed_network(tmp_path, lambda name, values: values * (np.nan if name == "bias" else 1))
    assert build(recipe, repository) == 1
    text, code = failure(capsys)
    assert code == "network_not_finite"
    assert "small.onnx: the network itself" in text
    assert not (repository / "classifier_onnx").exists()


def test_auto_goes_on_without_a_precision_outside_its_tolerance(recipe, repository, capsys, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "int8", msgspec.structs.replace(TOLERANCES["int8"], relative_difference=0.0))
    assert build(recipe, repository, "--precision", "auto") == 0
    printed = capsys.readouterr()
    assert "int8: left out: the int8 artefact does not compute what the network computes" in printed.err
    assert "int8: outside its tolerance" in printed.out
    assert "Nothing was put in place" not in printed.err
    assert build(recipe, repository, "--precision", "int8", "--version", "2") == 1
    text, code = failure(capsys)
    assert code == "parity"
    assert "Nothing was put in place" in text
    # The remedy for a calibration on few images.
    assert "7 images" in text
    assert "--calibration" in text
    assert not artefact(repository, 2).exists()


def test_a_full_disk_is_an_error_and_no_abort(repository):
    """TorchScript's own writer aborts where it cannot write."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
        "from jpeg_build.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    recipe = repository.with_name("squeeze.toml")
    recipe.write_text(
        SMALL_RECIPE.split("[source]")[0]
        .replace("classes = 3", "classes = 1000")
        .replace("small.txt", str(RECIPES / "imagenet.txt"))
        .replace("= 32", "= 64")
        + '[source]\nkind = "torchvision"\nnetwork = "squeezenet1_1"\nweights = "IMAGENET1K_V1"\n'
    )
    wanted = ["--backend", "torch_tensorrt", "--no-trt", "--weights", "none", "--model-repository", str(repository)]
    done = run(sys.executable, "-c", limited, str(recipe), *wanted)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert [path.name for path in repository.iterdir()] == [".jpeg-build.lock"]


def test_verify_checks_the_server_before_it_loads_a_network(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    arguments = ["verify", "onnx", "--model-repository", str(repository), "--recipe", str(recipe), "--server"]
    capsys.readouterr()
    for server, code, expected in (
        ("localhost", "invalid_call", "HOST:PORT"),
        ("localhost:1", "server_unavailable", "no Triton server answers there over gRPC"),
    ):
        assert main([*arguments, server]) == 1
        text, found = failure(capsys)
        assert found == code
        assert expected in text
        assert text.count("\n") == 1, text


def test_the_docs_have_the_tolerances_that_count():
    text = (ROOT / "docs" / "classifiers.md").read_text()
    for precision, tolerance in TOLERANCES.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {precision} |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]

        def number(cell):
            digits = re.search(r"[\d.]+", cell)
            return 1.0 if digits is None else float(digits[0]) / (100 if "%" in cell else 1)

        assert [number(cell) for cell in cells] == [
            *(tolerance.relative_difference, tolerance.mean_difference),
            *(tolerance.top1_agreement, tolerance.top5_overlap, tolerance.tie),
        ], row
        if tolerance.outlier_difference is not None:
            assert f"in one photo of twenty {tolerance.outlier_difference:.2f}" in cells[0]


def test_a_build_prints_a_summary_unless_json_is_requested(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("classifier_onnx/1: small in fp32")
    assert "3 classes" in printed.out
    assert "{" not in printed.out
    # Steps and notes are no result.
    assert all(line.startswith("jpeg-build: ") for line in printed.err.splitlines())
    assert build(recipe, repository, "--json") == 0
    assert json.loads(capsys.readouterr().out) == to_json(read_report(artefact(repository) / "model.onnx"))


def test_the_report_of_a_build_states_how_it_was_checked(recipe, repository):
    assert build(recipe, repository) == 0
    report = read_report(artefact(repository) / "model.onnx")
    assert (report.recipe, report.form, report.precision, report.classes) == ("small", "onnx", "fp32", 3)
    assert report.input == [32, 32, 3]
    assert (report.parity.photos, report.parity.random_images) == (7, 8)
    assert {1, 2, 3, 16, 64} <= set(report.parity.batches)
    assert report.parity.neighbour_difference <= report.tolerance.relative_difference
    assert report.tolerance.relative_difference == TOLERANCES["fp32"].relative_difference
    assert report.requested["precision"] == "fp32"
    assert {"python", "onnxruntime", "numpy"} <= set(report.versions)
    labels = (artefact(repository).parent / "labels.txt").read_text().split()
    assert report.probe
    assert all(labels[each.index] == each.label for each in report.probe)
    # Equal builds, equal reports.
    text = (artefact(repository) / "model.json").read_bytes()
    assert build(recipe, repository) == 0
    assert (artefact(repository) / "model.json").read_bytes() == text


def test_an_artefact_whose_logits_depend_on_neighbours_is_not_put_in_place(recipe, repository, capsys, monkeypatch):
    right = IsolatedClassifier.__call__

    def wrong_behind_the_first(self, pixels):
        logits = right(self, pixels)
        logits[1:] += np.float32(0.5)
        return logits

    monkeypatch.setattr(IsolatedClassifier, "__call__", wrong_behind_the_first)
    assert build(recipe, repository) == 1
    text, code = failure(capsys)
    assert code == "parity"
    assert "neighbours" in text
    assert not (repository / "classifier_onnx").exists()


def test_other_parameters_of_a_form_are_tried_outside_the_tolerance(recipe, repository, capsys, monkeypatch):
    right = run_as_served

    def wrong_without_the_hint(recipe, config, *more):
        outputs, probe = right(recipe, config, *more)
        if "PERFORMANCE_HINT" not in model_config.parameters(config):
            outputs = replace(outputs, logits=tuple(logits + 1 for logits in outputs.logits))
        return outputs, probe

    with monkeypatch.context() as patch:
        patch.setattr(candidates, "run_as_served", wrong_without_the_hint)
        assert build(recipe, repository, "--backend", "openvino") == 0
    text = capsys.readouterr().err
    assert "note: the config gets PERFORMANCE_HINT: LATENCY" in text
    config = config_of(repository, "classifier_openvino")
    assert model_config.parameters(config) == {"PERFORMANCE_HINT": "LATENCY"}
    report = read_report(artefact(repository, backend="openvino") / "model.xml")
    assert report.config.parameters == {"PERFORMANCE_HINT": "LATENCY"}
    assert report.parity.relative_difference <= report.tolerance.relative_difference
    # A later artefact that does not need it goes without.
    assert build(recipe, repository, "--backend", "openvino") == 0
    assert model_config.parameters(config_of(repository, "classifier_openvino")) == {}


def test_a_runtime_that_crashes_ends_the_build_with_a_reason(recipe, repository, capsys, monkeypatch):
    right = IsolatedClassifier.__call__

    def crash(self, pixels):
        os.kill(self._process.pid, signal.SIGSEGV)
        return right(self, pixels)

    monkeypatch.setattr(IsolatedClassifier, "__call__", crash)
    assert build(recipe, repository) == 1
    text, code = failure(capsys)
    assert code == "runtime_crashed"
    assert "SIGSEGV" in text
    assert not (repository / "classifier_onnx").exists()


def test_the_users_edits_of_the_config_are_part_of_the_check(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    edit(
        repository / "classifier_onnx" / "config.pbtxt",
        'backend: "onnxruntime"',
        'backend: "onnxruntime"\nparameters { key: "execution_mode" value { string_value: "7" } }',
    )
    capsys.readouterr()
    assert build(recipe, repository, "--precision", "fp16") == 1
    text, code = failure(capsys)
    assert code == "invalid_setting"
    assert "execution_mode" in text


@pytest.mark.parametrize("command", [[], ["build"], ["init"], ["use"], ["verify"], ["inspect"]], ids=" ".join)
def test_help_names_every_option_with_its_default(command, capsys):
    assert main([*command, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "[default: ]" not in printed.out
    # Each option with its description, unwrapped.
    boxes = "\n".join(line for line in printed.out.splitlines() if line.startswith("│"))
    rows = [" ".join(row.replace("│", " ").split()) for row in re.split("^│ (?=--)", boxes, flags=re.MULTILINE)]
    described = {row.split()[0]: row for row in rows if row.startswith("--")}
    arguments = app[command[0] if command else "build"].assemble_argument_collection()
    options = [argument for argument in arguments if argument.name.startswith("--")]
    assert options
    # Without them, the network or a question on the terminal answers.
    facts = [f"--{name.replace('_', '-')}" for name in Facts.__dataclass_fields__]
    for option in options:
        default, text = option.field_info.default, described[option.name]
        if default is None and option.name not in ("--checkpoint", "--keep-onnx", *facts):
            assert "(default: " in text
        elif default not in (None, False):
            assert f"[default: {default}]" in text


def test_the_version_is_the_projects(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == project_version()


def test_a_network_that_gives_all_photos_one_class_or_flat_scores_is_reported_loudly(repository, tmp_path, capsys):
    _, recipe = changed_network(tmp_path, lambda name, values: values * (0 if name == "matrix" else 1))
    assert build(recipe, repository) == 0
    captured = capsys.readouterr().err
    assert "warning: ALL 7 PHOTOS GET ONE CLASS, one: " in captured
    assert "warning: THE SCORES ARE FLAT: the highest of all photos is 0.4" in captured
    assert str(recipe) in captured


def test_a_network_that_tells_photos_apart_gets_no_warning(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    assert "warning" not in capsys.readouterr().err
