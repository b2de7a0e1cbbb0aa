"""OpenVINO models on the CPU, with the parameters of Triton's native `openvino` backend."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import openvino as ov
from jpeg_preprocess.cpus import limited_cpus, usable_cpus

from jpeg_backend.batching import Array, Run
from jpeg_backend.model_config import BackendConfigError, ModelConfig
from jpeg_backend.sized import Sized

# Images of one run where each thread has a stream of its own (bench/NOTES.md).
PIECE_IMAGES = 4

# Who sets one of these has decided how the threads share the work.
_CHOOSING = frozenset({"PERFORMANCE_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS"})

_HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")


def properties(config: ModelConfig) -> dict[str, Any]:
    """OpenVINO's properties from the config's parameters, which have the native backend's names (its README).

    PERFORMANCE_HINT (LATENCY, as there), INFERENCE_NUM_THREADS, COMPILATION_NUM_THREADS, NUM_STREAMS (a number, AUTO
    or NUMA), HINT_BF16 (YES). Unlike the native backend, which leaves it to OpenVINO, a network in float32 is computed
    in float32 unless HINT_BF16 says otherwise: bfloat16 changes logits by some percent.

    Raises BackendConfigError for a value that cannot be used.
    """
    hint = config.parameters.get("PERFORMANCE_HINT", "LATENCY")
    if hint not in _HINTS:
        raise BackendConfigError(f"parameter PERFORMANCE_HINT is {hint!r}, but must be one of {', '.join(_HINTS)}")
    bf16 = config.parameters.get("HINT_BF16", "NO")
    if bf16 not in ("YES", "NO"):
        raise BackendConfigError(f"parameter HINT_BF16 is {bf16!r}, but must be YES or NO")
    found: dict[str, Any] = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 == "YES" else "f32",
    }
    for name in ("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"):
        if name in config.parameters:
            found[name] = config.integer(name, 0)
        elif limited := limited_cpus():
            found[name] = limited
    streams = config.parameters.get("NUM_STREAMS")
    if streams is not None:
        found["NUM_STREAMS"] = streams if streams in ("AUTO", "NUMA") else config.integer("NUM_STREAMS", 1)
    return found


def load_model(config: ModelConfig) -> Run:
    """Load a model.xml with its model.bin, on the CPU.

    Unless the config says how it is to use threads and streams, batches are run by whatever is faster for their size:
    see `Sized`.

    Raises BackendConfigError if a file is missing or damaged, or if its tensors are not those of the config.
    """
    for file in (config.artefact, config.artefact.with_suffix(".bin")):
        if not file.is_file():
            raise BackendConfigError(f"{file.name} is missing: build it with jpeg-build")
    core = ov.Core()
    try:
        model = core.read_model(config.artefact)
    except RuntimeError as error:
        raise BackendConfigError(
            f"{config.artefact.name} cannot be read by OpenVINO {ov.__version__}: build it again"
        ) from error
    for wanted, found in ((config.input_name, model.inputs), (config.output_name, model.outputs)):
        names = [name for tensor in found for name in tensor.names]
        if wanted not in names:
            raise BackendConfigError(f"{config.artefact.name} has no tensor {wanted}; it has {', '.join(names)}")
    chosen = properties(config)
    threads = usable_cpus()
    if threads == 1 or not _CHOOSING.isdisjoint(config.parameters):
        return _runner(core.compile_model(model, "CPU", chosen), config)
    streams = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads}
    together = core.compile_model(model, "CPU", chosen)
    alone = core.compile_model(model, "CPU", {**chosen, **streams})
    return Sized(_runner(together, config), _runner(alone, config), threads, PIECE_IMAGES)


def _runner(compiled: ov.CompiledModel, config: ModelConfig) -> Run:
    requests = threading.local()

    def run(pixels: Array) -> Array:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        # A copy: OpenVINO writes the next answer into the same memory.
        return np.array(requests.own.infer({config.input_name: pixels}, share_inputs=True)[config.output_name])

    return run
