"""jpeg-build's commands on a repository with a small network of the test's own."""

import json
import shutil

import numpy as np
import pytest
from jpeg_build import configs
from jpeg_build import report as reports
from jpeg_build.cli import main
from support import PHOTOS, SMALL_RECIPE, photo, small_network


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
    assert (
        "classifier_onnx serves version 1, as you chose; to serve version 2: jpeg-build use" in capsys.readouterr().err
    )
    assert main(["use", "onnx", "--version", "newest", *where]) == 0
    assert served(repository) is None
    assert main(["use", "onnx", "--version", "7", *where]) == 1
    assert "version 7 of classifier_onnx is not built: build it with jpeg-build small --backend onnx --version 7" in (
        capsys.readouterr().err
    )


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
    for what in ("onnx", "openvino", str(artefact(repository) / "model.onnx")):
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
    assert build(recipe, repository, "--precision", "bf16") == 1
    assert "onnx has the precisions fp32, fp16, int8, not bf16" in capsys.readouterr().err


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
