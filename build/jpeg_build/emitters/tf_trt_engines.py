"""TF-TRT: SavedModels with TensorRT engines inside, and the proof that the engines run.

TF-TRT replaces parts of a graph by TRTEngineOps. A TRTEngineOp without an engine for its input runs TensorFlow's own
operations instead, which only the log shows. So engines are built before the SavedModel is written, and it counts as
converted only if the log of a run shows that each TRTEngineOp runs its engine on every batch size, and no native
segment.

Both steps run as `python -m jpeg_build.emitters.tf_trt_engines convert|run JSON`: TensorFlow reads its log settings
from the environment when it starts, and keeps a GPU's memory until it ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jpeg_contract.remedies import install_command
from jpeg_contract.tensors import INPUT, OUTPUT

from jpeg_build.errors import BuildError, first_line
from jpeg_build.networks.tensorflow_framework import tensorflow

Mode = Literal["dynamic", "implicit"]

# Tried in this order. dynamic: one engine with an optimisation profile over the batch sizes, the only mode of TensorRT
# 10. implicit: an engine for each batch size of the profile, which also takes smaller batches.
MODES: tuple[Mode, ...] = ("dynamic", "implicit")

SIGNATURE = "serving_default"

# Files beside the graph, one for each TRTEngineOp.
ENGINE_FILE = "trt-serialized-engine."

# trt_engine_op.cc logs with VLOG(1) whether a call of a TRTEngineOp runs its engine.
LOGGED = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "trt_engine_op=1"}
# Read by trt_engine_op.cc at each call: the fallback becomes an error.
NO_FALLBACK = {"TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION": "false"}

TIMEOUT_S = 1800

_BATCH = re.compile(r"jpeg-build: a batch of (\d+)$")
_ENGINE = re.compile(r"Executing TRT engine: (?:\S*/)?(\S+)$")
_NATIVE = re.compile(r"Executing native segment: (?:\S*/)?(\S+)$")


@dataclass(frozen=True)
class Conversion:
    """Parameters of a conversion.

    Attributes:
        plain: A SavedModel of the contract.
        converted: Folder to write.
        precision: fp32 or fp16.
        mode: See MODES.
        batches: Smallest batch, the one to tune for, largest.
        size: (height, width) of the images.
        workspace_bytes: Memory for one layer; None leaves it to TF-TRT.
        profile_strategy: Of the mode dynamic, as TF-TRT names it.
        minimum_segment_size: Fewer operations than this stay in TensorFlow.
    """

    plain: str
    converted: str
    precision: str
    mode: Mode
    batches: tuple[int, int, int]
    size: tuple[int, int]
    workspace_bytes: int | None = None
    profile_strategy: str = "Range"
    minimum_segment_size: int = 3


@dataclass(frozen=True)
class Proof:
    """The engines ran.

    Attributes:
        engine_calls: Calls of TRTEngineOps that ran an engine, by batch size.
    """

    engine_calls: dict[int, int]


class EnginesDidNotRun(BuildError):
    """The conversion failed, or TensorFlow's own operations ran instead of engines; the message has the cause."""

    reason = "engines_did_not_run"


def convert(conversion: Conversion, log: Path) -> None:
    """Convert in a process of its own.

    Args:
        conversion: Its parameters.
        log: File for TensorFlow's log.

    Raises:
        EnginesDidNotRun: No engine could be built.
    """
    status = _run("convert", dataclasses.asdict(conversion), log, LOGGED)
    text = log.read_text(encoding="utf-8", errors="replace")
    if status != 0 or "The native segment will be used instead" in text:
        raise EnginesDidNotRun(failure_cause(text))


def prove(folder: Path, size: tuple[int, int], batches: Sequence[int], log: Path) -> Proof:
    """Run a converted SavedModel on noise in a process of its own, and check its log.

    Args:
        folder: The SavedModel.
        size: (height, width) of the images.
        batches: Batch sizes to run.
        log: File for TensorFlow's log.

    Raises:
        EnginesDidNotRun: Not every TRTEngineOp ran its engine on every batch.
    """
    engines = engine_sizes(folder)
    if not engines:
        raise EnginesDidNotRun("the SavedModel has no engine")
    if not all(engines.values()):
        raise EnginesDidNotRun(f"the engine of {', '.join(name for name in engines if not engines[name])} is empty")
    task = {"folder": str(folder), "size": size, "batches": list(batches)}
    status = _run("run", task, log, {**LOGGED, **NO_FALLBACK})
    text = log.read_text(encoding="utf-8", errors="replace")
    if status != 0:
        raise EnginesDidNotRun(failure_cause(text))
    return read_proof(text, sorted(engines), batches)


def read_proof(log: str, engines: Sequence[str], batches: Sequence[int]) -> Proof:
    """Parse TensorFlow's log of a run: see `prove`."""
    calls: dict[int, list[str]] = {}
    for line in log.splitlines():
        if batch := _BATCH.search(line):
            calls[int(batch[1])] = []
        elif native := _NATIVE.search(line):
            raise EnginesDidNotRun(f"{native[1]} ran TensorFlow's own operations on a batch of {max(calls, default=0)}")
        elif (engine := _ENGINE.search(line)) and calls:
            calls[list(calls)[-1]].append(engine[1])
    for batch_size in batches:
        missing = sorted(set(engines) - set(calls.get(batch_size, ())))
        if missing:
            raise EnginesDidNotRun(f"{', '.join(missing)} ran no engine on a batch of {batch_size}")
    return Proof({batch_size: len(calls[batch_size]) for batch_size in batches})


def failure_cause(log: str) -> str:
    """Return the lines of TensorFlow's log that name the cause of a failure, shortened; without any, the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    causes = [
        re.sub(r"^\S+ \S+ [IWEF] \S+\] ", "", line)
        for line in lines
        if re.search(r"Error Code \d|Engine creation for|disallowed engine native|Could not find any engine", line)
    ]
    return "; ".join(dict.fromkeys(line[:400] for line in (causes[:3] or lines[-1:]))) or "TensorFlow logged nothing"


def engine_sizes(folder: Path) -> dict[str, int]:
    """Return the sizes in bytes of the serialised engines in a SavedModel, by TRTEngineOp."""
    return {
        file.name.removeprefix(ENGINE_FILE): file.stat().st_size
        for file in sorted((folder / "assets").glob(f"{ENGINE_FILE}*"))
    }


def signature(folder: Path) -> tuple[Any, str]:
    """Read a SavedModel of the contract.

    Returns:
        Its signature (a SignatureDef), and the version of the TensorFlow that wrote it.

    Raises:
        BuildError: It is not one.
    """
    meta = _meta_graph(folder)
    return meta.signature_def[SIGNATURE], str(meta.meta_info_def.tensorflow_version)


def operations(folder: Path) -> tuple[int, int]:
    """Count the operations of a SavedModel of the contract.

    Returns:
        Those inside TRTEngineOps, and those that TensorFlow runs.

    Raises:
        BuildError: It is not one.
    """
    meta = _meta_graph(folder)
    output = meta.signature_def[SIGNATURE].outputs[OUTPUT]
    functions = {function.signature.name: function.node_def for function in meta.graph_def.library.function}
    calling = [node for node in meta.graph_def.node if node.name == output.name.partition(":")[0]]
    inside = left = 0
    while calling:
        node = calling.pop()
        called = functions.get(node.attr["f"].func.name, ())
        calling += [inner for inner in called if "f" in inner.attr]
        left += sum(_counts(inner) for inner in called)
        for engine in called:
            if engine.op == "TRTEngineOp":
                inside += sum(_counts(inner) for inner in functions.get(engine.attr["segment_func"].func.name, ()))
    return inside, left


def tensorrt_of_tensorflow() -> dict[str, str]:
    """Return the versions that an engine built here is bound to: `tensorflow`, `tensorrt`, `compute_capability`.

    Raises:
        BuildError: TF-TRT cannot run here; the message names all that is missing.
    """
    tf = tensorflow()
    remedy = "--no-trt writes the plain SavedModel; the container nvcr.io/nvidia/tensorflow:25.02-tf2-py3 has all of it"
    if tuple(int(part) for part in tf.__version__.split(".")[:2]) > (2, 17):
        raise BuildError(
            f"this is TensorFlow {tf.__version__}, and 2.17 is the last with TF-TRT: "
            f"{install_command('build-tensorflow')} installs it; {remedy}",
            reason="tf_trt_missing",
        )
    try:
        from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils as utils
        from tensorflow.python.compiler.tensorrt import trt_convert
    except ImportError as error:
        raise BuildError(
            f"this TensorFlow {tf.__version__} has no TF-TRT ({error}); {remedy}", reason="tf_trt_missing"
        ) from error
    linked = ".".join(str(part) for part in utils.get_linked_tensorrt_version())
    if linked == "0.0.0":
        raise BuildError(
            f"this TensorFlow {tf.__version__} was built without TensorRT; {remedy}", reason="tf_trt_missing"
        )
    missing = []
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        missing.append(
            "a GPU that TensorFlow can use (nvidia-smi shows it, and its CUDA libraries come with "
            f"pip install 'tensorflow[and-cuda]=={tf.__version__}')"
        )
    # Reading the version of a TensorRT that cannot be loaded ends the process.
    if not utils.is_tensorrt_enabled():
        missing.append(
            f"TensorRT {linked} (libnvinfer.so.{linked} and libnvinfer_plugin.so.{linked} on LD_LIBRARY_PATH)"
        )
    if missing:
        raise BuildError(f"TF-TRT needs {' and '.join(missing)}; {remedy}", reason="tf_trt_missing")
    try:
        trt_convert._check_trt_version_compatibility()
    except RuntimeError as error:
        loaded = ".".join(str(part) for part in utils.get_loaded_tensorrt_version())
        raise BuildError(
            f"TensorFlow {tf.__version__} was built for TensorRT {linked} and does not accept the installed {loaded}: "
            f"put {linked} on LD_LIBRARY_PATH; {remedy}",
            reason="tensorrt_versions_differ",
        ) from error
    capability = tf.config.experimental.get_device_details(gpus[0])["compute_capability"]
    return {
        "tensorflow": tf.__version__,
        "tensorrt": ".".join(str(part) for part in utils.get_loaded_tensorrt_version()),
        "compute_capability": ".".join(str(part) for part in capability),
    }


def convert_here(conversion: Conversion) -> None:
    """Convert in this process. If an engine cannot be built, TensorFlow only logs it: use `convert`."""
    import numpy as np

    tensorflow()
    from tensorflow.python.compiler.tensorrt import trt_convert

    dynamic = conversion.mode == "dynamic"
    workspace = {} if conversion.workspace_bytes is None else {"max_workspace_size_bytes": conversion.workspace_bytes}
    batches = sorted(set(conversion.batches))
    converter = trt_convert.TrtGraphConverterV2(
        input_saved_model_dir=conversion.plain,
        precision_mode=conversion.precision.upper(),
        use_dynamic_shape=dynamic,
        dynamic_shape_profile_strategy=conversion.profile_strategy if dynamic else None,
        minimum_segment_size=conversion.minimum_segment_size,
        maximum_cached_engines=len(batches),
        allow_build_at_runtime=False,
        **workspace,
    )
    converter.convert()

    def images() -> Any:
        # In implicit mode the smallest first: an engine for a larger batch takes smaller ones, so none would be built.
        for batch in batches:
            yield {INPUT: np.zeros((batch, *conversion.size, 3), np.uint8)}

    converter.build(input_fn=images)
    converter.save(conversion.converted, save_gpu_specific_engines=True)
    name_output(Path(conversion.converted))


def name_output(folder: Path) -> None:
    """Rename the output of a SavedModel's signature to the contract's name, in place.

    TF-TRT saves a function that returns a bare tensor, which TensorFlow names `output_0`. The name is in two places:
    the signature, which Triton's native backend reads, and the object graph, which tf.saved_model.load reads.

    Raises:
        BuildError: The signature has several outputs.
    """
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = folder / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    outputs = meta.signature_def[SIGNATURE].outputs
    if len(outputs) != 1:
        raise BuildError(f"{folder}: TF-TRT wrote {len(outputs)} outputs instead of one: {', '.join(sorted(outputs))}")
    (name,) = outputs
    if name == OUTPUT:
        return
    outputs[OUTPUT].CopyFrom(outputs[name])
    del outputs[name]
    for function in meta.object_graph_def.concrete_functions.values():
        fields = function.output_signature.dict_value.fields
        if list(fields) == [name]:
            fields[OUTPUT].CopyFrom(fields[name])
            fields[OUTPUT].tensor_spec_value.name = OUTPUT
            del fields[name]
    aside = path.with_suffix(".part")
    aside.write_bytes(saved.SerializeToString())
    aside.replace(path)


def run_here(folder: str, size: Sequence[int], batches: Sequence[int]) -> None:
    """Run a SavedModel of the contract on noise, with a line on stderr in front of each batch."""
    import numpy as np

    tf = tensorflow()
    loaded = tf.saved_model.load(folder)
    signature = loaded.signatures[SIGNATURE]
    for batch in batches:
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, *size, 3), np.uint8)
        print(f"jpeg-build: a batch of {batch}", file=sys.stderr, flush=True)
        for output in signature(**{INPUT: tf.constant(pixels)}).values():
            output.numpy()


def _run(step: str, task: dict[str, Any], log: Path, environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", __name__, step, json.dumps(task)]
    with log.open("wb") as sink:
        try:
            return subprocess.run(
                command,
                env={**os.environ, **environment},
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise EnginesDidNotRun(f"TF-TRT did not finish within {TIMEOUT_S // 60} minutes") from error


def _meta_graph(folder: Path) -> Any:
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        (meta,) = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs
    except Exception as error:
        raise BuildError(
            f"{folder}: is not a readable SavedModel: {first_line(error)}", reason="network_not_loaded"
        ) from error
    if SIGNATURE not in meta.signature_def or OUTPUT not in meta.signature_def[SIGNATURE].outputs:
        raise BuildError(
            f"{folder}: has no signature {SIGNATURE} with the output {OUTPUT}: build it with jpeg-build",
            reason="network_not_loaded",
        )
    return meta


def _counts(node: Any) -> bool:
    """Whether a node of a graph is an operation, and not a constant, placeholder, call or engine."""
    names = ("Const", "Placeholder", "Identity", "NoOp", "ReadVariableOp", "TRTEngineOp")
    return node.op not in names and not node.op.endswith("PartitionedCall")


def _main(step: str, task: str) -> None:
    arguments = json.loads(task)
    steps: dict[str, Callable[[], None]] = {
        "convert": lambda: convert_here(Conversion(**{**arguments, "batches": tuple(arguments["batches"])})),
        "run": lambda: run_here(**arguments),
    }
    steps[step]()


if __name__ == "__main__":
    _main(*sys.argv[1:])
