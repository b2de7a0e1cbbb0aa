import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_backend.batching import run_batched
from jpeg_backend.model_config import BackendConfigError, ModelConfig


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
    outcomes = run_batched(run, inputs)
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
    outcomes = run_batched(run, inputs)
    assert [not isinstance(outcome, Exception) for outcome in outcomes] == good


def test_a_network_that_loses_rows_is_an_error_and_not_a_shifted_answer():
    outcomes = run_batched(lambda pixels: pixels[:1], [np.zeros((2, 1)), np.zeros((1, 1))])
    assert isinstance(outcomes[0], RuntimeError)
    assert not isinstance(outcomes[1], Exception)
    assert np.array_equal(outcomes[1], np.zeros((1, 1)))


ARGS = {"model_name": "classifier_onnx", "model_repository": "/repo/classifier_onnx", "model_version": "3"}


def config(**changes):
    import json

    base = {"input": [{"name": "in"}], "output": [{"name": "out"}]}
    return ModelConfig.from_triton(
        {**ARGS, "model_config": json.dumps({**base, **changes})}, default_filename="model.onnx"
    )


def test_the_config_that_triton_hands_over():
    found = config(parameters={"intra_op_thread_count": {"string_value": "3"}})
    assert str(found.artefact) == "/repo/classifier_onnx/3/model.onnx"
    assert (found.input_name, found.output_name) == ("in", "out")
    assert found.integer("intra_op_thread_count", 0) == 3
    assert found.integer("inter_op_thread_count", 7) == 7
    assert str(config(default_model_filename="best.onnx").artefact).endswith("/3/best.onnx")
    assert config(optimization={"graph": {"level": -1}}).graph_level == -1


def test_what_cannot_be_served_is_refused():
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
    from dataclasses import replace

    from jpeg_backend.onnx_runtime import load_session

    with pytest.raises(BackendConfigError, match=r"model\.onnx is missing: build it with jpeg-build"):
        load_session(config())
    built = built_repository / "classifier_onnx" / "1" / "model.onnx"
    with pytest.raises(BackendConfigError, match="has no tensor in; it has input__0"):
        load_session(replace(config(), artefact=built))
