"""ONNX files through ONNX Runtime, with the session options of Triton's native `onnxruntime` backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from jpeg_contract.forms import OnnxParameters
from jpeg_contract.inside import refuse_file_parameter

from jpeg_runtime.adaptive_batcher import AdaptiveBatcher
from jpeg_runtime.batching import Array, Run
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig

# Images of one run where each thread runs its own: the tensors of two stay in a core's cache (bench/NOTES.md).
PIECE_IMAGES = 2

# For threads that share a run, unless the config says otherwise. Between two runs they would spin, on cores that decode
# images meanwhile. And each operator is cut into pieces that become smaller towards its end, so that a thread whose
# core has something else to do does not keep the others waiting.
_SHARED = {"session.force_spinning_stop": "1", "session.dynamic_block_base": "4"}

# The native backend's meaning of `optimization { graph { level } }` (README of triton's onnxruntime_backend).
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def session_options(config: ServingConfig) -> Any:
    """Return ONNX Runtime's SessionOptions for the config's parameters (OnnxParameters). Raises SettingsError."""
    wanted = config.options(OnnxParameters)
    options = ort.SessionOptions()
    options.intra_op_num_threads = wanted.intra_op_thread_count or config.limited_cpus
    options.inter_op_num_threads = wanted.inter_op_thread_count
    options.execution_mode = ort.ExecutionMode(wanted.execution_mode)
    options.enable_cpu_mem_arena = bool(wanted.enable_mem_arena)
    options.enable_mem_pattern = bool(wanted.enable_mem_pattern)
    options.graph_optimization_level = _GRAPH_LEVELS[config.graph_level]
    for name, value in config.parameters.items():
        refuse_file_parameter(name)
        if name.startswith("session."):
            options.add_session_config_entry(name, value)
    return options


def load(config: ServingConfig) -> Run:
    """Load an ONNX file on the CPU.

    Unless the config says how many threads share one run (`intra_op_thread_count`), each batch is run in the faster way
    for its size: see `AdaptiveBatcher`.

    Raises:
        ModelLoadError: The file is missing or damaged, or its tensors are not those of the config.
        SettingsError: A parameter has a value that cannot be used.
    """
    if not config.artefact.is_file():
        raise ModelLoadError(f"{config.artefact.name} is missing: build it with jpeg-build", reason="artefact_missing")
    shared = session_options(config)
    for name, value in _SHARED.items():
        if name not in config.parameters:
            shared.add_session_config_entry(name, value)
    session = _session(config, shared)
    for wanted, found in (
        (config.input_name, session.get_inputs()),
        (config.output_name, session.get_outputs()),
    ):
        names = [tensor.name for tensor in found]
        if wanted not in names:
            raise ModelLoadError(f"{config.artefact.name} has no tensor {wanted}; it has {', '.join(names)}")
    if config.options(OnnxParameters).intra_op_thread_count or config.cpus == 1:
        return _runner(config, session)
    single = session_options(config)
    single.intra_op_num_threads = 1
    # Sessions may be shared between threads.
    alone = _runner(config, _session(config, single))
    return AdaptiveBatcher(_runner(config, session), [alone] * config.cpus, PIECE_IMAGES)


def _session(config: ServingConfig, options: Any) -> Any:
    try:
        return ort.InferenceSession(str(config.artefact), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ModelLoadError(
            f"{config.artefact.name} cannot be loaded by ONNX Runtime {ort.__version__} ({reason}): build it again"
        ) from error


def _runner(config: ServingConfig, session: Any) -> Run:
    def run(pixels: Array) -> Array:
        logits: Array = session.run([config.output_name], {config.input_name: pixels})[0]
        return np.ascontiguousarray(logits)

    return run
