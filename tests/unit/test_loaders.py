"""The loaders of every form, without a server; tests/gpu has those that need a GPU."""

import importlib.util
import json
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jpeg_contract.forms import FORMS
from jpeg_runtime.adaptive_batcher import AdaptiveBatcher
from jpeg_runtime.device_runner import DeviceRunner
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig
from support import (
    as_parameters,
    classifier_args,
    tiny_classifier,
    tiny_images,
    tiny_logits,
)


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory):
    """The folder of a model with an ONNX file."""
    folder = tmp_path_factory.mktemp("onnx")
    tiny_classifier(folder / "1" / "model.onnx")
    return folder


def config(folder, backend, *, cpus=1, gpu=None, parameters=None, **fields):
    args = classifier_args(folder, backend, gpu=gpu, parameters=as_parameters(parameters or {}), **fields)
    return ServingConfig.from_triton(args, cpus=cpus)


def refusal(found):
    """The error with which a classifier is not opened."""
    with pytest.raises(ModelLoadError) as caught:
        open_classifier(found)
    return caught.value


# ONNX Runtime


def test_session_options_mean_what_they_mean_to_the_native_backend():
    import onnxruntime as ort
    from jpeg_runtime.onnx_runtime import session_options

    parameters = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "0",
        "session.intra_op.allow_spinning": "0",
    }
    options = session_options(
        config("/models", "onnxruntime", parameters=parameters, optimization={"graph": {"level": 2}})
    )
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_an_onnx_file_gives_the_same_logits_however_a_batch_is_run(onnx_model):
    pixels = tiny_images(11)
    expected = tiny_logits(onnx_model / "1" / "model.onnx")(pixels)
    opened = {cpus: open_classifier(config(onnx_model, "onnxruntime", cpus=cpus)) for cpus in (1, 2, 3)}
    assert [isinstance(each.loaded, AdaptiveBatcher) for each in opened.values()] == [False, True, True]
    for classifier in opened.values():
        for images in (1, 2, 5, 11):
            np.testing.assert_allclose(classifier(pixels[:images]), expected[:images], rtol=1e-4, atol=1e-4)
        parts = classifier.run_each([pixels[:4], pixels[4:5], pixels[5:]])
        assert [len(part) for part in parts] == [4, 1, 6]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-4, atol=1e-4)


def test_a_number_of_threads_in_the_config_is_kept_for_every_batch(onnx_model):
    found = config(onnx_model, "onnxruntime", cpus=2, parameters={"intra_op_thread_count": "2"})
    assert not isinstance(open_classifier(found).loaded, AdaptiveBatcher)


@pytest.mark.parametrize(("parameters", "used"), [({}, "1"), ({"session.force_spinning_stop": "0"}, "0")])
def test_threads_that_share_a_run_stop_spinning_unless_the_config_says_otherwise(
    onnx_model, monkeypatch, parameters, used
):
    import onnxruntime as ort

    seen = []
    real = ort.InferenceSession

    def noting(file, options, **more):
        seen.append(options)
        return real(file, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", noting)
    open_classifier(config(onnx_model, "onnxruntime", parameters={"intra_op_thread_count": "2", **parameters}))
    assert [options.get_session_config_entry("session.force_spinning_stop") for options in seen] == [used]


def test_an_onnx_file_that_cannot_be_served_is_refused(onnx_model, tmp_path):
    error = refusal(config(tmp_path, "onnxruntime"))
    assert error.reason == "artefact_missing"
    assert "model.onnx" in str(error)
    assert "jpeg-build" in str(error)

    error = refusal(config(onnx_model, "onnxruntime", input=[{"name": "pixels", "dims": [32, 32, 3]}]))
    assert error.reason == "cannot_be_served"
    assert "no tensor pixels; it has input__0" in str(error)
    error = refusal(config(onnx_model, "onnxruntime", output=[{"name": "logits", "dims": [5]}]))
    assert "no tensor logits; it has output__0" in str(error)

    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"no network")
    error = refusal(config(tmp_path, "onnxruntime"))
    assert error.reason == "cannot_be_served"
    assert "model.onnx" in str(error)


def test_an_invalid_parameter_keeps_its_reason(onnx_model):
    error = refusal(config(onnx_model, "onnxruntime", parameters={"intra_op_thread_count": "two"}))
    assert error.reason == "invalid_setting"
    assert "intra_op_thread_count is 'two'" in str(error)


# OpenVINO, in a process of its own: with it, a later test that raises SIGINT ends the tests' process.

OPENVINO = """
import json, sys

import numpy as np
import openvino
from jpeg_runtime import openvino_runtime
from jpeg_runtime.adaptive_batcher import AdaptiveBatcher
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ServingConfig

args, pixels = json.loads(sys.argv[1]), np.load(sys.argv[2])


class Core(openvino.Core):
    def compile_model(self, *arguments):
        compiled.append(arguments[2])
        return super().compile_model(*arguments)


openvino_runtime.ov.Core = Core
for cpus in (1, 3):
    compiled = []
    classifier = open_classifier(ServingConfig.from_triton(args, cpus=cpus))
    logits = [classifier(pixels[:images]).tolist() for images in (11, 1, 2)]
    found = {"adaptive": isinstance(classifier.loaded, AdaptiveBatcher), "compiled": compiled, "logits": logits}
    print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def openvino_model(onnx_model, tmp_path_factory):
    """The folder of a model with model.xml and model.bin."""
    folder = tmp_path_factory.mktemp("openvino")
    (folder / "1").mkdir()
    convert = "import sys, openvino; openvino.save_model(openvino.Core().read_model(sys.argv[1]), sys.argv[2], False)"
    subprocess.run(
        [sys.executable, "-c", convert, onnx_model / "1" / "model.onnx", folder / "1" / "model.xml"], check=True
    )
    return folder


@pytest.mark.parametrize(
    ("parameters", "adaptive"),
    [({}, True), ({"NUM_STREAMS": "1"}, False), ({"PERFORMANCE_HINT": "LATENCY"}, False)],
    ids=str,
)
def test_openvino_gives_the_same_logits_however_a_batch_is_run(
    onnx_model, openvino_model, tmp_path, parameters, adaptive
):
    pixels = tiny_images(11)
    np.save(tmp_path / "pixels.npy", pixels)
    args = classifier_args(openvino_model, "openvino", parameters=as_parameters(parameters))
    ran = subprocess.run(
        [sys.executable, "-c", OPENVINO, json.dumps(args), tmp_path / "pixels.npy"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    single, several = (json.loads(line[6:]) for line in ran.stdout.splitlines() if line.startswith("FOUND "))
    expected = tiny_logits(onnx_model / "1" / "model.onnx")(pixels)
    for found in (single, several):
        for logits in found["logits"]:
            np.testing.assert_allclose(logits, expected[: len(logits)], rtol=1e-4, atol=1e-4)
    # A config that chooses streams or a hint gets them and nothing else.
    assert (single["adaptive"], several["adaptive"]) == (False, adaptive)
    shared, *alone = several["compiled"]
    assert len(single["compiled"]) == 1
    assert shared["INFERENCE_PRECISION_HINT"] == "f32"
    # A compiled model with one stream for each worker: several streams of one model compute some int8 networks wrongly.
    assert len(alone) == (3 if adaptive else 0)
    assert all((each["NUM_STREAMS"], each["INFERENCE_NUM_THREADS"]) == (1, 1) for each in alone)


OPENVINO_INT8 = """
import json, sys
from pathlib import Path

import numpy as np
import openvino
from jpeg_runtime.loading import open_classifier
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig
from openvino import opset13 as ops

file = Path(sys.argv[1])
pixels = ops.parameter([-1, 32, 32, 3], np.uint8, name="input__0")
floats = ops.convert(pixels, np.float32)
bounds = [ops.constant(np.float32(value)) for value in (0, 255, 0, 255)]
rounded = ops.fake_quantize(floats, *bounds, 256)
mean = ops.reduce_mean(rounded, ops.constant(np.array([1, 2])))
mean.output(0).set_names({"output__0"})
pixels.output(0).set_names({"input__0"})
file.parent.mkdir()
openvino.save_model(openvino.Model([ops.result(mean)], [pixels]), file, False)
for args in sys.argv[2:]:
    try:
        open_classifier(ServingConfig.from_triton(json.loads(args), cpus=2))(np.zeros((3, 32, 32, 3), np.uint8))
        print("FOUND opened")
    except ModelLoadError as error:
        print("FOUND", error.reason)
"""


def test_an_int8_model_is_not_opened_with_several_streams(tmp_path):
    choices = [{}, {"NUM_STREAMS": "1"}, {"NUM_STREAMS": "2"}, {"PERFORMANCE_HINT": "THROUGHPUT"}]
    output = [{"name": "output__0", "dims": [3]}]
    arguments = [
        json.dumps(classifier_args(tmp_path, "openvino", parameters=as_parameters(parameters), output=output))
        for parameters in choices
    ]
    ran = subprocess.run(
        [sys.executable, "-c", OPENVINO_INT8, tmp_path / "1" / "model.xml", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = [line[6:] for line in ran.stdout.splitlines() if line.startswith("FOUND ")]
    assert found == ["opened", "opened", "parameter_conflict", "parameter_conflict"]


OPENVINO_PROPERTIES = """
import json, sys
from jpeg_runtime import serving_config
from jpeg_runtime.openvino_runtime import properties
from jpeg_runtime.serving_config import ServingConfig

serving_config.machine_cpus = lambda: 4
print(json.dumps([properties(ServingConfig.from_triton(json.loads(args), cpus=int(cpus)))
                  for args, cpus in zip(sys.argv[1::2], sys.argv[2::2])]))
"""


def test_openvinos_properties_are_the_native_backends_parameters():
    cases: list[tuple[dict[str, str], int, dict[str, object]]] = [
        ({}, 4, {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}),
        ({}, 2, {"INFERENCE_NUM_THREADS": 2}),
        ({"HINT_BF16": "YES"}, 4, {"INFERENCE_PRECISION_HINT": "bf16"}),
        (
            {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": "3"},
            4,
            {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 3},
        ),
        ({"NUM_STREAMS": "AUTO", "INFERENCE_NUM_THREADS": "1"}, 2, {"NUM_STREAMS": "AUTO", "INFERENCE_NUM_THREADS": 1}),
    ]
    words = []
    for parameters, cpus, _ in cases:
        words += [json.dumps(classifier_args("/models", "openvino", parameters=as_parameters(parameters))), str(cpus)]
    ran = subprocess.run(
        [sys.executable, "-c", OPENVINO_PROPERTIES, *words], capture_output=True, text=True, check=True
    )
    for found, (_, _, wanted) in zip(json.loads(ran.stdout), cases, strict=True):
        assert found.items() >= wanted.items()


# TorchScript


def script(network, folder, *, notes=None, **fields):
    """Save a network as the TorchScript file of a model; returns the config."""
    import torch

    path = Path(folder) / "1" / "model.pt"
    path.parent.mkdir(exist_ok=True)
    example = torch.zeros((2, 4, 4, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch advises against TorchScript
        traced = torch.jit.trace(network.eval(), example, strict=False)  # lists, too
        torch.jit.save(traced, str(path), _extra_files={"jpeg_build.json": json.dumps(notes)} if notes else None)
    tensors = {"input": [{"name": "in", "dims": [4, 4, 3]}], "output": [{"name": "out", "dims": [2]}]}
    return config(folder, "pytorch", **{**tensors, **fields})


def mean_and_sum(wrap=lambda logits: logits):
    import torch

    class Network(torch.nn.Module):
        def forward(self, pixels):
            means = pixels.float().mean((1, 2, 3))
            return wrap(torch.stack([means, means * 48], dim=1))

    return Network()


@pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: (logits,), lambda logits: [logits]])
@pytest.mark.parametrize("parameters", [{}, {"INFERENCE_MODE": "false", "DISABLE_OPTIMIZED_EXECUTION": "true"}])
def test_torchscript_runs_on_the_cpu(tmp_path, wrap, parameters):
    classifier = open_classifier(script(mean_and_sum(wrap), tmp_path, parameters=parameters))
    assert not isinstance(classifier.loaded, DeviceRunner)
    assert not classifier.takes_device_tensors
    for size in (1, 3, 3, 3, 8, 1):
        pixels = np.random.default_rng(size).integers(0, 256, (size, 4, 4, 3), np.uint8)
        logits = classifier(pixels)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits[:, 1], pixels.sum((1, 2, 3)), rtol=1e-5)


def add_engine(path):
    """Make a TorchScript file look as if its code called a TensorRT engine."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/code/__torch__/engine.py", "return ops.tensorrt.execute_engine([x], self.engine)")


def test_a_torchscript_file_is_described_without_loading_it(tmp_path):
    from jpeg_runtime.torch_script import Script, describe

    path = tmp_path / "1" / "model.pt"
    script(mean_and_sum(), tmp_path)
    assert describe(path) == Script(engines=False)
    script(mean_and_sum(), tmp_path, notes={"profile": {"min": 2, "opt": 4, "max": 6}})
    described = describe(path)
    assert (described.engines, described.smallest, described.largest) == (False, 2, 6)
    assert described.notes["profile"]["opt"] == 4
    add_engine(path)
    assert describe(path).engines


def test_torchscript_that_cannot_be_served_is_refused(tmp_path):
    import torch

    path = tmp_path / "1" / "model.pt"
    served = script(mean_and_sum(), tmp_path)
    error = refusal(replace(served, output_dims=(3,)))
    assert error.reason == "cannot_be_served"
    assert "float32 [1, 3], as the config says" in str(error)
    assert "float32 [1, 2]" in str(error)
    assert "jpeg-build RECIPE --backend torch_tensorrt" in str(error)
    assert "float16" in str(refusal(script(mean_and_sum(lambda logits: logits.half()), tmp_path)))
    assert "returns a tuple" in str(refusal(script(mean_and_sum(lambda logits: (logits, logits)), tmp_path)))
    add_engine(path)
    error = refusal(served)
    assert "TensorRT engines" in str(error)
    assert "KIND_GPU" in str(error)
    assert "--no-trt" in str(error)
    path.write_bytes(b"no zip archive")
    assert "model.pt is not a TorchScript file" in str(refusal(served))
    torch.save({"weights": torch.zeros(1)}, path)
    assert "model.pt holds no TorchScript" in str(refusal(served))
    path.unlink()
    assert refusal(served).reason == "artefact_missing"
    if not torch.cuda.is_available():
        assert "finds no NVIDIA GPU" in str(refusal(replace(served, gpu=0)))


# TensorRT


def test_an_engine_needs_a_gpu_and_its_packages(tmp_path):
    error = refusal(config(tmp_path, "tensorrt"))
    assert error.reason == "cannot_be_served"
    assert "KIND_GPU" in str(error)
    if importlib.util.find_spec("cupy") is None:
        error = refusal(config(tmp_path, "tensorrt", gpu=0))
        assert error.reason == "package_missing"
        assert "package cupy cannot be imported" in str(error)
        assert "triton-jpeg-classifier[tensorrt]" in str(error)


# All of them


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
def test_a_missing_package_is_named_with_its_remedy(form, tmp_path, monkeypatch):
    package = form.packages[0]
    module = form.loader.partition(":")[0]
    monkeypatch.delitem(sys.modules, module, raising=False)
    # importlib then raises ModuleNotFoundError.
    monkeypatch.setitem(sys.modules, package.name, None)
    error = refusal(config(tmp_path, form.backend, gpu=0 if form.instance_kind == "GPU" else None))
    assert error.reason == "package_missing"
    assert package.name in str(error)
    assert package.remedy in str(error)
