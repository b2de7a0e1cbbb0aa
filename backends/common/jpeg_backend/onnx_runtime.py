"""ONNX files through ONNX Runtime, with the session options of Triton's native `onnxruntime` backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from jpeg_preprocess.cpus import limited_cpus, usable_cpus

from jpeg_backend.batching import Array, Run
from jpeg_backend.model_config import BackendConfigError, ModelConfig
from jpeg_backend.sized import Sized

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


def session_options(config: ModelConfig) -> Any:
    """ONNX Runtime's SessionOptions from the config's parameters, named as the native backend names them.

    intra_op_thread_count, inter_op_thread_count (0: ONNX Runtime's choice, or as many as the container has
    CPUs), execution_mode (0 sequential,
    1 parallel), enable_mem_arena, enable_mem_pattern (0 or 1), any `session.*` entry, and the graph level.

    Raises BackendConfigError for a value that cannot be used.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.integer("intra_op_thread_count", 0) or limited_cpus()
    options.inter_op_num_threads = config.integer("inter_op_thread_count", 0)
    parallel = config.integer("execution_mode", 0) == 1
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = config.integer("enable_mem_arena", 1) == 1
    options.enable_mem_pattern = config.integer("enable_mem_pattern", 1) == 1
    if config.graph_level not in _GRAPH_LEVELS:
        raise BackendConfigError(f"optimization graph level is {config.graph_level}, but must be -1, 0, 1 or 2")
    options.graph_optimization_level = _GRAPH_LEVELS[config.graph_level]
    for name, value in config.parameters.items():
        if name.startswith("session."):
            options.add_session_config_entry(name, value)
    return options


def load_session(config: ModelConfig) -> Run:
    """Load an ONNX file on the CPU.

    Unless the config says how many threads share one run (`intra_op_thread_count`), batches are run by whatever is
    faster for their size: see `Sized`.

    Raises BackendConfigError if the file is missing, or if its tensors are not those of the config.
    """
    if not config.artefact.is_file():
        raise BackendConfigError(f"{config.artefact.name} is missing: build it with jpeg-build")
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
            raise BackendConfigError(f"{config.artefact.name} has no tensor {wanted}; it has {', '.join(names)}")
    threads = usable_cpus()
    if config.integer("intra_op_thread_count", 0) or threads == 1:
        return _runner(config, session)
    alone = session_options(config)
    alone.intra_op_num_threads = 1
    return Sized(_runner(config, session), _runner(config, _session(config, alone)), threads, PIECE_IMAGES)


def _session(config: ModelConfig, options: Any) -> Any:
    return ort.InferenceSession(str(config.artefact), options, providers=["CPUExecutionProvider"])


def _runner(config: ModelConfig, session: Any) -> Run:
    def run(pixels: Array) -> Array:
        logits: Array = session.run([config.output_name], {config.input_name: pixels})[0]
        return np.ascontiguousarray(logits)

    return run
