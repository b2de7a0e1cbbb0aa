"""OpenVINO models: model.xml and model.bin, for CPUs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from jpeg_build.emitters import Emitted, Job, Options
from jpeg_build.emitters.precision import write_onnx
from jpeg_build.errors import BuildError

# Settings under which fewer kernels of OpenVINO take part, slower than the loader's own choice for large batches.
_ALTERNATIVES = (("all CPUs share each run", {"PERFORMANCE_HINT": "LATENCY"}),)


def require_tools(_options: Options) -> None:
    """See Emitter. Everything needed is imported already."""


def emit(job: Job) -> Emitted:
    """See Emitter. bf16 is the fp32 network, computed in bfloat16."""
    scratch = job.folder / "network.onnx"
    network = dataclasses.replace(job, precision="fp32") if job.precision == "bf16" else job
    made = write_onnx(network, scratch, dialect="openvino")
    job.progress("converting to OpenVINO")
    # Read by the core, not by convert_model, which would report its use over the network.
    model = ov.Core().read_model(scratch)
    artefact = job.folder / "model.xml"
    ov.save_model(model, artefact, compress_to_fp16=False)
    scratch.unlink()
    # The native backend's name for it.
    parameters = {"HINT_BF16": "YES"} if job.precision == "bf16" else {}
    return Emitted(
        artefact,
        details=made.details,
        parameters=parameters,
        alternatives=_ALTERNATIVES,
        notes=made.notes,
        quantisation=made.quantisation,
    )


def inspect(artefact: Path) -> dict[str, Any]:
    """See Emitter. Also operators with their number, and the number of weights by type."""
    try:
        model = ov.Core().read_model(artefact)
    except Exception as error:
        raise BuildError(
            f"{artefact}: not a readable OpenVINO model: {_reason(error)}", reason="artefact_unreadable"
        ) from error
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
    """Return the last line of OpenVINO's message: those before it name places in its source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
