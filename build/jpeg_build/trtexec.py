"""NVIDIA's command-line builder `trtexec`: the line that builds an engine with one version of TensorRT.

Its flags are declared in samples/common/sampleOptions.cpp of github.com/NVIDIA/TensorRT; what changed between versions
is in "Migrating trtexec Usage" of its documentation: `--workspace` gave way to `--memPoolSize` in 8.x, 10 dropped
`--explicitBatch` and has `--stronglyTyped`, 11 dropped the flags of precision, since all networks are strongly typed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpeg_build.contract import INPUT
from jpeg_build.emitters import Options
from jpeg_build.errors import BuildError

Version = tuple[int, ...]

# Where tactics can come from, as trtexec and tensorrt.TacticSource name them.
TACTIC_SOURCES = ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")

# From here on, the types in the ONNX file are the types of the engine; before, flags say what TensorRT may choose from.
STRONG_TYPING = 10

# Where NVIDIA's packages and images put it, if not on the PATH.
_USUAL_PLACE = Path("/usr/src/tensorrt/bin/trtexec")

# What TensorRT's tools say after the line that names the reason.
_AFTERWARDS = re.compile(
    r"failed to parse onnx file|could not parse onnx|parsing model failed|failed to create engine from model"
    r"|engine set up failed|invalid engine|building engine failed|engine could not be created",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Precision:
    """The precision flags of weakly typed TensorRT (8.x, 9.x). Nothing is set where the network decides.

    fp32_layers: names of layers of an fp16 file that keep fp32, for what overflows in fp16.
    """

    fp16: bool = False
    int8: bool = False
    tf32: bool = False
    strongly_typed: bool = False
    fp32_layers: tuple[str, ...] = ()


def precision_flags(version: Version, precision: str, fp32_layers: Sequence[str] = ()) -> Precision:
    """What TensorRT must be told for it to build an ONNX file of this precision as it is written.

    TF32, which rounds the factors of fp32 layers to 10 bits of mantissa, is off for fp32: there the user asked for
    32 bits. A Q/DQ file lets TensorRT 8 take fp16, too, for the layers between that are not quantised.
    """
    tf32 = precision != "fp32"
    if version[0] >= STRONG_TYPING:
        return Precision(tf32=tf32, strongly_typed=True)
    return Precision(
        fp16=precision in ("fp16", "int8"),
        int8=precision == "int8",
        tf32=tf32,
        fp32_layers=tuple(fp32_layers) if precision == "fp16" else (),
    )


def command(
    version: Version,
    *,
    precision: Precision,
    options: Options,
    image: tuple[int, int],
    onnx: Path,
    engine: Path,
    timing_cache: Path | None,
    tactic_sources: Sequence[str] | None = None,
) -> list[str]:
    """The arguments with which trtexec of this version builds the engine, beginning with `trtexec`.

    image: height and width. tactic_sources: those to use, of TACTIC_SOURCES; None for all.
    """
    height, width = image
    shapes = {
        name: f"{INPUT}:{batch}x{height}x{width}x3"
        for name, batch in (
            ("minShapes", options.min_batch),
            ("optShapes", options.opt_batch),
            ("maxShapes", options.max_batch),
        )
    }
    parts = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    parts += [f"--{name}={shape}" for name, shape in shapes.items()]
    if not precision.tf32:
        parts.append("--noTF32")
    if precision.strongly_typed and version[0] == STRONG_TYPING:
        parts.append("--stronglyTyped")
    if precision.fp16:
        parts.append("--fp16")
    if precision.int8:
        parts.append("--int8")
    if precision.fp32_layers:
        kept = ",".join(f"{name}:fp32" for name in precision.fp32_layers)
        parts += ["--precisionConstraints=prefer", f"--layerPrecisions={kept}", f"--layerOutputTypes={kept}"]
    if options.workspace_bytes is not None:
        # Without a unit, the number is of MiB in every version; suffixes came later.
        parts.append(f"--memPoolSize=workspace:{options.workspace_bytes / 2**20:g}")
    if options.builder_level is not None:
        parts.append(f"--builderOptimizationLevel={options.builder_level}")
    if timing_cache is not None:
        parts.append(f"--timingCacheFile={timing_cache}")
    if options.version_compatible:
        parts.append("--versionCompatible")
    if options.hardware_compatible:
        parts.append("--hardwareCompatibilityLevel=ampere+")
    if tactic_sources is not None:
        signed = ",".join(("+" if source in tactic_sources else "-") + source for source in TACTIC_SOURCES)
        parts.append(f"--tacticSources={signed}")
    if version < (STRONG_TYPING,):
        # Several contexts for one profile, which CUDA graphs of several batch sizes need; usual from 10 on.
        parts.append("--preview=+profileSharing0806")
    return [*parts, "--profilingVerbosity=detailed", "--skipInference"]


def parse_version(banner: str) -> Version | None:
    """The version in what trtexec prints first: `[TensorRT v8601]` is 8.6.1, `[TensorRT v100300]` is 10.3.0.

    The number is NV_TENSORRT_VERSION of NvInferVersion.h, which counts major versions by 1000 up to 8 and 9, and by
    10000 from 10 on; newer builds write it with dots.
    """
    found = re.search(r"\[TensorRT v([0-9.]+)\]", banner)
    if found is None:
        return None
    if "." in found[1]:
        return parse_dotted(found[1])
    number = int(found[1])
    if number < 10_000:
        return (number // 1000, number // 100 % 10, number % 100)
    return (number // 10_000, number // 100 % 100, number % 100)


def parse_dotted(text: str) -> Version:
    """(8, 6, 1) of "8.6.1" or "8.6.1.post1": the first three numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def find() -> tuple[Path, Version]:
    """The trtexec of this machine and its version.

    Raises BuildError if there is none, or if it cannot be started.
    """
    on_path = shutil.which("trtexec")
    binary = Path(on_path) if on_path else _USUAL_PLACE
    if not binary.is_file():
        raise BuildError(
            "there is no trtexec on the PATH: it is in NVIDIA's images nvcr.io/nvidia/tensorrt:YY.MM-py3 and "
            "nvcr.io/nvidia/tritonserver:YY.MM-py3; --tool polygraphy builds the same engine with the Python package"
        )
    try:
        said = subprocess.run([str(binary), "--help"], capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{binary}: cannot be started: {error}") from error
    version = parse_version(said.stdout + said.stderr)
    if version is None:
        raise BuildError(f"{binary} does not say its version: {last_error(said.stderr) or 'it printed nothing'}")
    return binary, version


def run(binary: Path, arguments: Sequence[str]) -> None:
    """Run a line that `command` made; what it prints goes to stderr.

    Raises BuildError with TensorRT's reason.
    """
    lines = []
    with subprocess.Popen(
        [str(binary), *arguments[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            sys.stderr.write(line)
    if process.returncode:
        reason = last_error("".join(lines)) or f"it ended with status {process.returncode}"
        raise BuildError(f"trtexec could not build the engine: {reason}")


def last_error(log: str) -> str | None:
    """The last line of a log of TensorRT's tools that is an error and names a reason, without time and colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    errors = [match[1].strip() for match in re.finditer(r"\[E\]\s*(.*)", plain)]
    named = [error for error in errors if not _AFTERWARDS.search(error)]
    return (named or errors or [None])[-1]
