import json
import signal
from pathlib import Path

import pytest
from google.protobuf import text_format
from jpeg_build.errors import RepositoryError
from jpeg_build.recipe.recipe import RECIPES, load_recipe
from jpeg_build.repository import configs, tree
from jpeg_contract import model_config
from jpeg_contract.forms import FORMS
from jpeg_contract.model_config import KIND_AUTO, KIND_GPU, ConfigError
from jpeg_contract.report import ConfigSettings
from jpeg_contract.settings import PostprocessSettings, PreprocessSettings

MOBILENET, RESNET = (load_recipe(RECIPES / f"{name}.toml") for name in ("mobilenet_v2", "resnet50"))


def all_configs(recipe, classifier="classifier_onnx"):
    built = (
        configs.preprocess_config(recipe),
        configs.classifier_config(recipe, FORMS["onnx"]),
        configs.postprocess_config(recipe),
        configs.ensemble_config(classifier),
    )
    return {config.name: config for config in built}


def stage(path, built):
    with tree.staging(path) as folder:
        tree.stage_configs(path, folder, built)
        staged = sorted(file.parent.name for file in folder.rglob("config.pbtxt"))
        tree.place(folder, path)
    return staged


def test_text_and_message_are_the_same_config():
    for config in all_configs(MOBILENET).values():
        assert model_config.parse(configs.to_text(config)) == config


def test_the_word_to_edit_is_marked_once():
    text = configs.to_text(configs.ensemble_config("classifier_onnx"))
    (line,) = [line for line in text.splitlines() if "classifier_onnx" in line]
    assert "swap" in line
    swapped = model_config.parse(text.replace("classifier_onnx", "classifier_tensorrt"))
    assert model_config.chosen_classifier(swapped) == "classifier_tensorrt"


def test_a_rebuild_keeps_the_users_choices(tmp_path):
    assert stage(tmp_path, all_configs(MOBILENET)) == [
        "classifier_onnx",
        "jpeg_classifier",
        "postprocess",
        "preprocess",
    ]

    ensemble = tmp_path / "jpeg_classifier" / "config.pbtxt"
    ensemble.write_text(ensemble.read_text().replace("classifier_onnx", "classifier_tensorrt"))
    preprocess = tmp_path / "preprocess" / "config.pbtxt"
    mine = preprocess.read_text().replace('"scaled"', '"full"').replace("count: 2", "count: 3")
    mine = mine.replace("max_batch_size: 64", "max_batch_size: 16") + 'metric_tags { key: "team" value: "vision" }\n'
    preprocess.write_text("# mine\n" + mine)
    ensemble.write_text(ensemble.read_text() + 'output { name: "pixels" data_type: TYPE_UINT8 dims: [224, 224, 3] }\n')
    edited = ensemble.read_text()

    assert stage(tmp_path, all_configs(RESNET)) == ["postprocess", "preprocess"]
    assert ensemble.read_text() == edited
    kept = model_config.parse(preprocess.read_text())
    assert kept.parameters["decoder"].string_value == "full"
    assert kept.instance_group[0].count == 3
    assert kept.max_batch_size == 16
    assert kept.metric_tags["team"] == "vision"
    # The rest is the recipe's.
    assert kept.parameters["resize_size"].string_value == "232"
    assert kept.parameters["recipe"].string_value == "resnet50"


def test_an_unchanged_config_keeps_its_comments(tmp_path):
    stage(tmp_path, all_configs(MOBILENET))
    file = tmp_path / "preprocess" / "config.pbtxt"
    file.write_text("# why three: measured on Tuesday\n" + file.read_text())
    assert stage(tmp_path, all_configs(MOBILENET)) == []
    assert file.read_text().startswith("# why three")


def test_a_config_that_cannot_be_read_is_not_thrown_away(tmp_path):
    stage(tmp_path, all_configs(MOBILENET))
    file = tmp_path / "preprocess" / "config.pbtxt"
    file.write_text("max_batch: 3")
    with pytest.raises(RepositoryError, match=r"preprocess/config\.pbtxt:1: cannot be parsed: .*max_batch") as caught:
        stage(tmp_path, all_configs(RESNET))
    assert caught.value.reason == "invalid_repository"
    assert file.read_text() == "max_batch: 3"
    assert model_config.parse((tmp_path / "postprocess" / "config.pbtxt").read_text()).parameters[
        "recipe"
    ].string_value == ("mobilenet_v2")


def test_either_all_files_are_placed_or_none(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_text("old")
    replace = Path.replace

    def full_disk(self, target):
        if self.name == "3" and "-staging" not in str(target):
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with tree.staging(tmp_path) as folder:
        (folder / "a").mkdir()
        for name in ("1", "2", "3"):
            (folder / "a" / name).write_text("new")
        monkeypatch.setattr(Path, "replace", full_disk)
        with pytest.raises(RepositoryError, match="No space left on device; what was there is untouched"):
            tree.place(folder, tmp_path)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["1"]
    assert (tmp_path / "a" / "1").read_text() == "old"
    assert not list(tmp_path.glob(".staging-*"))


def test_a_signal_while_files_are_placed_waits(tmp_path, monkeypatch):
    replace = Path.replace

    def interrupted(self, target):
        signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    with tree.staging(tmp_path) as folder:
        for name in ("1", "2", "3"):
            (folder / name).write_text("new")
        monkeypatch.setattr(Path, "replace", interrupted)
        # Whoever started the tests may have had it ignored, as a shell does for what runs in the background.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                tree.place(folder, tmp_path)
        finally:
            signal.signal(signal.SIGINT, before)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["1", "2", "3"]


def test_two_builds_at_once_are_refused(tmp_path):
    with (
        tree.staging(tmp_path),
        pytest.raises(RepositoryError, match="another jpeg-build") as caught,
        tree.staging(tmp_path),
    ):
        pass
    assert caught.value.reason == "repository_busy"


def test_leftovers_of_a_killed_build_are_removed(tmp_path):
    (tmp_path / ".staging-old" / "classifier_onnx").mkdir(parents=True)
    with tree.staging(tmp_path):
        assert not (tmp_path / ".staging-old").exists()


def test_a_repository_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError, match="cannot be written") as caught, tree.staging(tmp_path / "file"):
        pass
    assert caught.value.reason == "invalid_repository"


def test_a_savedmodel_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    saved = Path("classifier_tf_trt/1/model.savedmodel")
    old = {"saved_model.pb": "old", "assets/engine": "old engine"}
    for name, text in old.items():
        (tmp_path / saved / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / saved / name).write_text(text)

    def stage_new(folder):
        (folder / saved / "variables").mkdir(parents=True)
        (folder / saved / "saved_model.pb").write_text("new")
        (folder / saved / "variables" / "data").write_text("new")

    def contents():
        return {
            path.relative_to(tmp_path / saved).as_posix(): path.read_text()
            for path in (tmp_path / saved).rglob("*")
            if path.is_file()
        }

    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.name == "engine":
            raise OSError(13, "Permission denied")
        unlink(self, missing_ok=missing_ok)

    with tree.staging(tmp_path) as folder:
        stage_new(folder)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            with pytest.raises(RepositoryError, match="what was there is untouched"):
                tree.place(folder, tmp_path)
    assert contents() == old

    with tree.staging(tmp_path) as folder:
        stage_new(folder)
        tree.place(folder, tmp_path)
    assert contents() == {"saved_model.pb": "new", "variables/data": "new"}


def test_every_form_has_the_same_tensors():
    found = [configs.classifier_config(MOBILENET, form) for form in FORMS.values()]
    for config in found:
        assert list(config.input) == list(found[0].input)
        assert list(config.output) == list(found[0].output)
        assert config.output[0].label_filename == "labels.txt"
    assert {config.backend for config in found} == {"onnxruntime", "openvino", "tensorrt", "pytorch", "tensorflow"}


def test_the_word_is_changed_and_nothing_else():
    text = configs.to_text(configs.ensemble_config("classifier_onnx")) + "# mine\n"
    changed = model_config.choose_classifier(text, "classifier_tensorrt")
    assert changed == text.replace("classifier_onnx", "classifier_tensorrt")
    oneline = 'ensemble_scheduling { step { model_name: \'a\' output_map { key: "output__0" value: "x" } } }'
    assert model_config.choose_classifier(oneline, "b") == oneline.replace("'a'", '"b"')
    with pytest.raises(ValueError, match="no step makes output__0"):
        model_config.choose_classifier("ensemble_scheduling { step { model_name: 'a' } }", "b")
    with pytest.raises(ValueError, match="does not stand there as one word"):
        model_config.choose_classifier(oneline.replace("'a'", "'a' 'b'"), "c")


def test_engines_by_gpu_are_kept_beside_each_other_and_one_for_all_replaces_them():
    config = configs.classifier_config(MOBILENET, FORMS["tensorrt"])
    for capability in ("8.0", "9.0"):
        engines = {capability: f"model_sm{capability.replace('.', '')}.plan"}
        configs.apply_settings(config, "fp32", ConfigSettings(on_gpu=True, max_batch=64, engines=engines))
    assert dict(config.cc_model_filenames) == {"8.0": "model_sm80.plan", "9.0": "model_sm90.plan"}
    configs.apply_settings(config, "fp32", ConfigSettings(on_gpu=True, max_batch=64))
    assert not config.cc_model_filenames


def test_an_engine_moves_its_instances_to_the_gpu_and_a_plain_network_back():
    config = configs.classifier_config(MOBILENET, FORMS["torch_tensorrt"])
    config.instance_group[0].count = 3
    engine, plain = ConfigSettings(on_gpu=True, max_batch=32), ConfigSettings()
    configs.apply_settings(config, "fp16", engine)
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (3, KIND_GPU)
    config.instance_group[0].gpus.append(1)
    configs.apply_settings(config, "fp32", plain, engine)
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (3, KIND_AUTO)
    # A classifier that may run on either stays where the user put it.
    config.instance_group[0].kind = KIND_GPU
    configs.apply_settings(config, "fp32", plain, plain)
    assert config.instance_group[0].kind == KIND_GPU


@pytest.mark.parametrize(
    ("found", "before", "now", "wanted"),
    [
        (64, None, 128, 128),  # as it is committed
        (64, None, 8, 8),
        (8, 8, 64, 64),  # it followed the engine
        (64, 64, None, 64),
        (16, 64, 128, 16),  # the user's own
        (16, 64, 8, 8),  # which no engine can keep
        (8, 8, None, 64),
    ],
)
def test_max_batch_size_follows_the_engine_unless_it_is_the_users(found, before, now, wanted):
    config = configs.classifier_config(MOBILENET, FORMS["tensorrt"])
    config.max_batch_size = found
    configs.apply_settings(
        config, "fp32", ConfigSettings(max_batch=now), None if before is None else ConfigSettings(max_batch=before)
    )
    assert config.max_batch_size == wanted


def test_an_artefacts_parameters_come_and_go_with_it():
    config = configs.classifier_config(MOBILENET, FORMS["openvino"])
    config.parameters["NUM_STREAMS"].string_value = "2"
    configs.apply_settings(config, "fp32", ConfigSettings(parameters={"HINT_BF16": "YES"}))
    assert config.parameters["HINT_BF16"].string_value == "YES"
    configs.apply_settings(config, "fp32", ConfigSettings())
    assert model_config.parameters(config) == {"NUM_STREAMS": "2"}


def test_a_parameter_that_was_edited_since_is_the_users():
    before = ConfigSettings(parameters={"PERFORMANCE_HINT": "LATENCY"})
    for text, kept in (("LATENCY", {}), ("THROUGHPUT", {"PERFORMANCE_HINT": "THROUGHPUT"})):
        config = configs.classifier_config(MOBILENET, FORMS["openvino"])
        configs.apply_settings(config, "fp32", before)
        assert model_config.parameters(config) == {"PERFORMANCE_HINT": "LATENCY"}
        config.parameters["PERFORMANCE_HINT"].string_value = text
        configs.apply_settings(config, "fp32", ConfigSettings(), before)
        assert model_config.parameters(config) == kept


def test_a_version_is_pinned_and_released():
    config = configs.classifier_config(MOBILENET, FORMS["onnx"])
    assert model_config.pinned_version(config) is None
    pinned = model_config.pin_version(config, 3)
    assert model_config.pinned_version(pinned) == 3
    # A rebuild keeps the choice.
    assert model_config.pinned_version(configs.keep_users_choices(config, pinned)) == 3
    released = model_config.pin_version(pinned)
    assert model_config.pinned_version(released) is None
    assert released.version_policy.latest.num_versions == 1
    pinned.version_policy.specific.versions[:] = [1, 4, 2]
    assert model_config.pinned_version(pinned) == 4  # what the ensemble gets


def test_the_settings_of_the_models_are_those_of_the_recipe():
    preprocess = PreprocessSettings.from_parameters(model_config.parameters(configs.preprocess_config(RESNET)))
    assert preprocess.geometry == RESNET.geometry
    assert (preprocess.recipe, preprocess.recipe_sha256) == ("resnet50", RESNET.sha256)
    postprocess = PostprocessSettings.from_parameters(model_config.parameters(configs.postprocess_config(RESNET)))
    assert (postprocess.recipe, postprocess.recipe_sha256) == ("resnet50", RESNET.sha256)


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
def test_a_form_decides_backend_platform_and_instances(form):
    config = configs.classifier_config(MOBILENET, form)
    assert (config.name, config.backend, config.platform) == (form.model, form.backend, form.platform)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config.ModelInstanceGroup.Kind.Value(f"KIND_{form.instance_kind}"))
    stays_on_gpu = model_config.parameters(config).get("FORCE_CPU_ONLY_INPUT_TENSORS") == "no"
    assert stays_on_gpu == form.takes_device_tensors


# Reading


def test_a_missing_config_is_told_from_an_invalid_one(tmp_path):
    path = tmp_path / "config.pbtxt"
    with pytest.raises(ConfigError) as caught:
        model_config.read(path)
    assert (caught.value.missing, caught.value.reason) == (True, "config_missing")
    for content, line in ((b'name: "m"\nmax_batch: 3', 2), (b"\xff", 0)):
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            model_config.read(path)
        assert (caught.value.missing, caught.value.reason, caught.value.line) == (False, "invalid_config", line)
    with pytest.raises(text_format.ParseError):
        model_config.parse("max_batch: 3")


def test_the_json_for_a_python_model_has_tritons_names():
    config = configs.classifier_config(MOBILENET, FORMS["tensorrt"])
    found = json.loads(model_config.to_triton_json(config))
    assert found["max_batch_size"] == 64
    assert found["input"][0]["dims"] == ["224", "224", "3"]
    assert found["parameters"] == {"FORCE_CPU_ONLY_INPUT_TENSORS": {"string_value": "no"}}
