"""ONNX files for ONNX Runtime."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from jpeg_build.contract import INPUT, OUTPUT
from jpeg_build.emitters import Emitted, Job, Logits, Options, Pixels, Run
from jpeg_build.errors import BuildError
from jpeg_build.onnx_graph import describe
from jpeg_build.precision import write_onnx


def require_tools(options: Options) -> None:  # the protocol's
    """See Emitter. All that is needed is imported already."""


def emit(job: Job) -> Emitted:
    """See Emitter."""
    made = write_onnx(job, job.folder / "model.onnx", dialect="onnxruntime")
    if job.precision == "fp16":
        _survive_loading(made.path)
    return Emitted(made.path, details=made.details, notes=made.notes)


def _survive_loading(path: Path) -> None:
    """Load the file in a process of its own: ONNX Runtime 1.32 crashes on some networks in float16 (vit_b_32).

    Raises BuildError if that process ends badly.
    """
    load = f"import onnxruntime as ort; ort.InferenceSession({str(path)!r}, providers=['CPUExecutionProvider'])"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise BuildError(
            f"ONNX Runtime {ort.__version__} crashes when it loads this network in fp16 "
            f"({signal.Signals(-done.returncode).name}): build it in fp32 or int8, or for another backend"
        )


@contextmanager
def opened(artefact: Path) -> Iterator[Run]:
    """See Emitter. On the CPU."""
    try:
        session = ort.InferenceSession(str(artefact), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BuildError(f"{artefact}: ONNX Runtime cannot load it: {str(error).splitlines()[0][:300]}") from error

    def run(pixels: Pixels) -> Logits:
        logits: Logits = session.run([OUTPUT], {INPUT: pixels})[0]
        return logits

    yield run


def inspect(artefact: Path) -> dict[str, Any]:
    """See Emitter. Also opset, operators and their number, and how many numbers of which type the weights are."""
    try:
        model = onnx.load(str(artefact))
    except Exception as error:
        raise BuildError(f"{artefact}: is no ONNX file that can be read: {error}") from error
    if not model.graph.output:
        raise BuildError(f"{artefact}: is no ONNX file with a network in it")
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
