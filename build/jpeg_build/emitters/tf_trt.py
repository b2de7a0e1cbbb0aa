"""SavedModels for TensorFlow: with TensorRT engines inside, or plain."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from jpeg_contract.report import Requirements

from jpeg_build.emitters import Emitted, Job, Options
from jpeg_build.emitters import tf_trt_engines as engines
from jpeg_build.errors import BuildError
from jpeg_build.gpu import cache_folder
from jpeg_build.networks.tensorflow_framework import tensorflow

if TYPE_CHECKING:
    from jpeg_build.networks.keras_network import KerasNetwork

ARTEFACT = "model.savedmodel"


def require_tools(options: Options) -> None:
    """See Emitter."""
    tensorflow()
    if options.trt:
        engines.tensorrt_of_tensorflow()


def emit(job: Job) -> Emitted:
    """See Emitter."""
    from jpeg_build.networks.keras_network import KerasNetwork

    network = job.network
    if not isinstance(network, KerasNetwork):
        raise BuildError(f"{job.recipe.path}: --backend tf_trt takes a network of TensorFlow, under [tensorflow]")
    artefact = job.folder / ARTEFACT
    if not job.options.trt:
        if job.precision != "fp32":
            raise BuildError(
                f"--no-trt leaves the SavedModel in fp32: {job.precision} is the precision of TensorRT's engines; "
                "leave out --no-trt, or take --precision fp32"
            )
        job.progress("writing the plain SavedModel")
        network.save(artefact)
        return Emitted(artefact, details={"form": "plain", "operations_in_tensorflow": engines.operations(artefact)[1]})
    return _with_engines(job, network, artefact)


def _with_engines(job: Job, network: KerasNetwork, artefact: Path) -> Emitted:
    """Try the modes of TF-TRT one by one, until the engines of one are proven to run."""
    options = job.options
    if options.min_batch != 1:
        # Triton sends batches of any size, and nothing pads them for TensorFlow.
        raise BuildError(f"--min-batch is {options.min_batch}, but engines of TF-TRT must take batches from 1 on")
    requires = msgspec.convert(engines.tensorrt_of_tensorflow(), Requirements)
    profile = (1, options.opt_batch, options.max_batch)
    # Sizes between those of the profile must run in an engine, too.
    batches = sorted({*profile, min(3, options.max_batch)})
    failures = {}
    with tempfile.TemporaryDirectory() as aside:
        plain, log = Path(aside) / "plain", Path(aside) / "log"
        job.progress("writing the plain SavedModel")
        network.save(plain)
        for mode in engines.MODES:
            converted = Path(aside) / mode
            conversion = engines.Conversion(
                plain=str(plain),
                converted=str(converted),
                precision=job.precision,
                mode=mode,
                batches=profile,
                size=job.recipe.geometry.crop_size,
                workspace_bytes=options.workspace_bytes,
            )
            job.progress(f"building TensorRT engines with TF-TRT (batch mode: {mode})")
            try:
                engines.convert(conversion, log)
                job.progress(f"proving that the engines run, on batches of {', '.join(map(str, batches))}")
                proof = engines.prove(converted, job.recipe.geometry.crop_size, batches, log)
            except engines.EnginesDidNotRun as error:
                failures[mode] = str(error)
                continue
            shutil.move(converted, artefact)
            inside, left = engines.operations(artefact)
            sizes = list(engines.engine_sizes(artefact).values())
            details = {
                "form": "engine",
                "mode": mode,
                "profile": {"min": profile[0], "opt": profile[1], "max": profile[2]},
                "engines": len(sizes),
                "engine_bytes": sizes,
                "operations_in_engines": inside,
                "operations_in_tensorflow": left,
                "engine_calls_by_batch": {str(batch): calls for batch, calls in proof.engine_calls.items()},
                "failed_modes": failures,
            }
            notes = [f"TF-TRT in batch mode {mode} was refused: {why}" for mode, why in failures.items()]
            return Emitted(artefact, requires=requires, details=details, notes=notes)
        kept = cache_folder() / "tf_trt.log"
        shutil.copyfile(log, kept)
    reasons = "; ".join(f"batch mode {mode}: {why}" for mode, why in failures.items())
    raise BuildError(
        f"TF-TRT fell back to TensorFlow's own operations, so there is nothing to gain: {reasons}. --no-trt emits the "
        f"plain SavedModel. TensorFlow's log of the last try: {kept}"
    )


def inspect(artefact: Path) -> dict[str, Any]:
    """See Emitter. Also TensorFlow's version, the engines with their bytes, and the operations inside and outside."""
    signature, version = engines.signature(artefact)
    inside, left = engines.operations(artefact)
    return {
        "inputs": {name: described(tensor) for name, tensor in signature.inputs.items()},
        "outputs": {name: described(tensor) for name, tensor in signature.outputs.items()},
        "tensorflow": version,
        "engines": engines.engine_sizes(artefact),
        "operations_in_engines": inside,
        "operations_in_tensorflow": left,
        "bytes": sum(file.stat().st_size for file in artefact.rglob("*") if file.is_file()),
    }


def described(tensor: Any) -> str:
    """Return a tensor of a signature as text: uint8[N,224,224,3]."""
    name = tensorflow().dtypes.as_dtype(tensor.dtype).name
    return f"{name}[{','.join('N' if dim.size < 0 else str(dim.size) for dim in tensor.tensor_shape.dim)}]"
