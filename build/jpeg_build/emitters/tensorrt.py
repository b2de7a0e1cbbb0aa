"""TensorRT engines, built from the ONNX file of the wanted precision with TensorRT 8.6 to 11.

Polygraphy's Python API does the work, or `trtexec` with the line that is noted for every build.

The environment variable JPEG_BUILD_TACTIC_SOURCES names where TensorRT may take kernels from, separated by commas:
CUBLAS, CUBLAS_LT, CUDNN, EDGE_MASK_CONVOLUTIONS, JIT_CONVOLUTIONS (default: all that TensorRT uses by itself). On a
machine without cuBLAS and cuDNN, engines can be built with EDGE_MASK_CONVOLUTIONS,JIT_CONVOLUTIONS.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpeg_contract.gpus import at_least_ampere
from jpeg_contract.remedies import install_command
from jpeg_contract.report import Requirements
from jpeg_contract.tensors import INPUT
from jpeg_contract.versions import release
from jpeg_runtime.serving_config import ModelLoadError
from jpeg_runtime.tensorrt_engine import deserialise

from jpeg_build.emitters import Emitted, Job, Options, trtexec
from jpeg_build.emitters.precision import write_onnx
from jpeg_build.errors import BuildError, first_line
from jpeg_build.gpu import cache_folder, require_gpu

TACTIC_SOURCES_VARIABLE = "JPEG_BUILD_TACTIC_SOURCES"

# Operators that move values and compute none: they take the precision of their neighbours.
_MOVES = {
    *("Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Flatten", "Gather", "Identity"),
    *("Pad", "QuantizeLinear", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
# TensorRT's names of types that NumPy names differently.
_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class _Plan:
    """How to build one engine."""

    version: trtexec.Version
    version_text: str
    precision: trtexec.Precision
    tactic_sources: Sequence[str] | None


def require_tools(options: Options) -> None:
    """See Emitter."""
    gpu = require_gpu()
    if options.hardware_compatible and not at_least_ampere(gpu.compute_capability):
        raise BuildError(
            f"engines for other GPUs can be built on Ampere (compute capability 8.0) or later, and {gpu.name} has "
            f"{gpu.compute_capability}: build without --hardware-compatible"
        )
    _tensorrt()
    if options.tool == "trtexec":
        trtexec.find()


def emit(job: Job) -> Emitted:
    """See Emitter. Runs on the kind of GPU that serves the engine."""
    require_tools(job.options)
    gpu, options, trt = require_gpu(), job.options, _tensorrt()
    binary, version = trtexec.find() if options.tool == "trtexec" else (None, release(trt.__version__))
    if version[:2] != release(trt.__version__)[:2]:
        raise BuildError(
            f"trtexec is of TensorRT {'.'.join(map(str, version))} and Python's package of {trt.__version__}, which "
            "cannot run the engine to check it: install the same version of both",
            reason="tensorrt_versions_differ",
        )
    artefact = job.folder / (f"model_{gpu.architecture}.plan" if options.per_gpu else "model.plan")
    with tempfile.TemporaryDirectory(prefix="jpeg-build-") as scratch:
        onnx = Path(scratch) / "model.onnx"
        made = write_onnx(job, onnx, dialect="tensorrt")
        if options.keep_onnx is not None:
            shutil.copyfile(onnx, options.keep_onnx)
        plan = _Plan(
            version,
            trt.__version__,
            trtexec.precision_flags(version, job.precision, fp32_layers(onnx)),
            _tactic_sources(os.environ.get(TACTIC_SOURCES_VARIABLE), list(trt.TacticSource.__members__)),
        )
        cache = options.timing_cache or cache_folder() / f"tensorrt-{trt.__version__}-{gpu.architecture}.timing"
        with _timing_cache(cache, Path(scratch)) as copy:
            job.progress(f"building the engine with TensorRT {trt.__version__} for {gpu.name}; this takes minutes")
            if binary is not None:
                trtexec.run(binary, _command(plan, job, onnx, artefact, copy))
            else:
                _build(plan, job, onnx=onnx, artefact=artefact, cache=copy)
    layers = int(_engine(artefact).num_layers)
    kept = Path((options.keep_onnx or Path("model.onnx")).name)
    line = shlex.join(_command(plan, job, kept, Path(artefact.name), Path("timing.cache")))
    return Emitted(
        artefact,
        requires=Requirements(
            tensorrt=trt.__version__,
            compute_capability=gpu.compute_capability,
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
        ),
        details={
            **made.details,
            "form": "engine",
            "gpu": gpu.name,
            "profile": {"min": options.min_batch, "opt": options.opt_batch, "max": options.max_batch},
            "engines": 1,
            "engine_bytes": [artefact.stat().st_size],
            "layers": layers,
            "tool": options.tool,
            "trtexec": line,
        },
        # For the embedded backend. The native one has it as an option of the server: version-compatible=true.
        parameters={"version_compatible": "true"} if options.version_compatible else {},
        notes=[
            *made.notes,
            f"the same with trtexec of TensorRT {plan.version_text} (--keep-onnx FILE keeps the network): {line}",
        ],
        quantisation=made.quantisation,
    )


def inspect(artefact: Path) -> dict[str, Any]:
    """See Emitter. Also profiles, size, and `inspection`: the lines of `polygraphy inspect model --show layers`."""
    require_gpu()
    trt, engine = _tensorrt(), _engine(artefact)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    described = {name: _describe(engine.get_tensor_dtype(name).name, engine.get_tensor_shape(name)) for name in names}

    def profile_of(name: str, profile: int) -> dict[str, list[int]]:
        shapes = engine.get_tensor_profile_shape(name, profile)
        return dict(zip(("min", "opt", "max"), map(list, shapes), strict=True))

    return {
        "inputs": {name: described[name] for name in inputs},
        "outputs": {name: described[name] for name in names if name not in inputs},
        "tensorrt": trt.__version__,
        "profiles": [
            {name: profile_of(name, profile) for name in inputs} for profile in range(engine.num_optimization_profiles)
        ],
        "layers": int(engine.num_layers),
        "engine_bytes": [artefact.stat().st_size],
        "inspection": _inspection(artefact, engine),
    }


def _inspection(artefact: Path, engine: Any) -> list[str]:
    """Return what Polygraphy's command says of an engine; if it fails, TensorRT's own list of layers.

    The command runs as a process of its own, since it may crash (see `_engine`).
    """
    command = "import sys; from polygraphy.tools import main; sys.exit(main())"
    arguments = [
        "inspect",
        "model",
        str(artefact),
        "--model-type=engine",
        "--show",
        "layers",
        "--log-format",
        "no-colors",
    ]
    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False)
    lines = done.stdout.rstrip().splitlines()
    title = next((place for place, line in enumerate(lines) if "====" in line), None)
    if done.returncode == 0 and title is not None:
        return lines[title:]
    how = _tensorrt().LayerInformationFormat.ONELINE
    lines = str(engine.create_engine_inspector().get_engine_information(how)).splitlines()
    return [f"(polygraphy inspect failed with exit status {done.returncode}; this is TensorRT's own list)", *lines]


def fp32_layers(path: Path) -> list[str]:
    """Return the nodes of an fp16 ONNX file that compute in fp32, by name; TensorRT's parser keeps the names.

    Empty for a file of one type. TensorRT 10 and later read this from the file themselves.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    computing = [node for node in graph.node if node.op_type not in _MOVES and node.output]
    if not any(types.get(node.output[0]) == onnx.TensorProto.FLOAT16 for node in computing):
        return []
    kept = [node.name for node in computing if types.get(node.output[0]) == onnx.TensorProto.FLOAT]
    # trtexec separates names from types by colons, and entries by commas.
    return [name for name in kept if name and not set(name) & {":", ",", "*"}]


def _build(plan: _Plan, job: Job, *, onnx: Path, artefact: Path, cache: Path) -> None:
    """Build with Polygraphy, whose functions know the options of each version of TensorRT."""
    trt, options, precision = _tensorrt(), job.options, plan.precision
    height, width = job.recipe.geometry.crop_size
    with _polygraphy("TensorRT could not build the engine"):
        from polygraphy.backend.common import SaveBytes
        from polygraphy.backend.trt import (
            CreateConfig,
            EngineBytesFromNetwork,
            NetworkFromOnnxPath,
            PostprocessNetwork,
            Profile,
        )

        compatible = options.version_compatible or options.hardware_compatible
        profile = Profile()
        profile.add(
            INPUT, *((batch, height, width, 3) for batch in (options.min_batch, options.opt_batch, options.max_batch))
        )
        network = NetworkFromOnnxPath(
            str(onnx),
            # Compatible engines cannot hold the plugin that TensorRT 8 takes for this by default; later ones do not.
            flags=[trt.OnnxParserFlag.NATIVE_INSTANCENORM] if compatible and plan.version[0] < 10 else None,
            strongly_typed=precision.strongly_typed,
        )
        if precision.fp32_layers:
            network = PostprocessNetwork(network, _Fp32(trt, precision.fp32_layers))
        config = CreateConfig(
            tf32=precision.tf32,
            fp16=precision.fp16,
            int8=precision.int8,
            precision_constraints="prefer" if precision.fp32_layers else None,
            profiles=[profile],
            load_timing_cache=str(cache) if cache.is_file() else None,
            memory_pool_limits={trt.MemoryPoolType.WORKSPACE: options.workspace_bytes}
            if options.workspace_bytes is not None
            else None,
            tactic_sources=[getattr(trt.TacticSource, name) for name in plan.tactic_sources]
            if plan.tactic_sources is not None
            else None,
            hardware_compatibility_level=trt.HardwareCompatibilityLevel.AMPERE_PLUS
            if options.hardware_compatible
            else None,
            version_compatible=options.version_compatible,
            builder_optimization_level=options.builder_level,
            preview_features=_preview_features(trt, plan.version),
        )
        SaveBytes(EngineBytesFromNetwork(network, config, save_timing_cache=str(cache)), str(artefact))()


def _preview_features(trt: Any, version: trtexec.Version) -> list[Any] | None:
    """Return the features that let several contexts run one profile, as CUDA graphs of several batch sizes need.

    The default from TensorRT 10 on. Polygraphy switches off features outside the list: it includes the two that are on
    by default in 8.6.
    """
    if version >= (10,):
        return None
    names = ("FASTER_DYNAMIC_SHAPES_0805", "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", "PROFILE_SHARING_0806")
    return [getattr(trt.PreviewFeature, name) for name in names if hasattr(trt.PreviewFeature, name)]


class _Fp32:
    """Keeps layers of a weakly typed network in fp32, by name."""

    def __init__(self, trt: Any, names: Sequence[str]) -> None:
        self._trt, self._names = trt, set(names)

    def __call__(self, network: Any) -> None:
        for layer in network:
            if layer.name in self._names:
                layer.precision = self._trt.float32
                for index in range(layer.num_outputs):
                    layer.set_output_type(index, self._trt.float32)


def _command(plan: _Plan, job: Job, onnx: Path, engine: Path, cache: Path) -> list[str]:
    return trtexec.command(
        plan.version,
        precision=plan.precision,
        options=job.options,
        image=job.recipe.geometry.crop_size,
        onnx=onnx,
        engine=engine,
        timing_cache=cache,
        tactic_sources=plan.tactic_sources,
    )


def _tensorrt() -> Any:
    """Return the package `tensorrt`. Raises BuildError if it is missing or does not load."""
    try:
        import tensorrt
        from polygraphy.backend import trt  # noqa: F401
    except ModuleNotFoundError as error:
        raise BuildError(
            f"the package {error.name} is not installed: {install_command('tensorrt')}, or build in "
            "NVIDIA's image nvcr.io/nvidia/tensorrt:YY.MM-py3"
        ) from error
    except Exception as error:
        raise BuildError(
            f"the package tensorrt does not load ({first_line(error)}): "
            "install it anew, or build in NVIDIA's image nvcr.io/nvidia/tensorrt:YY.MM-py3"
        ) from error
    return tensorrt


def _tactic_sources(wanted: str | None, known: Sequence[str]) -> list[str] | None:
    """Return the names in JPEG_BUILD_TACTIC_SOURCES. Raises BuildError if this TensorRT has no such source."""
    if wanted is None:
        return None
    names = [name.strip().upper() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise BuildError(f"{TACTIC_SOURCES_VARIABLE} names {name}, but this TensorRT has {', '.join(known)}")
    return names


@contextmanager
def _timing_cache(cache: Path, scratch: Path) -> Iterator[Path]:
    """Return a copy of the timing cache, to be read and renewed; it replaces the cache if the build succeeds."""
    copy = scratch / "timing.cache"
    if cache.is_file():
        shutil.copyfile(cache, copy)
    yield copy
    if copy.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as aside:
            shutil.copyfile(copy, Path(aside) / cache.name).replace(cache)


def _engine(artefact: Path) -> Any:
    """Load an engine into GPU memory.

    Not through Polygraphy, whose queries end the process where the Python bindings of TensorRT are of another release
    than its libraries, although such a pair builds and runs engines (Polygraphy 0.53, TensorRT 8.6).
    """
    try:
        return deserialise(artefact, version_compatible=True)
    except ModelLoadError as error:
        raise BuildError(str(error), reason=error.reason) from error


@contextmanager
def _polygraphy(failed: str) -> Iterator[None]:
    """Redirect the output of Polygraphy and TensorRT to stderr, errors only, and map a failure to a BuildError.

    Polygraphy's own logger prints to stdout, coloured.
    """
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    captured = _Tee(sys.stderr)
    severity, colors = G_LOGGER.module_severity, G_LOGGER.colors
    G_LOGGER.module_severity, G_LOGGER.colors = G_LOGGER.ERROR, False
    try:
        with contextlib.redirect_stdout(captured):
            yield
    # The bindings raise TypeError where TensorRT could not make an object.
    except (PolygraphyException, OSError, RuntimeError, TypeError) as error:
        reason = trtexec.last_error(captured.text) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BuildError(f"{failed}: {reason}") from error
    finally:
        G_LOGGER.module_severity, G_LOGGER.colors = severity, colors


# TensorRT 8.6 prints these when it reads its own timing cache: it cannot read the part of its graph compiler, Myelin,
# and measures that part again. The rest is used: 39 s without the cache, 21 s with it (MobileNetV2, fp32, H100).
_HARMLESS = ("myelinCache.h::deserializeFromBuffer", "The timing cache will not be used!")


class _Tee(io.TextIOBase):
    """Passes text on and keeps a copy, without the lines that mean nothing."""

    def __init__(self, to: Any) -> None:
        self._to, self.text, self._line = to, "", ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if not any(harmless in line for harmless in _HARMLESS):
                self.text += f"{line}\n"
                self._to.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self._to.flush()


def _describe(kind: str, shape: Sequence[int]) -> str:
    """`uint8[N,224,224,3]`."""
    return f"{_TYPES.get(kind, kind.lower())}[{','.join('N' if size < 0 else str(size) for size in shape)}]"
