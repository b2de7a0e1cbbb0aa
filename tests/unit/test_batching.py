import importlib.util
import json
import subprocess
import sys
import warnings
import zipfile
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_backend.batching import concatenated
from jpeg_backend.device_batches import DeviceRunner, FrequentSizes, gathering
from jpeg_backend.model_config import BackendConfigError, ModelConfig
from jpeg_backend.sized import Sized
from jpeg_preprocess.together import run_together


def double(pixels):
    return pixels.astype(np.float32) * 2


@given(st.lists(st.integers(1, 5), max_size=8))
def test_each_request_gets_its_own_rows_of_one_run(sizes):
    calls = []

    def run(pixels):
        calls.append(len(pixels))
        return double(pixels)

    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 100, (size, 2, 3)) for size in sizes]
    outcomes = run_together(concatenated(run), inputs)
    assert calls == ([sum(sizes)] if sizes else [])
    assert len(outcomes) == len(inputs)
    for given_input, outcome in zip(inputs, outcomes, strict=True):
        assert not isinstance(outcome, Exception)
        assert np.array_equal(outcome, double(given_input))


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_request_that_cannot_be_run_costs_no_other_its_answer(good):
    def run(pixels):
        if (pixels < 0).any():
            raise RuntimeError("negative")
        return double(pixels)

    inputs = [np.full((2, 1), 1 if ok else -1) for ok in good]
    outcomes = run_together(concatenated(run), inputs)
    assert [not isinstance(outcome, Exception) for outcome in outcomes] == good


def test_a_network_that_loses_rows_is_an_error_and_not_a_shifted_answer():
    outcomes = run_together(concatenated(lambda pixels: pixels[:1]), [np.zeros((2, 1)), np.zeros((1, 1))])
    assert isinstance(outcomes[0], RuntimeError)
    assert not isinstance(outcomes[1], Exception)
    assert np.array_equal(outcomes[1], np.zeros((1, 1)))


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_parts_of_any_length_pass_through_the_buffer_in_order_and_fill_it(sizes, capacity):
    runs = gathering(sizes, capacity)
    rows = [
        (copy.part, copy.start + row, run, copy.at + row)
        for run, copies in enumerate(runs)
        for copy in copies
        for row in range(copy.stop - copy.start)
    ]
    assert [row[:2] for row in rows] == [(part, row) for part, size in enumerate(sizes) for row in range(size)]
    assert [row[2:] for row in rows] == [divmod(place, capacity) for place in range(sum(sizes))]
    assert all(copy.start < copy.stop for copies in runs for copy in copies)


@given(st.lists(st.integers(1, 6), max_size=60), st.integers(1, 4), st.integers(0, 3))
def test_sizes_are_chosen_once_when_they_have_come_often_enough_first_come_first_served(sizes, after, at_most):
    frequent = FrequentSizes(after=after, at_most=at_most)
    chosen = [(place, size) for place, size in enumerate(sizes) if frequent.chosen_now(size)]
    often = [place for place, size in enumerate(sizes) if sizes[: place + 1].count(size) == after]
    assert chosen == [(place, sizes[place]) for place in often[:at_most]]


def frequent_from(**changes):
    frequent = FrequentSizes.from_config(config(**changes))
    return [frequent.chosen_now(size) for size in [1] * 9 + [2] * 9 + [1, 2]]


def text(value):
    return {"string_value": value}


def test_graphs_are_switched_by_the_native_backends_setting_and_bounded_by_parameters():
    assert frequent_from() == [False] * 18 + [True, True]
    assert not any(frequent_from(optimization={"cuda": {"graphs": False}}))
    assert not any(frequent_from(optimization={"cuda": {}}))
    assert frequent_from(optimization={"cuda": {"graphs": True}})[-2:] == [True, True]
    assert frequent_from(parameters={"cuda_graph_sizes": text("1")})[-2:] == [True, False]
    assert frequent_from(parameters={"cuda_graph_after": text("1")})[0]
    assert not FrequentSizes.from_config(config(), default=False).chosen_now(1)
    with pytest.raises(BackendConfigError, match="cuda_graph_after must be at least 1"):
        frequent_from(parameters={"cuda_graph_after": text("0")})


class Memory(DeviceRunner):
    """The one part of a runner that needs no device: arrays of this process, and a network that sums up an image."""

    def __init__(self, smallest=1, largest=4, frequent=None, *, capturable=True):
        super().__init__(
            item=(2,), smallest=smallest, largest=largest, frequent=frequent or FrequentSizes(after=1, at_most=0)
        )
        self.buffer = np.zeros((largest, 2), np.uint8)
        self.capturable, self.ran, self.replayed, self.settled = capturable, [], [], 0

    def from_capsule(self, capsule):
        raise NotImplementedError

    def _active(self):
        return nullcontext()

    def _put(self, rows, at):
        self.buffer[at : at + len(rows)] = rows

    def _infer(self, rows):
        self.ran.append(rows)
        if (self.buffer[:rows] == 255).any():
            raise RuntimeError("too bright")
        self.output = self.buffer[:rows].sum(axis=1, dtype=np.float32)

    def _capture(self, rows):
        if not self.capturable:
            raise RuntimeError("cannot be captured")
        return rows

    def _replay(self, graph):
        self.replayed.append(graph)
        self._infer(graph)

    def _fetch(self, rows):
        return self.output[:rows].copy()

    def _settle(self):
        self.settled += 1
        self.buffer[:] = 0


@given(
    st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=5), max_size=6),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(0, 2),
)
def test_a_batch_beyond_the_bounds_is_cut_or_filled_and_every_request_gets_its_rows(batches, smallest, more, graphs):
    runner = Memory(smallest, smallest + more, FrequentSizes(after=2, at_most=graphs))
    rng = np.random.default_rng(0)
    for sizes in batches:
        parts = [rng.integers(0, 100, (size, 2), np.uint8) for size in sizes]
        for part, logits in zip(parts, runner(parts), strict=True):
            assert np.array_equal(logits, part.sum(axis=1))
    assert all(smallest <= rows <= smallest + more for rows in runner.ran)
    assert len(runner.graph_sizes) <= graphs
    assert set(runner.replayed) == set(runner.graph_sizes)


def test_a_size_that_cannot_be_captured_runs_without_and_is_not_tried_again(caplog):
    runner = Memory(frequent=FrequentSizes(after=1, at_most=3), capturable=False)
    for _ in range(3):
        assert runner([np.ones((2, 2), np.uint8)])[0].tolist() == [2, 2]
    assert runner.graph_sizes == []
    assert [record.message for record in caplog.records] == [
        "batches of 2 cannot be captured as a CUDA graph, and run without"
    ]


def test_a_batch_that_fails_on_the_device_is_settled_and_costs_only_the_request_it_is_of():
    runner = Memory(largest=8)
    images = [np.full((2, 2), value, np.uint8) for value in (1, 255, 3)]
    outcomes = run_together(runner, images)
    assert runner.ran == [6, 2, 2, 2]
    assert runner.settled == 2
    assert [None if isinstance(outcome, Exception) else outcome.tolist() for outcome in outcomes] == [
        [2, 2],
        None,
        [6, 6],
    ]


def test_pixels_of_another_shape_are_refused_before_anything_is_copied():
    with pytest.raises(ValueError, match=r"shape \[1, 3\], but each image is \[2\]"):
        Memory()([np.zeros((1, 2), np.uint8), np.zeros((1, 3), np.uint8)])


ARGS = {"model_name": "classifier_onnx", "model_repository": "/repo/classifier_onnx", "model_version": "3"}


def config(args=None, **changes):
    base = {"input": [{"name": "in", "dims": [4, 4, 3]}], "output": [{"name": "out", "dims": [2]}]}
    return ModelConfig.from_triton(
        {**ARGS, **(args or {}), "model_config": json.dumps({**base, **changes})}, default_filename="model.onnx"
    )


def test_the_config_that_triton_hands_over():
    found = config(parameters={"intra_op_thread_count": {"string_value": "3"}})
    assert str(found.artefact) == "/repo/classifier_onnx/3/model.onnx"
    assert (found.input_name, found.output_name) == ("in", "out")
    assert found.integer("intra_op_thread_count", 0) == 3
    assert found.integer("inter_op_thread_count", 7) == 7
    assert str(config(default_model_filename="best.onnx").artefact).endswith("/3/best.onnx")
    assert config(optimization={"graph": {"level": -1}}).graph_level == -1


ON_GPU = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}


def test_where_an_instance_belongs_and_which_file_its_gpu_takes():
    assert config({"model_instance_kind": "CPU", "model_instance_device_id": "0"}).gpu is None
    found = config(ON_GPU, cc_model_filenames={"9.0": "model_sm90.plan"}, max_batch_size=7)
    assert found.gpu == 1
    assert found.artefact_for("9.0").name == "model_sm90.plan"
    assert found.artefact_for("8.0") == found.artefact
    assert (found.max_batch_size, found.input_dims, found.output_dims) == (7, (4, 4, 3), (2,))
    with pytest.raises(BackendConfigError, match="has kind KIND_MODEL; use KIND_GPU or KIND_CPU"):
        config({"model_instance_kind": "MODEL", "model_instance_device_id": "0"})


@pytest.mark.parametrize(("value", "meant"), [("true", True), ("1", True), ("FALSE", False), ("no", False)])
def test_a_yes_or_no_parameter(value, meant):
    assert config(parameters={"INFERENCE_MODE": text(value)}).boolean("INFERENCE_MODE", not meant) is meant
    assert config().boolean("INFERENCE_MODE", meant) is meant


def test_what_cannot_be_served_is_refused():
    with pytest.raises(BackendConfigError, match="INFERENCE_MODE is 'perhaps', but must be true or false"):
        config(parameters={"INFERENCE_MODE": text("perhaps")}).boolean("INFERENCE_MODE", False)
    with pytest.raises(BackendConfigError, match="one input and one output"):
        config(input=[])
    with pytest.raises(BackendConfigError, match="intra_op_thread_count is 'two'"):
        config(parameters={"intra_op_thread_count": {"string_value": "two"}}).integer("intra_op_thread_count", 0)


def test_session_options_mean_what_the_native_backend_means_by_them():
    import onnxruntime as ort
    from jpeg_backend.onnx_runtime import session_options

    parameters = {
        "intra_op_thread_count": "3",
        "inter_op_thread_count": "2",
        "execution_mode": "1",
        "enable_mem_arena": "0",
        "enable_mem_pattern": "0",
        "session.intra_op.allow_spinning": "0",
    }
    options = session_options(
        config(
            parameters={name: {"string_value": value} for name, value in parameters.items()},
            optimization={"graph": {"level": 2}},
        )
    )
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(BackendConfigError, match="level is 5"):
        session_options(config(optimization={"graph": {"level": 5}}))


def test_an_artefact_that_is_missing_or_has_other_tensors_is_refused(tmp_path, built_repository):
    from jpeg_backend.onnx_runtime import load_session

    with pytest.raises(BackendConfigError, match=r"model\.onnx is missing: build it with jpeg-build"):
        load_session(config())
    built = built_repository / "classifier_onnx" / "1" / "model.onnx"
    with pytest.raises(BackendConfigError, match="has no tensor in; it has input__0"):
        load_session(replace(config(), artefact=built))


@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 5))
def test_a_batch_is_shared_out_or_run_together_and_comes_back_in_order(images, threads, piece):
    runs = []

    def run(how):
        def noted(pixels):
            runs.append((how, len(pixels)))
            return pixels * 2.0

        return noted

    pixels = np.arange(images, dtype=np.float32).reshape(-1, 1)
    np.testing.assert_array_equal(Sized(run("together"), run("alone"), threads, piece)(pixels), pixels * 2)
    assert sum(size for _, size in runs) == images
    if images < threads:
        assert runs == [("together", images)]
    else:
        assert {how for how, _ in runs} == {"alone"}
        assert max(size for _, size in runs) <= piece
        assert len(runs) >= threads


@pytest.mark.parametrize(("given", "used"), [({}, "1"), ({"session.force_spinning_stop": "0"}, "0")])
def test_threads_that_share_a_run_stop_spinning_unless_the_config_says_otherwise(
    built_repository, monkeypatch, given, used
):
    import onnxruntime as ort
    from jpeg_backend.onnx_runtime import load_session

    asked = []

    real = ort.InferenceSession

    def noting(file, options, **more):
        asked.append(options)
        return real(file, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", noting)
    built = built_repository / "classifier_onnx" / "1" / "model.onnx"
    parameters = {"intra_op_thread_count": "2", **given}
    load_session(
        replace(config(), artefact=built, input_name="input__0", output_name="output__0", parameters=parameters)
    )
    assert [options.get_session_config_entry("session.force_spinning_stop") for options in asked] == [used]


def test_the_same_answers_however_a_batch_is_run(built_repository):
    from jpeg_backend.onnx_runtime import load_session

    built = built_repository / "classifier_onnx" / "1" / "model.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), np.uint8)
    where = replace(config(), artefact=built, input_name="input__0", output_name="output__0")
    whole = load_session(replace(where, parameters={"intra_op_thread_count": "1"}))(pixels)
    np.testing.assert_allclose(load_session(where)(pixels), whole, rtol=1e-4, atol=1e-4)


def script(network, path, *, notes=None):
    import torch

    example = torch.zeros((2, 4, 4, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch advises against TorchScript
        traced = torch.jit.trace(network.eval(), example, strict=False)  # lists, too
        torch.jit.save(traced, str(path), _extra_files={"jpeg_build.json": json.dumps(notes)} if notes else None)
    return replace(config(max_batch_size=8), artefact=path)


def mean_and_sum(wrap=lambda logits: logits):
    import torch

    class Network(torch.nn.Module):
        def forward(self, pixels):
            means = pixels.float().mean((1, 2, 3))
            return wrap(torch.stack([means, means * 48], dim=1))

    return Network()


@pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: (logits,), lambda logits: [logits]])
@pytest.mark.parametrize("parameters", [{}, {"INFERENCE_MODE": "false", "DISABLE_OPTIMIZED_EXECUTION": "true"}])
def test_torchscript_on_the_cpu(tmp_path, wrap, parameters):
    from jpeg_backend.torch_script import load_script

    run = load_script(replace(script(mean_and_sum(wrap), tmp_path / "model.pt"), parameters=parameters))
    assert not isinstance(run, DeviceRunner)
    for size in (1, 3, 3, 3, 8, 1):
        pixels = np.random.default_rng(size).integers(0, 256, (size, 4, 4, 3), np.uint8)
        logits = run(pixels)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits[:, 1], pixels.sum((1, 2, 3)), rtol=1e-5)


def test_what_a_torchscript_file_says_before_it_is_loaded(tmp_path):
    from jpeg_backend.torch_script import Script, describe

    path = tmp_path / "model.pt"
    script(mean_and_sum(), path)
    assert describe(path) == Script(engines=False)
    script(mean_and_sum(), path, notes={"profile": {"min": 2, "opt": 4, "max": 6}})
    assert describe(path) == Script(engines=False, smallest=2, largest=6)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/code/__torch__/engine.py", "return ops.tensorrt.execute_engine([x], self.engine)")
    assert describe(path).engines


def test_torchscript_that_cannot_be_served_is_refused(tmp_path):
    import torch
    from jpeg_backend.torch_script import load_script

    path = tmp_path / "model.pt"
    served = script(mean_and_sum(), path)
    with pytest.raises(BackendConfigError, match=r"float32 \[1, 3\], as the config says .it answers float32 \[1, 2\]"):
        load_script(replace(served, output_dims=(3,)))
    with pytest.raises(BackendConfigError, match="it answers float16"):
        load_script(script(mean_and_sum(lambda logits: logits.half()), path))
    with pytest.raises(BackendConfigError, match="the network answers a tuple, but a classifier has one output"):
        load_script(script(mean_and_sum(lambda logits: (logits, logits)), path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/code/__torch__/engine.py", "return ops.tensorrt.execute_engine([x], self.engine)")
    with pytest.raises(BackendConfigError, match=r"holds TensorRT engines, which run on a GPU: .* --no-trt"):
        load_script(served)
    path.write_bytes(b"no zip archive")
    with pytest.raises(BackendConfigError, match=r"model\.pt is no TorchScript file"):
        load_script(served)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(BackendConfigError, match=r"model\.pt holds no TorchScript"):
        load_script(served)
    path.unlink()
    with pytest.raises(BackendConfigError, match=r"model\.pt is missing"):
        load_script(served)
    if not torch.cuda.is_available():
        with pytest.raises(BackendConfigError, match="finds no NVIDIA GPU"):
            load_script(replace(served, gpu=0))


def test_an_engine_is_not_loaded_without_a_gpu_and_the_packages_for_it():
    from jpeg_backend.tensorrt_engine import load_engine

    with pytest.raises(BackendConfigError, match="runs on a GPU: give instance_group the kind KIND_GPU"):
        load_engine(config())
    if importlib.util.find_spec("cupy") is None:
        with pytest.raises(BackendConfigError, match=r"package cupy cannot be imported .*: pip install cupy"):
            load_engine(config(ON_GPU))


OPENVINO = """
import json, sys
from pathlib import Path

import numpy as np
import openvino
from jpeg_backend import openvino_runtime
from jpeg_backend.model_config import ModelConfig
from jpeg_backend.sized import Sized
from jpeg_preprocess.together import run_together

onnx, folder, parameters = sys.argv[1:]
openvino.save_model(openvino.convert_model(onnx), folder + "/model.xml", compress_to_fp16=False)
config = ModelConfig(**FIELDS, artefact=Path(folder, "model.xml"), parameters=json.loads(parameters))
openvino_runtime.usable_cpus = lambda: 1
alone = openvino_runtime.load_model(config)
openvino_runtime.usable_cpus = lambda: 2
run = openvino_runtime.load_model(config)
pixels = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3), np.uint8)
for images in (5, 1):
    np.testing.assert_allclose(run(pixels[:images]), alone(pixels)[:images], rtol=1e-4, atol=1e-4)
print(isinstance(alone, Sized), isinstance(run, Sized))
"""


@pytest.mark.parametrize(
    ("parameters", "shared_out"), [({}, True), ({"NUM_STREAMS": "1"}, False), ({"PERFORMANCE_HINT": "LATENCY"}, False)]
)
def test_openvino_answers_alike_however_a_batch_is_run(built_repository, tmp_path, parameters, shared_out):
    # In a process of its own: OpenVINO and a later test that raises SIGINT do not go together in one.
    fields = asdict(replace(config(), input_name="input__0", output_name="output__0"))
    for name in ("artefact", "parameters"):
        del fields[name]
    onnx = built_repository / "classifier_onnx" / "1" / "model.onnx"
    ran = subprocess.run(
        [sys.executable, "-c", f"FIELDS = {fields!r}\n{OPENVINO}", onnx, tmp_path, json.dumps(parameters)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-2:] == ["False", str(shared_out)], "who chooses streams or a hint gets just these"
