"""TF-TRT: a SavedModel with TensorRT engines inside, and the proof that they run.

TF-TRT replaces parts of a graph by TRTEngineOps. One that finds no engine for its input runs TensorFlow's own
operations instead, and says so in the log only. So engines are built here before the SavedModel is written, and a
SavedModel counts as converted only after a process of its own, which reads TensorFlow's log, has seen each TRTEngineOp
run its engine on every batch size, and no native segment.

Both steps run as `python -m jpeg_build.tf_trt_engines convert|run JSON`: TensorFlow reads what it should log from the
environment when it starts, and keeps a GPU's memory until it ends.
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

from jpeg_build.contract import INPUT, OUTPUT
from jpeg_build.errors import BuildError
from jpeg_build.tensorflow_framework import first_line, tensorflow

Mode = Literal["dynamic", "implicit"]

# What is tried, in this order. dynamic: one engine with an optimisation profile over the batch sizes, the only mode
# that TensorRT 10 has. implicit: an engine for each batch size of the profile; one built for B takes all below it.
MODES: tuple[Mode, ...] = ("dynamic", "implicit")

SIGNATURE = "serving_default"

# TensorFlow puts these files beside the graph, one for each TRTEngineOp.
ENGINE_FILE = "trt-serialized-engine."

# trt_engine_op.cc logs with VLOG(1) which way each call of a TRTEngineOp goes.
LOGGED = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "trt_engine_op=1"}
# Read at each call by trt_engine_op.cc: the fallback becomes an error.
NO_FALLBACK = {"TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION": "false"}

TIMEOUT_S = 1800

_BATCH = re.compile(r"jpeg-build: a batch of (\d+)$")
_ENGINE = re.compile(r"Executing TRT engine: (?:\S*/)?(\S+)$")
_NATIVE = re.compile(r"Executing native segment: (?:\S*/)?(\S+)$")


@dataclass(frozen=True)
class Conversion:
    """What to convert, and how.

    plain: a SavedModel with `input__0`. converted: where the new one goes. batches: smallest, tuned for, largest.
    workspace_bytes: memory for a layer; None leaves it to TF-TRT. profile_strategy: of the mode dynamic, as TF-TRT
    names them. minimum_segment_size: fewer operations than these stay in TensorFlow.
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
    """What ran, by batch size: how many calls of TRTEngineOps ran an engine."""

    engine_calls: dict[int, int]


class EnginesDidNotRun(BuildError):
    """The conversion failed, or TensorFlow's own operations ran instead of engines. The message says why."""


def convert(conversion: Conversion, log: Path) -> None:
    """Convert in a process of its own; TensorFlow's log goes into `log`.

    Raises EnginesDidNotRun if no engine could be built.
    """
    done = _run("convert", dataclasses.asdict(conversion), log, LOGGED)
    said = log.read_text(encoding="utf-8", errors="replace")
    if done != 0 or "The native segment will be used instead" in said:
        raise EnginesDidNotRun(reason(said))


def prove(folder: Path, size: tuple[int, int], batches: Sequence[int], log: Path) -> Proof:
    """Run a converted SavedModel on noise in a process of its own, and read in its log what ran.

    Raises EnginesDidNotRun unless each TRTEngineOp ran its engine on each batch, and nothing else.
    """
    engines = engine_sizes(folder)
    if not engines:
        raise EnginesDidNotRun("the SavedModel holds no engine")
    if not all(engines.values()):
        raise EnginesDidNotRun(f"the engine of {', '.join(name for name in engines if not engines[name])} is empty")
    task = {"folder": str(folder), "size": size, "batches": list(batches)}
    done = _run("run", task, log, {**LOGGED, **NO_FALLBACK})
    said = log.read_text(encoding="utf-8", errors="replace")
    if done != 0:
        raise EnginesDidNotRun(reason(said))
    return read_proof(said, sorted(engines), batches)


def read_proof(log: str, engines: Sequence[str], batches: Sequence[int]) -> Proof:
    """What TensorFlow's log says of a run: see `prove`."""
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


def reason(log: str) -> str:
    """The lines of TensorFlow's log that say why something failed, shortened; the last line if there is none."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [
        re.sub(r"^\S+ \S+ [IWEF] \S+\] ", "", line)
        for line in lines
        if re.search(r"Error Code \d|Engine creation for|disallowed engine native|Could not find any engine", line)
    ]
    return "; ".join(dict.fromkeys(line[:400] for line in (telling[:3] or lines[-1:]))) or "it said nothing"


def engine_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the serialised engines of each TRTEngineOp in a SavedModel."""
    return {
        file.name.removeprefix(ENGINE_FILE): file.stat().st_size
        for file in sorted((folder / "assets").glob(f"{ENGINE_FILE}*"))
    }


def signature(folder: Path) -> tuple[Any, str]:
    """The signature of a SavedModel of the contract (a SignatureDef), and the TensorFlow that wrote it.

    Raises BuildError if there is none.
    """
    meta = _meta_graph(folder)
    return meta.signature_def[SIGNATURE], str(meta.meta_info_def.tensorflow_version)


def operations(folder: Path) -> tuple[int, int]:
    """Operations of a SavedModel's signature inside TRTEngineOps, and those left to TensorFlow.

    Raises BuildError if there is no SavedModel of the contract.
    """
    meta = _meta_graph(folder)
    answer = meta.signature_def[SIGNATURE].outputs[OUTPUT]
    functions = {function.signature.name: function.node_def for function in meta.graph_def.library.function}
    calling = [node for node in meta.graph_def.node if node.name == answer.name.partition(":")[0]]
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
    """What an engine made here is bound to: `tensorflow`, `tensorrt` and `compute_capability`.

    Raises BuildError, naming all that is missing.
    """
    tf = tensorflow()
    plain = "--no-trt emits the plain SavedModel, and the container nvcr.io/nvidia/tensorflow:25.02-tf2-py3 has it all"
    if tuple(int(part) for part in tf.__version__.split(".")[:2]) > (2, 17):
        raise BuildError(
            f"this is TensorFlow {tf.__version__}, and TF-TRT ended with 2.17: `make build-tensorflow` "
            f"installs that; {plain}"
        )
    try:
        from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils as utils
        from tensorflow.python.compiler.tensorrt import trt_convert
    except ImportError as error:
        raise BuildError(f"this TensorFlow {tf.__version__} has no TF-TRT ({error}); {plain}") from error
    linked = ".".join(str(part) for part in utils.get_linked_tensorrt_version())
    if linked == "0.0.0":
        raise BuildError(f"this TensorFlow {tf.__version__} was built without TensorRT; {plain}")
    missing = []
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        missing.append(
            "a GPU that TensorFlow can use (nvidia-smi shows it, and its CUDA libraries come with "
            f"pip install 'tensorflow[and-cuda]=={tf.__version__}')"
        )
    # Asking for the version of a TensorRT that cannot be loaded ends the process.
    if not utils.is_tensorrt_enabled():
        missing.append(
            f"TensorRT {linked} (libnvinfer.so.{linked} and libnvinfer_plugin.so.{linked} on LD_LIBRARY_PATH)"
        )
    if missing:
        raise BuildError(f"TF-TRT needs {' and '.join(missing)}; {plain}")
    try:
        trt_convert._check_trt_version_compatibility()
    except RuntimeError as error:
        loaded = ".".join(str(part) for part in utils.get_loaded_tensorrt_version())
        raise BuildError(
            f"TensorFlow {tf.__version__} was built for TensorRT {linked} and does not take {loaded}, which it found: "
            f"put {linked} on LD_LIBRARY_PATH; {plain}"
        ) from error
    capability = tf.config.experimental.get_device_details(gpus[0])["compute_capability"]
    return {
        "tensorflow": tf.__version__,
        "tensorrt": ".".join(str(part) for part in utils.get_loaded_tensorrt_version()),
        "compute_capability": ".".join(str(part) for part in capability),
    }


def convert_here(conversion: Conversion) -> None:
    """Convert in this process. TensorFlow logs and falls back if an engine cannot be built: use `convert`."""
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
        # In implicit mode the smallest first: a larger engine would take the smaller batches, and none be built.
        for batch in batches:
            yield {INPUT: np.zeros((batch, *conversion.size, 3), np.uint8)}

    converter.build(input_fn=images)
    converter.save(conversion.converted, save_gpu_specific_engines=True)
    name_output(Path(conversion.converted))


def name_output(folder: Path) -> None:
    """Give the one output of a SavedModel's signature the contract's name.

    TF-TRT saves a function that returns a bare tensor, which TensorFlow names `output_0`. The name is in two places:
    the signature, which Triton's native backend reads, and the object graph, which tf.saved_model.load reads.

    Raises BuildError if the signature has several outputs.
    """
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = folder / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    (meta,) = saved.meta_graphs
    outputs = meta.signature_def[SIGNATURE].outputs
    if len(outputs) != 1:
        raise BuildError(f"{folder}: TF-TRT made {len(outputs)} outputs of one: {', '.join(sorted(outputs))}")
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
    """Run a SavedModel of the contract on noise, and say on stderr before each batch which one comes."""
    import numpy as np

    tf = tensorflow()
    loaded = tf.saved_model.load(folder)
    signature = loaded.signatures["serving_default"]
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
            raise EnginesDidNotRun(f"TF-TRT was not ready after {TIMEOUT_S // 60} minutes") from error


def _meta_graph(folder: Path) -> Any:
    tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        (meta,) = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs
    except Exception as error:
        raise BuildError(f"{folder}: is no SavedModel that can be read: {first_line(error)}") from error
    if SIGNATURE not in meta.signature_def or OUTPUT not in meta.signature_def[SIGNATURE].outputs:
        raise BuildError(f"{folder}: has no signature {SIGNATURE} with the output {OUTPUT}: build it with jpeg-build")
    return meta


def _counts(node: Any) -> bool:
    """Whether a node of a graph is an operation, and not a constant, a name, a call or an engine."""
    names = ("Const", "Placeholder", "Identity", "NoOp", "ReadVariableOp", "TRTEngineOp")
    return node.op not in names and not node.op.endswith("PartitionedCall")


def _main(step: str, task: str) -> None:
    said = json.loads(task)
    steps: dict[str, Callable[[], None]] = {
        "convert": lambda: convert_here(Conversion(**{**said, "batches": tuple(said["batches"])})),
        "run": lambda: run_here(**said),
    }
    steps[step]()


if __name__ == "__main__":
    _main(*sys.argv[1:])
