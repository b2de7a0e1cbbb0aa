"""ONNX files for ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from jpeg_build.emitters import Emitted, Job, Options
from jpeg_build.emitters.precision import write_onnx
from jpeg_build.errors import BuildError
from jpeg_build.graphs.onnx_graph import describe


def require_tools(_options: Options) -> None:
    """See Emitter. Everything needed is imported already."""


def emit(job: Job) -> Emitted:
    """See Emitter."""
    made = write_onnx(job, job.folder / "model.onnx", dialect="onnxruntime")
    return Emitted(made.path, details=made.details, notes=made.notes, quantisation=made.quantisation)


def inspect(artefact: Path) -> dict[str, Any]:
    """See Emitter. Also opset, operators with their number, and the number of weights by type."""
    try:
        model = onnx.load(str(artefact))
    except Exception as error:
        raise BuildError(f"{artefact}: not a readable ONNX file: {error}", reason="artefact_unreadable") from error
    if not model.graph.output:
        raise BuildError(f"{artefact}: not an ONNX file with a network in it", reason="artefact_unreadable")
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        numbers = 1
        for size in tensor.dims:
            numbers *= size
        weights[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += numbers
    return {
        "inputs": {tensor.name: describe(tensor) for tensor in model.graph.input},
        "outputs": {tensor.name: describe(tensor) for tensor in model.graph.output},
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "weights": dict(weights),
    }
