"""OpenVINO models: model.xml and model.bin, for CPUs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from jpeg_build.contract import INPUT, OUTPUT
from jpeg_build.emitters import Emitted, Job, Logits, Options, Pixels, Run
from jpeg_build.errors import BuildError
from jpeg_build.precision import write_onnx

# How a precision is computed on the CPU. Without a word, OpenVINO takes bfloat16 on a CPU that has it, also for a
# network in float32. Where the CPU has no such unit, it computes in float32, and is only slower.
_COMPUTED_IN = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
_PRECISION = "jpeg_precision"


def require_tools(options: Options) -> None:  # the protocol's
    """See Emitter. All that is needed is imported already."""


def emit(job: Job) -> Emitted:
    """See Emitter. bf16 is the fp32 network, told to compute in bfloat16."""
    scratch = job.folder / "network.onnx"
    network = dataclasses.replace(job, precision="fp32") if job.precision == "bf16" else job
    made = write_onnx(network, scratch, dialect="openvino")
    job.say("converting to OpenVINO")
    # Read by the core, not by convert_model, which would report its use to the network.
    model = ov.Core().read_model(scratch)
    model.set_rt_info(job.precision, [_PRECISION])
    artefact = job.folder / "model.xml"
    ov.save_model(model, artefact, compress_to_fp16=False)
    scratch.unlink()
    # The native backend's word for it.
    parameters = {"HINT_BF16": "YES"} if job.precision == "bf16" else {}
    return Emitted(artefact, {}, made.details, parameters, made.notes)


@contextmanager
def opened(artefact: Path) -> Iterator[Run]:
    """See Emitter. On the CPU."""
    try:
        core = ov.Core()
        model = core.read_model(artefact)
        precision = model.get_rt_info([_PRECISION]).astype(str) if model.has_rt_info([_PRECISION]) else "fp32"
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": _COMPUTED_IN[precision]})
    except Exception as error:
        raise BuildError(f"{artefact}: OpenVINO cannot load it: {_reason(error)}") from error

    def run(pixels: Pixels) -> Logits:
        logits: Logits = compiled({INPUT: pixels})[OUTPUT]
        return np.array(logits)  # OpenVINO may write into its own array again

    yield run


def inspect(artefact: Path) -> dict[str, Any]:
    """See Emitter. Also operators and their number, and how many numbers of which type the weights are."""
    try:
        model = ov.Core().read_model(artefact)
    except Exception as error:
        raise BuildError(f"{artefact}: is no OpenVINO model that can be read: {_reason(error)}") from error
    nodes = model.get_ordered_ops()
    weights: Counter[str] = Counter()
    for node in nodes:
        if node.get_type_name() == "Constant":
            weights[node.get_element_type().get_type_name()] += int(np.prod(list(node.shape)))
    return {
        "inputs": {tensor.get_any_name(): _describe(tensor) for tensor in model.inputs},
        "outputs": {tensor.get_any_name(): _describe(tensor) for tensor in model.outputs},
        "operators": dict(Counter(node.get_type_name() for node in nodes).most_common()),
        "weights": dict(weights.most_common()),
    }


def _describe(tensor: Any) -> str:
    return f"{tensor.get_element_type().to_dtype()}{tensor.get_partial_shape()}".replace("?", "N")


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message: those before it name places in its source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
