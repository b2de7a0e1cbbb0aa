"""One record per classifier form: its names, its runtime, its options, its requirements.

Everything else reads the record. A form is added by a record here, a loader in `jpeg_runtime` and an emitter in
`jpeg_build.emitters`; or, outside this project, by a package with an entry point of the group `jpeg_contract.forms`
that names a record, whose loader and emitter may lie anywhere.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import msgspec

from jpeg_contract.model_names import own_name, split_classifier
from jpeg_contract.remedies import install_command
from jpeg_contract.tensors import CLASSIFIER_PREFIX, ENSEMBLE

ENTRY_POINTS = "jpeg_contract.forms"

InstanceKind = Literal["CPU", "GPU", "AUTO"]
"""Where Triton runs it; AUTO is for what runs on either."""

ServedBy = Literal["python", "native", "native_on_gpu"]
"""Which backend serves where both are there: the project's Python-based one, the native one, or the native one on GPUs
and the project's on CPUs."""

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Switch = Annotated[int, msgspec.Meta(ge=0, le=1)]


class NoParameters(msgspec.Struct, frozen=True):
    """A form without parameters."""


class OnnxParameters(msgspec.Struct, frozen=True):
    """As the native backend names them (README of triton's onnxruntime_backend).

    Attributes:
        intra_op_thread_count: Threads that share one run; 0 lets the loader choose by the size of a batch.
        inter_op_thread_count: Threads for operators that run side by side; 0 is ONNX Runtime's choice.
        execution_mode: 0 sequential, 1 parallel.
        enable_mem_arena: 1 keeps memory for later runs, 0 gives it back.
        enable_mem_pattern: 1 lays memory out as in an earlier run of the same shapes, 0 does not.

    Parameters that begin with `session.` go to ONNX Runtime as they are; the native backend knows none of those.
    """

    intra_op_thread_count: _Natural = 0
    inter_op_thread_count: _Natural = 0
    execution_mode: _Switch = 0
    enable_mem_arena: _Switch = 1
    enable_mem_pattern: _Switch = 1


class OpenVinoParameters(
    msgspec.Struct,
    frozen=True,
    rename={
        "performance_hint": "PERFORMANCE_HINT",
        "inference_num_threads": "INFERENCE_NUM_THREADS",
        "num_streams": "NUM_STREAMS",
        "hint_bf16": "HINT_BF16",
    },
):
    """As the native backend names them (README of triton's openvino_backend); None leaves the choice to the loader.

    Attributes:
        performance_hint: How threads share the work.
        inference_num_threads: Threads that compute.
        num_streams: Requests that run side by side: a number, AUTO or NUMA.
        hint_bf16: YES computes a float32 network in bfloat16.

    COMPILATION_NUM_THREADS is left alone: OpenVINO's plugin for CPUs refuses it (2026.4).
    """

    performance_hint: Literal["LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"] | None = None
    inference_num_threads: _Natural | None = None
    num_streams: (
        Annotated[
            str,
            msgspec.Meta(
                pattern="^(AUTO|NUMA|[0-9]+)$", extra_json_schema={"description": "a number of streams, AUTO or NUMA"}
            ),
        ]
        | None
    ) = None
    hint_bf16: Literal["YES", "NO"] = "NO"


def _openvino_conflict(parameters: OpenVinoParameters, precision: str) -> str:
    """Refuse several streams for int8.

    OpenVINO 2026.4 then races while it compiles convolutions of 1x1 with stride 2: each compiled model is right or
    wrong for as long as it lives, so that no check of one says anything about the next (bench/NOTES.md).
    """
    streams = parameters.num_streams
    several = streams not in (None, "1") or (
        streams is None and (parameters.performance_hint or "LATENCY") != "LATENCY"
    )
    if precision != "int8" or not several:
        return ""
    return (
        "OpenVINO computes some int8 networks wrongly with more than one stream: remove NUM_STREAMS, and any "
        "PERFORMANCE_HINT but LATENCY"
    )


class CudaGraphParameters(msgspec.Struct, frozen=True):
    """Which batch sizes are run by a CUDA graph.

    Attributes:
        cuda_graph_after: How often a size must have come before it gets a graph.
        cuda_graph_sizes: How many sizes get one.
    """

    cuda_graph_after: Annotated[int, msgspec.Meta(ge=1)] = 10
    cuda_graph_sizes: _Natural = 8


class TensorRtParameters(CudaGraphParameters, frozen=True):
    """See CudaGraphParameters.

    Attributes:
        version_compatible: The engine was built so, and may bring code of its own that runs on this machine. The native
            backend has this as an option of the server.
    """

    version_compatible: bool = False


class TorchParameters(
    CudaGraphParameters,
    frozen=True,
    rename={
        "intra_op_thread_count": "INTRA_OP_THREAD_COUNT",
        "inter_op_thread_count": "INTER_OP_THREAD_COUNT",
        "disable_optimized_execution": "DISABLE_OPTIMIZED_EXECUTION",
        "inference_mode": "INFERENCE_MODE",
        "disable_cudnn": "DISABLE_CUDNN",
    },
):
    """As the native backend names them (README of triton's pytorch_backend), and CudaGraphParameters.

    Attributes:
        intra_op_thread_count: Threads that share one operator; 0 lets the loader choose.
        inter_op_thread_count: Threads for operators that run side by side; 0 is PyTorch's choice.
        disable_optimized_execution: Run TorchScript without the optimisations of its first calls.
        inference_mode: Run without the bookkeeping of gradients.
        disable_cudnn: Compute convolutions without cuDNN.
    """

    intra_op_thread_count: _Natural = 0
    inter_op_thread_count: _Natural = 0
    disable_optimized_execution: bool = False
    inference_mode: bool = True
    disable_cudnn: bool = False


class TensorFlowParameters(
    msgspec.Struct,
    frozen=True,
    rename={
        "num_intra_threads": "TF_NUM_INTRA_THREADS",
        "num_inter_threads": "TF_NUM_INTER_THREADS",
        "graph_tag": "TF_GRAPH_TAG",
        "signature_def": "TF_SIGNATURE_DEF",
    },
):
    """As the native backend names them (README of triton's tensorflow_backend).

    Its others say how instances share a session; here each instance has a process of its own.

    Attributes:
        num_intra_threads: Threads that share one operator; 0 lets the loader choose.
        num_inter_threads: Threads for operators that run side by side; 0 is TensorFlow's choice.
        graph_tag: Tag of the SavedModel's graph.
        signature_def: Name of the signature that is run.
    """

    num_intra_threads: _Natural = 0
    num_inter_threads: _Natural = 0
    graph_tag: str = "serve"
    signature_def: str = "serving_default"


@dataclass(frozen=True)
class Package:
    """A Python package that the project's backend imports.

    Attributes:
        name: Import name.
        remedy: The command that installs it.
    """

    name: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class ClassifierForm:
    """One form of a classifier.

    Attributes:
        name: As `--backend` takes it; the model is `classifier_<name>`, in another ensemble than `jpeg_classifier`
            with that ensemble's name in front.
        title: Its runtime's proper name.
        backend: Triton backend of the config.
        platform: Platform of the config; empty where Triton knows none.
        artefact: File or folder that Triton loads from a version's folder, as the native backend names it.
        precisions: The precisions that it can be built in; the first is the default.
        instance_kind: Where Triton runs it.
        loader: `module:function` that opens an artefact (see `jpeg_runtime.loading`).
        emitter: Module that makes artefacts (see `jpeg_build.emitters`).
        parameters: The parameters of its config.
        artefact_parameters: Those of them that the artefact decides, and that go when it does not set them.
        conflict: Says why parameters do not go with a precision; an empty text if they do.
        graph_levels: Values of `optimization { graph { level } }` that mean something to it.
        build_options: Options of `jpeg-build` that mean something to it, of those that do not to every form.
        packages: Packages that the project's backend imports.
        engine_packages: The same, if the artefact holds TensorRT engines inside another format.
        suffixes: File name endings that its artefacts are recognised by.
        takes_device_tensors: Whether the project's backend takes pixels that lie on a GPU.
        from_tensorflow: Whether it is built from the recipe's network of TensorFlow instead of that of PyTorch or ONNX.
        from_onnx: Whether it can be built from the repository's classifier_onnx.
        served_by: Which backend serves where both are there.
        native_refusal: Why the native backend cannot serve what this project builds; empty if it can.
        ensemble: Whose classifier it is.
    """

    name: str
    title: str
    backend: str
    platform: str = ""
    artefact: str
    precisions: tuple[str, ...]
    instance_kind: InstanceKind
    loader: str
    emitter: str
    parameters: type[msgspec.Struct] = NoParameters
    artefact_parameters: tuple[str, ...] = ()
    conflict: Callable[[Any, str], str] = lambda _parameters, _precision: ""
    graph_levels: tuple[int, ...] = ()
    build_options: frozenset[str] = field(default_factory=frozenset)
    packages: tuple[Package, ...] = ()
    engine_packages: tuple[Package, ...] = ()
    suffixes: tuple[str, ...] = ()
    takes_device_tensors: bool = False
    from_tensorflow: bool = False
    from_onnx: bool = False
    served_by: ServedBy = "native"
    native_refusal: str = ""
    ensemble: str = ENSEMBLE

    @property
    def model(self) -> str:
        """Name of the classifier in the model repository: `classifier_onnx`."""
        return own_name(self.ensemble, f"{CLASSIFIER_PREFIX}{self.name}")

    @property
    def ours_is_for_cpus(self) -> bool:
        """Whether the project's backend runs it on CPUs only."""
        return self.served_by == "native_on_gpu" or self.instance_kind == "CPU"

    def of(self, ensemble: str) -> ClassifierForm:
        """Return the form as the classifier of an ensemble."""
        return replace(self, ensemble=ensemble)


_CONTAINER = "serve it in NVIDIA's Triton container, which has that backend itself"
_TENSORRT = f"{install_command('tensorrt')}, or {_CONTAINER}"
_ENGINE_OPTIONS = frozenset({"min_batch", "opt_batch", "max_batch", "workspace_mib"})
_COMPATIBILITY = frozenset({"version_compatible", "hardware_compatible", "timing_cache"})

ONNX = ClassifierForm(
    name="onnx",
    title="ONNX Runtime",
    backend="onnxruntime",
    platform="onnxruntime_onnx",
    artefact="model.onnx",
    precisions=("fp32", "fp16", "int8"),
    instance_kind="AUTO",
    loader="jpeg_runtime.onnx_runtime:load",
    emitter="jpeg_build.emitters.onnx",
    parameters=OnnxParameters,
    graph_levels=(-1, 0, 1, 2),
    packages=(Package("onnxruntime", install_command("serve")),),
    suffixes=(".onnx",),
    # Measured on CPUs: ours is 1.15 to 1.3 times as fast (bench/NOTES.md). Ours runs on CPUs only.
    served_by="native_on_gpu",
)
OPENVINO = ClassifierForm(
    name="openvino",
    title="OpenVINO",
    backend="openvino",
    artefact="model.xml",
    precisions=("fp32", "fp16", "bf16", "int8"),
    instance_kind="CPU",
    loader="jpeg_runtime.openvino_runtime:load",
    emitter="jpeg_build.emitters.openvino",
    parameters=OpenVinoParameters,
    artefact_parameters=("HINT_BF16",),
    conflict=_openvino_conflict,
    packages=(Package("openvino", install_command("serve")),),
    suffixes=(".xml",),
    from_onnx=True,
    served_by="python",
    native_refusal="the native openvino backend makes the batch static and takes requests of exactly max_batch_size "
    "images only",
)
TENSORRT = ClassifierForm(
    name="tensorrt",
    title="TensorRT",
    backend="tensorrt",
    platform="tensorrt_plan",
    artefact="model.plan",
    precisions=("fp32", "fp16", "int8"),
    instance_kind="GPU",
    loader="jpeg_runtime.tensorrt_engine:load",
    emitter="jpeg_build.emitters.tensorrt",
    parameters=TensorRtParameters,
    artefact_parameters=("version_compatible",),
    build_options=_ENGINE_OPTIONS | _COMPATIBILITY | {"builder_level", "keep_onnx", "per_gpu", "tool"},
    packages=(Package("tensorrt", _TENSORRT), Package("cupy", _TENSORRT)),
    suffixes=(".plan", ".engine"),
    takes_device_tensors=True,
    from_onnx=True,
)
TORCH_TENSORRT = ClassifierForm(
    name="torch_tensorrt",
    title="Torch-TensorRT",
    backend="pytorch",
    platform="pytorch_libtorch",
    artefact="model.pt",
    precisions=("fp32", "fp16"),
    instance_kind="AUTO",
    loader="jpeg_runtime.torch_script:load",
    emitter="jpeg_build.emitters.torch_tensorrt",
    parameters=TorchParameters,
    build_options=_ENGINE_OPTIONS | _COMPATIBILITY | {"no_trt"},
    packages=(Package("torch", install_command("torch")),),
    engine_packages=(Package("torch_tensorrt", install_command("torch-tensorrt")),),
    suffixes=(".pt",),
    takes_device_tensors=True,
)
TF_TRT = ClassifierForm(
    name="tf_trt",
    title="TF-TRT",
    backend="tensorflow",
    platform="tensorflow_savedmodel",
    artefact="model.savedmodel",
    precisions=("fp32", "fp16"),
    instance_kind="AUTO",
    loader="jpeg_runtime.saved_model:load",
    emitter="jpeg_build.emitters.tf_trt",
    parameters=TensorFlowParameters,
    build_options=_ENGINE_OPTIONS | {"no_trt"},
    packages=(
        Package(
            "tensorflow",
            f"{install_command('build-tensorflow')} in an environment of its own (in a checkout: make "
            "build-tensorflow) and serve from there, or serve it in NVIDIA's Triton container up to 25.02",
        ),
    ),
    suffixes=(".savedmodel",),
    from_tensorflow=True,
)


class _Forms(Mapping[str, ClassifierForm]):
    """All forms by their names: the project's, then those of installed packages, looked up when first needed."""

    @functools.cached_property
    def _all(self) -> dict[str, ClassifierForm]:
        own = {form.name: form for form in (ONNX, OPENVINO, TENSORRT, TORCH_TENSORRT, TF_TRT)}
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            form = entry.load()
            own.setdefault(form.name, form)
        return own

    def __getitem__(self, name: str) -> ClassifierForm:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


FORMS: Mapping[str, ClassifierForm] = _Forms()


def form_of_model(model: str) -> ClassifierForm | None:
    """Return the form of a classifier by its name in the model repository; None if it is no classifier."""
    found = split_classifier(model)
    form = FORMS.get(found[1]) if found is not None else None
    return form.of(found[0]) if form is not None and found is not None else None


def form_of_backend(backend: str) -> ClassifierForm | None:
    """Return the form that a Triton backend serves; None if none of this project's."""
    return next((form for form in FORMS.values() if form.backend == backend), None)
