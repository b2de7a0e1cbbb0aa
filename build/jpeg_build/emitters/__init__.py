"""Emitters: each turns a network into the artefact of one classifier form.

Each module here has the functions of Emitter: `emit` makes the artefact, `inspect` describes one. Artefacts are opened
by `jpeg_runtime` only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
from jpeg_contract.command_line import Progress
from jpeg_contract.forms import ClassifierForm
from jpeg_contract.report import Quantisation, Requirements
from numpy.typing import NDArray

from jpeg_build.networks.network import Network
from jpeg_build.recipe.recipe import Recipe

if TYPE_CHECKING:
    from jpeg_build.emitters.int8_search import Int8Search

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
Run = Callable[[Pixels], Logits]


@dataclass(frozen=True)
class Options:
    """Options of a build beyond recipe, backend and precision.

    Attributes:
        min_batch: Smallest batch that an engine takes.
        opt_batch: Batch that it is tuned for.
        max_batch: Largest batch that it takes.
        workspace_bytes: Memory that TensorRT may use for one layer; None leaves it to TensorRT.
        builder_level: How long TensorRT searches for kernels, 0 to 5; None is TensorRT's own choice, 3.
        version_compatible: Later TensorRT versions of the same major load the engine, too.
        hardware_compatible: The engine runs on all GPUs of Ampere or later.
        timing_cache: File of measured kernels, read and renewed.
        keep_onnx: File for the ONNX network that an engine is built from.
        tool: The builder.
        trt: False leaves TensorRT out of torch_tensorrt and tf_trt.
        per_gpu: Name the engine after the GPU's compute capability, beside those of other GPUs.
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
    """One artefact to make.

    Attributes:
        recipe: Of the network.
        network: The trained network.
        precision: One of the form's.
        folder: An empty folder for the artefact.
        photos: Decoded photos, NHWC uint8, for steps that need real values.
        calibration: Returns images for int8 in the same form; called only where they are needed.
        options: See Options.
        progress: Takes the steps of the work.
        int8: Chooses among the int8 forms of the network; None takes the first one, unchecked.
    """

    recipe: Recipe
    network: Network
    precision: str
    folder: Path
    photos: Pixels
    calibration: Callable[[], Pixels]
    options: Options
    progress: Progress
    int8: Int8Search | None = None


@dataclass(frozen=True)
class Emitted:
    """An artefact that was made.

    Attributes:
        artefact: File or folder.
        requires: What it can be served with, for the report; `jpeg-serve` compares it with the machine.
        details: For the report: the form inside ("engine", "plain"), the profile, fallbacks.
        parameters: Entries of the config that this artefact needs, by the native backend's names.
        alternatives: Further parameters to try, in this order, if the artefact is not within its tolerance as the
            server runs it without them; each with a phrase that describes it.
        notes: Lines for the user.
        quantisation: How an int8 artefact was found, for the report.
    """

    artefact: Path
    requires: Requirements = field(default_factory=Requirements)
    details: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    alternatives: Sequence[tuple[str, Mapping[str, str]]] = ()
    notes: Sequence[str] = ()
    quantisation: Quantisation | None = None


class Emitter(Protocol):
    """The functions of an emitter module."""

    def require_tools(self, options: Options) -> None:
        """Raise BuildError if this machine lacks what `emit` needs; called before minutes are spent."""
        ...

    def emit(self, job: Job) -> Emitted:
        """Make the artefact in `job.folder`. Raises BuildError: what is missing, and the command that brings it."""
        ...

    def inspect(self, artefact: Path) -> dict[str, Any]:
        """Describe an artefact, JSON-ready: at least `inputs` and `outputs` ({name: "uint8[N,224,224,3]"}).

        Raises BuildError.
        """
        ...


def emitter(form: ClassifierForm) -> Emitter:
    """Return the module that makes the artefacts of a form."""
    return cast(Emitter, importlib.import_module(form.emitter))
