"""jpeg-build's commands on a repository with a small network of the test's own."""

import json
import re
import shutil
import sys
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
from jpeg_build import configs
from jpeg_build import report as reports
from jpeg_build.cli import main
from jpeg_build.parity import TOLERANCES
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


def ensembles_word(repository):
    return configs.chosen_classifier(configs.parse((repository / "jpeg_classifier/config.pbtxt").read_text()))


def served(repository, backend="onnx"):
    return configs.pinned_version(configs.parse((repository / f"classifier_{backend}/config.pbtxt").read_text()))


def test_versions_lie_side_by_side_and_going_back_is_one_command(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    first = (artefact(repository) / "model.onnx").read_bytes()
    assert build(recipe, repository, "--version", "2", "--precision", "fp16") == 0
    assert (artefact(repository) / "model.onnx").read_bytes() == first
    assert (artefact(repository, 2) / "model.onnx").read_bytes() != first
    assert served(repository) is None

    where = ["--model-repository", str(repository)]
    assert main(["use", "onnx", "--version", "1", *where]) == 0
    assert served(repository) == 1
    # Without --version the newest is built anew, and the user is told what is served.
    capsys.readouterr()
    assert build(recipe, repository) == 0
    assert (artefact(repository, 2) / "model.onnx").read_bytes() == first
    remedy = f"to serve version 2: jpeg-build use onnx --version 2 --model-repository {repository}"
    assert f"classifier_onnx serves version 1; {remedy}" in capsys.readouterr().err
    assert main(["use", "onnx", "--version", "newest", *where]) == 0
    assert served(repository) is None
    assert main(["use", "onnx", "--version", "7", *where]) == 1
    assert "version 7 of classifier_onnx is not built: build it with jpeg-build small --backend onnx --version 7" in (
        capsys.readouterr().err
    )


def test_a_build_of_another_recipe_says_how_the_ensemble_can_be_served_again(recipe, repository, tmp_path, capsys):
    where = f"--model-repository {repository}"
    small_network(tmp_path)
    other = tmp_path / "other.toml"
    other.write_text(SMALL_RECIPE)
    edit(other, "resize_size = 32", "resize_size = 40")
    assert build(recipe, repository, "--backend", "openvino") == 0
    capsys.readouterr()
    assert build(other, repository) == 0
    said = capsys.readouterr().err
    assert "THE ENSEMBLE CANNOT BE SERVED AS IT IS" in said
    assert f"Run jpeg-build use onnx {where}, or jpeg-build {other} --backend openvino {where}" in said

    # What was built from another recipe is not taken into use, either.
    assert main(["use", "openvino", *where.split()]) == 1
    said = capsys.readouterr().err
    assert "built from the recipe small, and preprocess and postprocess are of other" in said
    assert (
        f"build it with jpeg-build other --backend openvino --version 1 {where}, or go back to its recipe with " in said
    )
    assert main(["use", "onnx", *where.split()]) == 0
    assert f"one that runs, with: jpeg-serve reload {where}" in capsys.readouterr().err


def test_use_changes_one_word_and_refuses_what_is_not_built(recipe, repository, capsys):
    where = ["--model-repository", str(repository)]
    assert main(["use", "onnx", *where]) == 1
    assert build(recipe, repository) == build(recipe, repository, "--backend", "openvino") == 0
    assert ensembles_word(repository) == "classifier_onnx"  # a build keeps the choice
    path = repository / "jpeg_classifier" / "config.pbtxt"
    path.write_text("# mine\n" + path.read_text())
    before = path.read_text()
    assert main(["use", "openvino", *where]) == 0
    assert path.read_text() == before.replace("classifier_onnx", "classifier_openvino")
    capsys.readouterr()
    assert main(["use", "tensorrt", *where]) == 1
    assert (
        f"classifier_tensorrt is not built: build it with jpeg-build small --backend tensorrt --model-repository "
        f"{repository}; built are onnx, openvino"
    ) in capsys.readouterr().err
    assert ensembles_word(repository) == "classifier_openvino"


def test_verify_asks_again(recipe, repository, capsys):
    assert build(recipe, repository, "--backend", "openvino") == 0
    where = ["--model-repository", str(repository), "--recipe", str(recipe)]
    capsys.readouterr()
    assert main(["verify", "openvino", *where, "--speed"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parity"]["relative_difference"] < 1e-5
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
    assert "the fp32 artefact does not compute what the network computes" in capsys.readouterr().err


def test_verify_knows_which_recipe_it_was(recipe, repository, tmp_path, capsys):
    assert build(recipe, repository) == 0
    where = ["--model-repository", str(repository)]
    assert main(["verify", "onnx", *where]) == 1
    assert "from a recipe 'small' that is not in build/recipes: name it with --recipe FILE" in capsys.readouterr().err
    assert main(["verify", "onnx", *where, "--recipe", "mobilenet_v2"]) == 1
    assert "was built from another recipe, or an older state of it" in capsys.readouterr().err


def test_inspect_shows_what_is_inside(recipe, repository, capsys):
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
    assert "photo.jpg: is neither a backend" in capsys.readouterr().err
    assert main(["inspect", str(recipe.with_name("small.onnx"))]) == 0
    (repository / "empty.onnx").touch()
    assert main(["inspect", str(repository / "empty.onnx")]) == 1
    assert "is no ONNX file with a network in it" in capsys.readouterr().err


def test_auto_takes_the_fastest_within_tolerance(recipe, repository, capsys):
    assert build(recipe, repository, "--precision", "auto") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    speeds = report["images_per_second"]
    assert set(speeds) == {"fp32", "fp16", "int8"}
    within = {name: speed for name, speed in speeds.items() if speed is not None}
    assert report["precision"] == max(within, key=within.__getitem__)
    assert f"{report['precision']}: " in said.err
    assert reports.read(artefact(repository) / "model.json") == report
    assert build(recipe, repository, "--precision", "auto", "--if-needed") == 0
    assert "up to date" in capsys.readouterr().err
    assert build(recipe, repository, "--precision", "fp32", "--if-needed") == 0
    assert "up to date" not in capsys.readouterr().err


def test_going_back_to_a_version_of_another_precision_takes_its_settings_back(recipe, repository):
    assert build(recipe, repository, "--backend", "openvino") == 0
    assert build(recipe, repository, "--backend", "openvino", "--precision", "bf16", "--version", "2") == 0

    def hint():
        config = configs.parse((repository / "classifier_openvino/config.pbtxt").read_text())
        return config.parameters["HINT_BF16"].string_value if "HINT_BF16" in config.parameters else None

    where = ["--model-repository", str(repository)]
    assert hint() == "YES"
    assert main(["use", "openvino", "--version", "1", *where]) == 0
    assert hint() is None
    # What is built, but not served, leaves the config alone.
    assert build(recipe, repository, "--backend", "openvino", "--precision", "bf16", "--version", "2") == 0
    assert hint() is None
    assert main(["use", "openvino", "--version", "newest", *where]) == 0
    assert hint() == "YES"


def test_auto_goes_on_without_a_precision_that_cannot_be_built(recipe, repository, capsys, monkeypatch):
    from jpeg_build import precision
    from jpeg_build.errors import NetworkError

    def refuse(*_):
        raise NetworkError("no layer of this network can be int8")

    monkeypatch.setattr(precision, "quantise", refuse)
    assert build(recipe, repository, "--precision", "auto") == 0
    said = capsys.readouterr()
    assert "int8: left out: no layer of this network can be int8" in said.err
    assert json.loads(said.out)["images_per_second"]["int8"] is None


def test_an_option_that_would_do_nothing_is_refused(recipe, repository, capsys):
    assert build(recipe, repository, "--per-gpu") == 2
    assert "--per-gpu means something to tensorrt only, not to onnx" in capsys.readouterr().err
    assert build(recipe, repository, "--backend", "tensorrt", "--max-batch", "8", "--opt-batch", "9") == 2
    assert "not in this order" in capsys.readouterr().err
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


def test_calibration_leaves_out_what_cannot_be_decoded_and_says_so(recipe, repository, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    wanted = ["--precision", "int8", "--calibration", str(tmp_path / "photos")]
    assert build(recipe, repository, *wanted) == 1
    assert "there is no JPEG to calibrate int8 on; name a folder that has some with --calibration" in (
        capsys.readouterr().err
    )
    shutil.copytree(PHOTOS, tmp_path / "photos", dirs_exist_ok=True)
    (tmp_path / "photos" / "half.jpg").write_bytes(photo("chelsea")[:2000])
    assert build(recipe, repository, *wanted) == 0
    said = capsys.readouterr()
    assert "left out of the calibration: " in said.err
    assert "half.jpg: truncated JPEG" in said.err
    assert json.loads(said.out)["details"]["calibration_images"] == 7


def test_a_precision_that_a_backend_does_not_have_is_refused(recipe, repository, capsys):
    assert build(recipe, repository, "--precision", "bf16") == 2
    assert "onnx has the precisions fp32, fp16, int8, not bf16" in capsys.readouterr().err


def test_calibration_is_refused_where_nothing_is_calibrated(recipe, repository, tmp_path, capsys):
    assert build(recipe, repository, "--calibration", str(tmp_path)) == 2
    assert "--calibration is for int8 (or auto); fp32 needs none" in capsys.readouterr().err


def test_a_folder_named_like_a_photo_is_none(recipe, repository, tmp_path):
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
    assert build(recipe, repository) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["precision"] == "fp32"
    assert report["tolerance"] == asdict(TOLERANCES["fp16"])
    assert main(["verify", "onnx", "--model-repository", str(repository), "--recipe", str(recipe)]) == 0
    assert json.loads(capsys.readouterr().out)["tolerance"] == asdict(TOLERANCES["fp16"])


def test_a_network_that_answers_nan_is_named_for_that(repository, tmp_path, capsys):
    _, recipe = changed_network(tmp_path, lambda name, values: values * (np.nan if name == "bias" else 1))
    assert build(recipe, repository) == 1
    assert "ONNX file small.onnx: the network itself, in fp32, answers NaN or infinity" in capsys.readouterr().err
    assert not (repository / "classifier_onnx").exists()


def test_what_auto_leaves_out_ends_nothing(recipe, repository, capsys, monkeypatch):
    monkeypatch.setitem(TOLERANCES, "int8", replace(TOLERANCES["int8"], relative_difference=0.0))
    assert build(recipe, repository, "--precision", "auto") == 0
    said = capsys.readouterr().err
    assert "int8: left out: the int8 artefact does not compute what the network computes" in said
    assert "Nothing was put in place" not in said
    assert build(recipe, repository, "--precision", "int8") == 1
    said = capsys.readouterr().err
    assert "came from 7 images: take more of them" in said
    assert "Nothing was put in place" in said


def test_a_disk_that_is_full_ends_no_process(repository):
    """TorchScript's own writer aborts where it cannot write."""
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
        "from jpeg_build.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    recipe = repository.with_name("squeeze.toml")
    recipe.write_text(
        SMALL_RECIPE.split("[source]")[0]
        .replace("classes = 3", "classes = 1000")
        .replace("small.txt", str(ROOT / "build" / "recipes" / "imagenet.txt"))
        .replace("= 32", "= 64")
        + '[source]\nkind = "torchvision"\nnetwork = "squeezenet1_1"\nweights = "IMAGENET1K_V1"\n'
    )
    wanted = ["--backend", "torch_tensorrt", "--no-trt", "--weights", "none", "--model-repository", str(repository)]
    done = run(sys.executable, "-c", limited, str(recipe), *wanted)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert [path.name for path in repository.iterdir()] == [".jpeg-build.lock"]


def test_verify_says_what_is_wrong_with_a_server_before_it_loads_a_network(recipe, repository, capsys):
    assert build(recipe, repository) == 0
    arguments = ["verify", "onnx", "--model-repository", str(repository), "--recipe", str(recipe), "--server"]
    capsys.readouterr()
    for server, said in (
        ("localhost", "is not HOST:PORT, the server's gRPC port, usually 8001"),
        ("localhost:1", "no Triton server answers there by gRPC (usually port 8001; 8000 is HTTP's)"),
    ):
        assert main([*arguments, server]) == 1
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1, error


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


def test_the_digest_of_an_artefact_covers_all_of_its_files(tmp_path):
    (tmp_path / "model.xml").write_text("x")
    (tmp_path / "model.bin").write_text("b")
    first = reports.artefact_sha256(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_text("c")
    assert reports.artefact_sha256(tmp_path / "model.xml") != first
    saved = tmp_path / "model.savedmodel"
    (saved / "variables").mkdir(parents=True)
    (saved / "saved_model.pb").write_text("p")
    first = reports.artefact_sha256(saved)
    (saved / "variables" / "data").write_text("d")
    assert reports.artefact_sha256(saved) != first
    assert reports.artefact_bytes(saved) == 2


@pytest.mark.parametrize("command", [[], ["use"], ["verify"], ["inspect"]])
def test_help_says_what_each_option_is_by_default(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    options = text.count("\n  --")
    assert text.count("(default") >= options - 1 > 0
