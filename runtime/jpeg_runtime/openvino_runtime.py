"""OpenVINO models on the CPU, with the parameters of Triton's native `openvino` backend."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import openvino as ov
from jpeg_contract.forms import OPENVINO, OpenVinoParameters

from jpeg_runtime.adaptive_batcher import AdaptiveBatcher
from jpeg_runtime.batching import Array, Run
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig

# Images of one run where each worker has a model of its own (bench/NOTES.md).
PIECE_IMAGES = 4

# Each holds a copy of the weights as OpenVINO packs them; beyond this, several CPUs share one.
MOST_MODELS = 16


def properties(config: ServingConfig) -> dict[str, Any]:
    """Return OpenVINO's properties for the config's parameters (OpenVinoParameters).

    Unlike the native backend, which leaves it to OpenVINO, a network in float32 is computed in float32 unless HINT_BF16
    says otherwise: bfloat16 changes logits by some percent.

    Raises:
        SettingsError: A parameter has a value that cannot be used.
    """
    wanted = config.options(OpenVinoParameters)
    found: dict[str, Any] = {
        "PERFORMANCE_HINT": wanted.performance_hint or "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if wanted.hint_bf16 == "YES" else "f32",
    }
    threads = wanted.inference_num_threads or config.limited_cpus
    if threads:
        found["INFERENCE_NUM_THREADS"] = threads
    if wanted.num_streams is not None:
        streams = wanted.num_streams
        found["NUM_STREAMS"] = streams if streams in ("AUTO", "NUMA") else int(streams)
    return found


def load(config: ServingConfig) -> Run:
    """Load a model.xml with its model.bin, on the CPU.

    Unless the config says how it is to use threads and streams, each batch is run in the faster way for its size: see
    `AdaptiveBatcher`.

    Raises:
        ModelLoadError: A file is missing or damaged, or its tensors are not those of the config.
        SettingsError: A parameter has a value that cannot be used.
    """
    for file in (config.artefact, config.artefact.with_suffix(".bin")):
        if not file.is_file():
            raise ModelLoadError(f"{file.name} is missing: build it with jpeg-build", reason="artefact_missing")
    core = ov.Core()
    try:
        model = core.read_model(config.artefact)
    except RuntimeError as error:
        raise ModelLoadError(
            f"{config.artefact.name} cannot be read by OpenVINO {ov.__version__}: build it again"
        ) from error
    for wanted, found in ((config.input_name, model.inputs), (config.output_name, model.outputs)):
        names = [name for tensor in found for name in tensor.names]
        if wanted not in names:
            raise ModelLoadError(f"{config.artefact.name} has no tensor {wanted}; it has {', '.join(names)}")
    chosen = properties(config)
    options = config.options(OpenVinoParameters)
    quantised = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
    if conflict := OPENVINO.conflict(options, "int8" if quantised else ""):
        raise ModelLoadError(f"{config.artefact.name}: {conflict}", reason="parameter_conflict")
    decided = (options.performance_hint, options.inference_num_threads, options.num_streams)
    shared = _runner(core.compile_model(model, "CPU", chosen), config)
    if config.cpus == 1 or any(value is not None for value in decided):
        return shared
    # A model for each worker, compiled one after the other: a model with several streams computes some int8 networks
    # wrongly (`forms._openvino_conflict`). Not pinned, or all of them would share the first CPU.
    workers = min(config.cpus, MOST_MODELS)
    single = {**chosen, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": config.cpus // workers, "ENABLE_CPU_PINNING": False}
    alone = [_runner(core.compile_model(model, "CPU", single), config) for _ in range(workers)]
    # The first inference of a process may deadlock if two threads run it at once (OpenVINO 2026.4).
    black = np.zeros((1, *config.input_dims), np.uint8)
    for run in (shared, *alone):
        run(black)
    return AdaptiveBatcher(shared, alone, PIECE_IMAGES)


def _runner(compiled: ov.CompiledModel, config: ServingConfig) -> Run:
    requests = threading.local()

    def run(pixels: Array) -> Array:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        # A copy: OpenVINO writes the next output into the same memory.
        return np.array(requests.own.infer({config.input_name: pixels}, share_inputs=True)[config.output_name])

    return run
