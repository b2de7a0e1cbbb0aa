"""TensorRT engines through TensorRT's Python API, 8.6 to 11; CuPy has the memory, the stream and the CUDA graphs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_contract.forms import TENSORRT, TensorRtParameters

from jpeg_runtime.batching import Array
from jpeg_runtime.device_runner import DeviceRunner, FrequentSizes
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig

log = logging.getLogger(__name__)

REBUILD = "build it again on this machine: jpeg-build RECIPE --backend tensorrt"


def load(config: ServingConfig) -> DeviceRunner:
    """Load a TensorRT engine onto the instance's GPU, with the parameters of TensorRtParameters.

    Raises:
        ModelLoadError: There is no GPU or no TensorRT, the file is missing or of another TensorRT or GPU, or its
            tensors are not those of the config.
        SettingsError: A parameter has a value that cannot be used.
    """
    if config.gpu is None:
        raise ModelLoadError("a TensorRT engine runs on a GPU: give instance_group the kind KIND_GPU")
    cp = _package("cupy")
    trt = _package("tensorrt")
    capability = _compute_capability(cp, config.gpu)
    artefact = config.artefact_for(capability)
    if not artefact.is_file():
        raise ModelLoadError(f"{artefact.name} is missing: {REBUILD}", reason="artefact_missing")
    with cp.cuda.Device(config.gpu):
        engine = deserialise(artefact, version_compatible=config.options(TensorRtParameters).version_compatible)
        return EngineRunner(cp, trt, engine, config)


class EngineRunner(DeviceRunner):
    """One engine on one GPU: see DeviceRunner. Made with that GPU as the current one.

    Raises ModelLoadError if the engine's tensors are not those of the config.
    """

    def __init__(self, cp: Any, trt: Any, engine: Any, config: ServingConfig) -> None:
        self._cp, self._trt, self._engine = cp, trt, engine
        self._input, self._output = config.input_name, config.output_name
        smallest, largest = _check_tensors(trt, engine, config)
        super().__init__(
            item=config.input_dims,
            smallest=smallest,
            # The buffers need be no longer than the batches that Triton makes.
            largest=max(smallest, min(largest, config.max_batch_size or largest)),
            frequent=FrequentSizes.from_config(config),
        )
        self._device = cp.cuda.Device()
        self._stream = cp.cuda.Stream(non_blocking=True)
        # Allocated once: CUDA graphs hold the addresses.
        self._pixels = _pinned(cp, (self._largest, *config.input_dims), np.dtype(np.uint8))
        self._logits = _pinned(cp, (self._largest, *config.output_dims), np.dtype(np.float32))
        self._device_pixels = cp.cuda.alloc(self._pixels.nbytes)
        self._device_logits = cp.cuda.alloc(self._logits.nbytes)
        cp.cuda.runtime.memsetAsync(self._device_pixels.ptr, 0, self._pixels.nbytes, self._stream.ptr)
        # The layers' scratch memory: the contexts run one after the other and share it.
        self._scratch_bytes = _scratch_bytes(engine)
        self._scratch = cp.cuda.alloc(max(1, self._scratch_bytes))
        self._context = self._new_context()
        self._stream.synchronize()

    def from_capsule(self, capsule: Any) -> Any:
        """See DeviceRunner. A CuPy array."""
        array = self._cp.from_dlpack(capsule)
        if not array.flags.c_contiguous or array.dtype != np.uint8:
            raise RuntimeError("pixels on a GPU must be uint8, and contiguous in memory")
        return array

    def _active(self) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = self._device
        return device

    def _put_host(self, parts: Sequence[Array], at: int) -> None:
        staged = self._pixels[at : at + sum(map(len, parts))]
        np.concatenate(parts, out=staged)
        self._copy(staged.ctypes.data, at, len(staged))

    def _put_device(self, rows: Any, at: int) -> None:
        self._copy(rows.data.ptr, at, len(rows))

    def _copy(self, source: int, at: int, rows: int) -> None:
        image = self._pixels[0].nbytes
        # The kind is found by the addresses: the pixels may lie on another GPU.
        runtime = self._cp.cuda.runtime
        runtime.memcpyAsync(
            self._device_pixels.ptr + at * image, source, rows * image, runtime.memcpyDefault, self._stream.ptr
        )

    def _infer(self, rows: int) -> None:
        self._shape(self._context, rows)
        self._enqueue(self._context)

    def _capture(self, rows: int) -> _Captured:
        # A context of its own: what a graph does is undefined once its context was changed, as by another batch size
        # (TensorRT's developer guide, "CUDA Graphs").
        context = self._new_context()
        self._shape(context, rows)
        # TensorRT finishes a change of shape in the next run, by means that cannot be captured.
        self._enqueue(context)
        self._stream.synchronize()
        # Other threads of the process are not affected.
        self._stream.begin_capture(self._cp.cuda.runtime.streamCaptureModeThreadLocal)
        try:
            self._enqueue(context)
        except Exception:
            with contextlib.suppress(Exception):
                self._stream.end_capture()
            raise
        return _Captured(context, self._stream.end_capture())

    def _replay(self, graph: _Captured) -> None:
        graph.graph.launch(self._stream)

    def _fetch(self, rows: int) -> Array:
        runtime = self._cp.cuda.runtime
        logits = self._logits[:rows]
        runtime.memcpyAsync(
            logits.ctypes.data, self._device_logits.ptr, logits.nbytes, runtime.memcpyDeviceToHost, self._stream.ptr
        )
        self._stream.synchronize()
        answer: Array = logits.copy()
        return answer

    def _settle(self) -> None:
        self._stream.synchronize()

    def _new_context(self) -> Any:
        strategies = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        if strategies is None:  # TensorRT 8
            context = self._engine.create_execution_context_without_device_memory()
        else:
            context = self._engine.create_execution_context(strategies.USER_MANAGED)
        if context is None:
            raise RuntimeError("TensorRT made no execution context; its errors are in the log")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self._scratch.ptr, self._scratch_bytes)
        else:  # up to TensorRT 10.0
            context.device_memory = self._scratch.ptr
        if not context.set_optimization_profile_async(0, self._stream.ptr):
            raise RuntimeError(
                "the engine's optimisation profile serves one context only: build it with TensorRT 10 or later, or, "
                "with 8.6, with the preview feature PROFILE_SHARING_0806"
            )
        self._stream.synchronize()
        for name, memory in ((self._input, self._device_pixels), (self._output, self._device_logits)):
            if not context.set_tensor_address(name, memory.ptr):
                raise RuntimeError(f"TensorRT refused the memory for {name}; its errors are in the log")
        return context

    def _shape(self, context: Any, rows: int) -> None:
        shape = (rows, *self._pixels.shape[1:])
        if tuple(context.get_tensor_shape(self._input)) == shape:
            return
        if not context.set_input_shape(self._input, shape):
            raise RuntimeError(f"TensorRT refused a batch of {rows}; its errors are in the log")

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.ptr):
            raise RuntimeError("TensorRT failed to run the network; its errors are in the log")


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph, and its context, which must live as long."""

    context: Any
    graph: Any


def _pinned(cp: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array in page-locked host memory, which a GPU copies from and to while the CPU goes on."""
    memory = cp.cuda.alloc_pinned_memory(math.prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, buffer=memory)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: one of its libraries
        remedy = next(package.remedy for package in TENSORRT.packages if package.name == name)
        raise ModelLoadError(
            f"the package {name} cannot be imported ({error}): {remedy}", reason="package_missing"
        ) from error


def _compute_capability(cp: Any, gpu: int) -> str:
    """Return that of a GPU, as "9.0". Called before TensorRT: without a GPU, TensorRT ends the process."""
    try:
        digits = str(cp.cuda.Device(gpu).compute_capability)
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise ModelLoadError(f"there is no usable NVIDIA GPU {gpu}: {error}") from error
    return f"{digits[:-1]}.{digits[-1]}"


@functools.cache
def _logger() -> Any:
    """Return the logger that passes TensorRT's messages to Python's log, and keeps the errors for our message.

    One for the life of the process: TensorRT keeps the first that it sees.
    """
    import tensorrt as trt

    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # known once TensorRT is imported
        """A TensorRT logger."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            level = levels.get(severity, logging.DEBUG)
            log.log(level, "TensorRT: %s", message)
            if level == logging.ERROR:
                self.errors.append(message)

    return Logger()


def deserialise(artefact: Path, *, version_compatible: bool = False) -> Any:
    """Load an engine, an `ICudaEngine`, onto the current GPU.

    Args:
        artefact: The plan file.
        version_compatible: The engine may bring code of its own that runs on this machine.

    Raises:
        ModelLoadError: It is not an engine of this TensorRT and GPU.
    """
    trt = _package("tensorrt")
    logger = _logger()
    # Engines may call the layers that TensorRT brings as plugins.
    trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = version_compatible
    logger.errors.clear()
    engine = runtime.deserialize_cuda_engine(artefact.read_bytes())
    if engine is None:
        reason = f" ({logger.errors[0]})" if logger.errors else ""
        raise ModelLoadError(
            f"{artefact.name} is not an engine for TensorRT {trt.__version__} on this GPU{reason}: {REBUILD}",
            reason="engine_differs",
        )
    return engine


def _check_tensors(trt: Any, engine: Any, config: ServingConfig) -> tuple[int, int]:
    """Compare the engine's tensors with the config's.

    Returns:
        The smallest and the largest batch that it takes.

    Raises:
        ModelLoadError: They differ.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for name, mode, dtype, dims in (
        (config.input_name, trt.TensorIOMode.INPUT, trt.DataType.UINT8, config.input_dims),
        (config.output_name, trt.TensorIOMode.OUTPUT, trt.DataType.FLOAT, config.output_dims),
    ):
        if name not in names or engine.get_tensor_mode(name) != mode:
            raise ModelLoadError(f"the engine has no {mode.name.lower()} {name}; it has {', '.join(names)}")
        found = (engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))[1:])
        if found != (dtype, dims):
            raise ModelLoadError(
                f"the engine's {name} is {found[0].name} {list(found[1])} for each image, but the config says "
                f"{dtype.name} {list(dims)}: {REBUILD}"
            )
    if len(names) != 2:
        raise ModelLoadError(f"a classifier has one input and one output; the engine has {', '.join(names)}")
    batch = engine.get_tensor_shape(config.input_name)[0]
    if batch >= 0:
        return batch, batch
    smallest, _, largest = engine.get_tensor_profile_shape(config.input_name, 0)
    # A profile may begin at an empty batch.
    return max(1, smallest[0]), largest[0]


def _scratch_bytes(engine: Any) -> int:
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)  # up to TensorRT 10.0
