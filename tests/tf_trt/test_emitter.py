"""The emitter of tf_trt without TensorRT: the plain SavedModel, its refusals, and the proof that engines run."""

import json
import os

import numpy as np
import pytest
from jpeg_build.checks import parity
from jpeg_build.emitters import Emitted, Job, Options, tf_trt
from jpeg_build.emitters import tf_trt_engines as engines
from jpeg_build.errors import BuildError
from jpeg_build.photos import load_photos
from jpeg_build.recipe.recipe import find_recipe, load_recipe
from jpeg_contract.forms import TF_TRT
from jpeg_contract.resources import PHOTOS
from support import opened

tf = pytest.importorskip("tensorflow", reason="TensorFlow has an environment of its own: make build-tensorflow")

from jpeg_build.networks.keras_network import KerasNetwork  # noqa: E402

RECIPE = load_recipe(find_recipe("mobilenet_v2"))
NO_GPU = not tf.config.list_physical_devices("GPU")


@pytest.fixture(scope="module")
def network():
    return KerasNetwork(RECIPE)


@pytest.fixture(scope="module")
def photos():
    return load_photos(PHOTOS, RECIPE)


@pytest.fixture
def job(network, photos, tmp_path):
    def job(precision="fp32", **options):
        return Job(
            RECIPE, network, precision, tmp_path, photos, lambda: photos, Options(**options), lambda message: None
        )

    return job


@pytest.fixture(scope="module")
def plain(network, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    made = tf_trt.emit(
        Job(RECIPE, network, "fp32", folder, photos, lambda: photos, Options(trt=False), lambda message: None)
    )
    assert made.artefact == folder / "model.savedmodel"
    assert made.details["form"] == "plain"
    return made


def test_the_plain_saved_model_computes_what_the_network_computes(plain, network, photos):
    with opened(RECIPE, TF_TRT, plain) as run:
        outputs = parity.run_in_batches(run, photos, (1, 3, 16))
    assert all(logits.dtype == np.float32 for logits in outputs.logits)
    measured = parity.measure(network.reference(photos), outputs, photos=len(photos), precision="fp32")
    assert measured.relative_difference < 1e-4
    assert measured.neighbour_difference < 1e-4


def test_inspect_describes_tensors_and_operations(plain):
    found = json.loads(json.dumps(tf_trt.inspect(plain.artefact)))
    assert found["inputs"] == {"input__0": "uint8[N,224,224,3]"}
    assert found["outputs"] == {"output__0": "float32[N,1000]"}
    assert found["tensorflow"] == tf.__version__
    assert found["engines"] == {}
    assert found["operations_in_engines"] == 0
    # 52 convolutions and as many normalisations at the least.
    assert found["operations_in_tensorflow"] > 104


def test_a_plain_saved_model_in_fp16_is_refused(job):
    with pytest.raises(BuildError, match=r"--no-trt leaves the SavedModel in fp32"):
        tf_trt.emit(job("fp16", trt=False))


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU here")
def test_without_a_gpu_the_error_names_the_missing_parts_and_the_container(job, tmp_path):
    with pytest.raises(BuildError, match=r"needs a GPU .*--no-trt .* container nvcr\.io/nvidia/tensorflow") as caught:
        tf_trt.emit(job())
    assert caught.value.reason == "tf_trt_missing"
    assert list(tmp_path.iterdir()) == []


def test_engines_must_take_every_batch_from_one_on(job):
    with pytest.raises(BuildError, match="--min-batch is 2, but engines of TF-TRT must take batches from 1 on"):
        tf_trt.emit(job(min_batch=2))


def test_another_kind_of_network_is_refused(job):
    import dataclasses

    with pytest.raises(BuildError, match=r"--backend tf_trt takes a network of TensorFlow, under \[tensorflow\]"):
        tf_trt.emit(dataclasses.replace(job(), network=object()))


@pytest.mark.parametrize("content", [None, b"\x00"])
def test_a_folder_that_is_not_a_saved_model_is_named(tmp_path, content):
    folder = tmp_path / "1" / "model.savedmodel"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "saved_model.pb").write_bytes(content)
    with pytest.raises(BuildError, match=r"model\.savedmodel") as caught, opened(RECIPE, TF_TRT, Emitted(folder)):
        pass
    assert caught.value.reason == ("artefact_missing" if content is None else "cannot_be_served")
    with pytest.raises(BuildError, match=r"model\.savedmodel: is not a readable SavedModel") as caught:
        tf_trt.inspect(folder)
    assert caught.value.reason == "network_not_loaded"


def test_a_saved_model_without_engines_proves_nothing(plain, tmp_path):
    with pytest.raises(engines.EnginesDidNotRun, match="no engine"):
        engines.prove(plain.artefact, RECIPE.geometry.crop_size, [1], tmp_path / "log")


def test_the_log_of_a_run_has_the_batches_and_tensorflows_lines_between_them(plain, tmp_path):
    """The proof reads VLOG lines of the official wheels; another module shows that they come, and in order."""
    log = tmp_path / "log"
    task = {"folder": str(plain.artefact), "size": [224, 224], "batches": [1, 3]}
    status = engines._run("run", task, log, {**engines.LOGGED, "TF_CPP_VMODULE": "executor=1,propagator_state=1"})
    lines = log.read_text(errors="replace").splitlines()
    assert status == 0, lines[-5:]
    marks = [number for number, line in enumerate(lines) if line.startswith("jpeg-build: a batch of ")]
    assert [lines[mark].rpartition(" ")[2] for mark in marks] == ["1", "3"]
    for begin, end in zip(marks, [*marks[1:], len(lines)], strict=True):
        assert any("executor.cc" in line for line in lines[begin:end])


def test_a_failed_conversion_names_the_cause(tmp_path):
    conversion = engines.Conversion(
        str(tmp_path / "gone"), str(tmp_path / "out"), "fp16", "dynamic", (1, 2, 4), RECIPE.geometry.crop_size
    )
    with pytest.raises(engines.EnginesDidNotRun, match=r"has not been built with TensorRT support|gone"):
        engines.convert(conversion, tmp_path / "log")
    assert not (tmp_path / "out").exists()
    assert os.path.getsize(tmp_path / "log") > 0  # noqa: PTH202


def test_an_output_that_tensorflow_named_itself_gets_the_contracts_name(tmp_path):
    """As TF-TRT saves its functions: they return a bare tensor."""
    module = tf.Module()
    module.double = tf.function(
        lambda input__0: tf.cast(input__0, tf.float32) * 2,
        input_signature=[tf.TensorSpec([None, 2], tf.uint8, name="input__0")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.double)
    with pytest.raises(BuildError, match="has no signature serving_default with the output output__0"):
        engines.signature(tmp_path)
    engines.name_output(tmp_path)
    assert list(engines.signature(tmp_path)[0].outputs) == ["output__0"]
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    outputs = loaded(input__0=tf.constant([[1, 2]], tf.uint8))
    assert {name: value.numpy().tolist() for name, value in outputs.items()} == {"output__0": [[2.0, 4.0]]}
    # Once more changes nothing.
    before = (tmp_path / "saved_model.pb").read_bytes()
    engines.name_output(tmp_path)
    assert (tmp_path / "saved_model.pb").read_bytes() == before
