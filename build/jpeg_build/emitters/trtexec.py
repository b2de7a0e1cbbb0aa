"""NVIDIA's command-line builder `trtexec`: the command that builds an engine with each version of TensorRT.

Its flags are declared in samples/common/sampleOptions.cpp of github.com/NVIDIA/TensorRT; "Migrating trtexec Usage" in
its documentation lists the changes: 8.x replaced `--workspace` by `--memPoolSize`, 10 removed `--explicitBatch` and
added `--stronglyTyped`, 11 removed the precision flags, since all networks are strongly typed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpeg_contract.tensors import INPUT
from jpeg_contract.versions import release

from jpeg_build.emitters import Options
from jpeg_build.errors import BuildError

Version = tuple[int, ...]

# Sources of tactics, as trtexec and tensorrt.TacticSource name them.
TACTIC_SOURCES = ("CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")

# From this version on, the ONNX file decides the types in the engine; before, flags list the types to choose from.
STRONG_TYPING = 10

# Its path in NVIDIA's packages and images, if it is not on the PATH.
_DEFAULT_PATH = Path("/usr/src/tensorrt/bin/trtexec")

# Errors that TensorRT's tools print behind the one that names the cause.
_CONSEQUENCES = re.compile(
    r"failed to parse onnx file|could not parse onnx|parsing model failed|failed to create engine from model"
    r"|engine set up failed|invalid engine|building engine failed|engine could not be created",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Precision:
    """Precision of an engine, as flags.

    Attributes:
        fp16: TensorRT 8 and 9: allow fp16.
        int8: TensorRT 8 and 9: allow int8.
        tf32: Allow TF32.
        strongly_typed: The ONNX file decides.
        fp32_layers: TensorRT 8 and 9: names of layers of an fp16 file that keep fp32, because they overflow in fp16.
    """

    fp16: bool = False
    int8: bool = False
    tf32: bool = False
    strongly_typed: bool = False
    fp32_layers: tuple[str, ...] = ()


def precision_flags(version: Version, precision: str, fp32_layers: Sequence[str] = ()) -> Precision:
    """Return the flags with which TensorRT builds an ONNX file in the file's own precision.

    TF32 rounds the factors of fp32 layers to 10 bits of mantissa, so it is off for fp32. For int8, TensorRT 8 and 9 may
    use fp16 for the layers that are not quantised.

    Args:
        version: Of TensorRT.
        precision: Of the ONNX file: fp32, fp16 or int8.
        fp32_layers: Layers of an fp16 file that keep fp32.
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
    """Return the command that builds an engine, beginning with `trtexec`.

    Args:
        version: Of trtexec.
        precision: See precision_flags.
        options: Profile, workspace and compatibility.
        image: (height, width).
        onnx: The network.
        engine: Path to write.
        timing_cache: Read and renewed; None for none.
        tactic_sources: Those to use, of TACTIC_SOURCES; None for all.
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
        # Without a unit, every version reads MiB; older ones know no units.
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
        # Several contexts for one profile, which CUDA graphs of several batch sizes need; the default from 10 on.
        parts.append("--preview=+profileSharing0806")
    return [*parts, "--profilingVerbosity=detailed", "--skipInference"]


def parse_version(banner: str) -> Version | None:
    """Parse the version in trtexec's first line: 8.6.1 from `[TensorRT v8601]`, 10.3.0 from `[TensorRT v100300]`.

    The number is NV_TENSORRT_VERSION of NvInferVersion.h: major versions up to 9 count thousands, later ones ten
    thousands; newer builds print dots.

    Returns:
        None if there is no version in the text.
    """
    found = re.search(r"\[TensorRT v([0-9.]+)\]", banner)
    if found is None:
        return None
    if "." in found[1]:
        return release(found[1])
    number = int(found[1])
    if number < 10_000:
        return (number // 1000, number // 100 % 10, number % 100)
    return (number // 10_000, number // 100 % 100, number % 100)


def find() -> tuple[Path, Version]:
    """Find trtexec on this machine.

    Returns:
        Its path and version.

    Raises:
        BuildError: There is none, or it cannot be started.
    """
    on_path = shutil.which("trtexec")
    binary = Path(on_path) if on_path else _DEFAULT_PATH
    if not binary.is_file():
        raise BuildError(
            "there is no trtexec on the PATH: it is in NVIDIA's images nvcr.io/nvidia/tensorrt:YY.MM-py3 and "
            "nvcr.io/nvidia/tritonserver:YY.MM-py3; --tool polygraphy builds the same engine with the Python package",
            reason="trtexec_missing",
        )
    try:
        done = subprocess.run([str(binary), "--help"], capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{binary}: cannot be started: {error}", reason="trtexec_failed") from error
    version = parse_version(done.stdout + done.stderr)
    if version is None:
        detail = last_error(done.stderr) or "it printed no error"
        raise BuildError(f"{binary} does not print its version: {detail}", reason="trtexec_failed")
    return binary, version


def run(binary: Path, arguments: Sequence[str]) -> None:
    """Run trtexec; its output goes to stderr.

    Args:
        binary: See find.
        arguments: See command.

    Raises:
        BuildError: With TensorRT's error.
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
        detail = last_error("".join(lines)) or f"it ended with status {process.returncode}"
        raise BuildError(f"trtexec could not build the engine: {detail}", reason="trtexec_failed")


def last_error(log: str) -> str | None:
    """Return the last error in a log of TensorRT's tools that names a cause, without time and colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    errors = [match[1].strip() for match in re.finditer(r"\[E\]\s*(.*)", plain)]
    causes = [error for error in errors if not _CONSEQUENCES.search(error)]
    return (causes or errors or [None])[-1]
