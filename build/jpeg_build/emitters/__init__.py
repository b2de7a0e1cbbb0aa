"""What turns a network into the artefact of one backend.

Each module here has the functions of Emitter: `emit` makes the artefact, `opened` runs one, `inspect` describes one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from jpeg_build.network import Network
from jpeg_build.recipe import Recipe
from jpeg_build.targets import Target

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
Run = Callable[[Pixels], Logits]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What a user may choose beyond recipe, backend and precision.

    min_batch, opt_batch, max_batch: the optimisation profile: which batch sizes an engine takes, and which one it is
    tuned for. workspace_bytes: memory that TensorRT may use while it runs a layer; None leaves it to TensorRT.
    builder_level: how long TensorRT searches for kernels, 0 to 5; None is TensorRT's own choice, 3. version_compatible:
    an engine that later TensorRT versions of the same major load, too. hardware_compatible: one that runs on other
    GPUs, of Ampere or later. timing_cache: a file of measured kernels, read and renewed. keep_onnx: a file for the ONNX
    network that an engine is built from. tool: what builds it. trt: False leaves TensorRT out of torch_tensorrt and
    tf_trt. per_gpu: name the engine after the GPU's compute capability, beside those of other GPUs.
    """

    min_batch: int = 1
    opt_batch: int = 16
    max_batch: int = 64
    workspace_bytes: int | None = None
    builder_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    timing_cache: Path | None = None
    keep_onnx: Path | None = None
    tool: Literal["polygraphy", "trtexec"] = "polygraphy"
    trt: bool = True
    per_gpu: bool = False


@dataclass(frozen=True)
class Job:
    """One artefact that is to be made.

    folder: empty; the artefact goes into it. photos: decoded photos, NHWC uint8, for what must see real values.
    calibration: images for int8 in the same form; called only where they are needed.
    """

    recipe: Recipe
    network: Network
    precision: str
    folder: Path
    photos: Pixels
    calibration: Callable[[], Pixels]
    options: Options
    say: Say


@dataclass(frozen=True)
class Emitted:
    """An artefact that was made.

    requires: what it can be served with, for the report; `jpeg-serve` compares it with what is there. Keys:
    `compute_capability` ("9.0"), `hardware_compatible` (bool), `version_compatible` (bool), and names of packages with
    their versions (`tensorrt`, `torch`, `torch_tensorrt`, `tensorflow`).
    details: what else the report should say: the form it has ("engine", "plain"), the profile, what fell back.
    parameters: entries of the config that this artefact needs, by the native backend's names.
    notes: lines for the user.
    """

    artefact: Path
    requires: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Emitter(Protocol):
    """The functions of a module in this package."""

    def require_tools(self, options: Options) -> None:
        """Raises BuildError if this machine has not what `emit` needs; called before minutes are spent."""
        ...

    def emit(self, job: Job) -> Emitted:
        """Make the artefact in `job.folder`. Raises BuildError, naming what is missing and which command has it."""
        ...

    def opened(self, artefact: Path) -> AbstractContextManager[Run]:
        """Load an artefact: (N, H, W, 3) uint8 pixels to (N, classes) float32 logits. Raises BuildError."""
        ...

    def inspect(self, artefact: Path) -> dict[str, Any]:
        """What is inside, JSON-ready: at least `inputs` and `outputs` ({name: "uint8[N,224,224,3]"}).

        Raises BuildError.
        """
        ...


def emitter(target: Target) -> Emitter:
    """The module that makes the artefacts of a target."""
    return cast(Emitter, importlib.import_module(f"{__name__}.{target.name}"))
