"""TorchScript through PyTorch, 2.2 or later, with or without TensorRT engines inside (Torch-TensorRT)."""

from __future__ import annotations

import importlib
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jpeg_preprocess.cpus import limited_cpus

from jpeg_backend.batching import Array, Run
from jpeg_backend.device_batches import DeviceRunner, FrequentSizes
from jpeg_backend.model_config import BackendConfigError, ModelConfig

try:
    import torch
    from torch.utils.dlpack import from_dlpack
except ImportError as missing:
    raise BackendConfigError(f"the package torch cannot be imported ({missing}): pip install torch") from missing

REBUILD = "build it again on this machine: jpeg-build RECIPE --backend torch_tensorrt"

# The file inside the archive in which jpeg-build notes what TorchScript itself does not say.
NOTES = "jpeg_build.json"

# PyTorch's executor of TorchScript watches two runs before it optimises for a size; a graph wants the runs after that.
_WARM_UP_RUNS = 3


def load_script(config: ModelConfig) -> Run | DeviceRunner:
    """Load a TorchScript file onto the instance's GPU or the CPU.

    Parameters, with the native libtorch backend's names (README of triton's pytorch_backend):
    DISABLE_OPTIMIZED_EXECUTION (default false), INFERENCE_MODE (default true), DISABLE_CUDNN (default false),
    INTRA_OP_THREAD_COUNT and INTER_OP_THREAD_COUNT (default 0: PyTorch's choice). On a GPU also those of
    FrequentSizes; files with TensorRT engines get CUDA graphs only if the config asks for them.

    Raises BackendConfigError if the file is missing or cannot be loaded here, or if it does not turn the config's
    input into its output.
    """
    artefact = config.artefact_for(_compute_capability(config.gpu))
    script = describe(artefact)
    if script.engines:
        _import_torch_tensorrt(artefact, config)
    _set_up(config)
    if config.gpu is None:
        run = _on_cpu(_load(artefact, "cpu", script), _guard(config))
        _check_answer(run, config)
        return run
    with torch.cuda.device(config.gpu):
        runner = ScriptRunner(_load(artefact, f"cuda:{config.gpu}", script), config, script)
    _check_answer(lambda pixels: runner([pixels])[0], config)
    return runner


@dataclass(frozen=True)
class Script:
    """What a TorchScript file says before it is loaded.

    engines: whether its code calls TensorRT engines. smallest, largest: the batch sizes that they take, as jpeg-build
    noted them in the file; largest is None if there is no such note.
    """

    engines: bool
    smallest: int = 1
    largest: int | None = None


def describe(artefact: Path) -> Script:
    """Look into a TorchScript file. Raises BackendConfigError if it is missing or none."""
    if not artefact.is_file():
        raise BackendConfigError(f"{artefact.name} is missing: build it with jpeg-build")
    try:
        with zipfile.ZipFile(artefact) as archive:
            names = archive.namelist()
            code = [archive.read(name) for name in names if "/code/" in name and name.endswith(".py")]
            notes = [json.loads(archive.read(name)) for name in names if name.endswith(f"/extra/{NOTES}")]
    except zipfile.BadZipFile as error:
        raise BackendConfigError(f"{artefact.name} is no TorchScript file: save it with torch.jit.save") from error
    if not code:
        raise BackendConfigError(f"{artefact.name} holds no TorchScript: save it with torch.jit.save")
    engines = any(b"classes.tensorrt." in text or b"ops.tensorrt." in text for text in code)
    profile = next((note["profile"] for note in notes if "profile" in note), None)
    return Script(engines, int(profile["min"]), int(profile["max"])) if profile else Script(engines)


class ScriptRunner(DeviceRunner):
    """One TorchScript network on one GPU: see DeviceRunner. To be made with that GPU as the current one.

    A TensorRT engine in it keeps one execution context for all batch sizes, and TensorRT leaves a CUDA graph undefined
    once its context ran another size: such files get no graphs, unless the config asks for them.
    """

    def __init__(self, network: Any, config: ModelConfig, script: Script) -> None:
        if config.max_batch_size < 1:
            raise BackendConfigError("max_batch_size must be at least 1")
        largest = max(script.smallest, min(config.max_batch_size, script.largest or config.max_batch_size))
        super().__init__(
            item=config.input_dims,
            smallest=script.smallest,
            largest=largest,
            frequent=FrequentSizes.from_config(config, default=not script.engines),
        )
        self._network = network
        self._guard = _guard(config)
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # All that a batch touches is made once and stays where it is: CUDA graphs hold the addresses.
        self._staged_pixels = torch.empty((largest, *config.input_dims), dtype=torch.uint8, pin_memory=True)
        self._staged_logits = torch.empty((largest, *config.output_dims), dtype=torch.float32, pin_memory=True)
        self._host_pixels: Array = self._staged_pixels.numpy()
        self._host_logits: Array = self._staged_logits.numpy()
        with self._active():
            self._pixels = torch.zeros(self._staged_pixels.shape, dtype=torch.uint8, device=self._device)
        self._logits: torch.Tensor | None = None

    def from_capsule(self, capsule: Any) -> Any:
        """See DeviceRunner. A PyTorch tensor."""
        return from_dlpack(capsule)

    @contextmanager
    def _active(self) -> Iterator[None]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream), self._guard():
            yield

    def _put(self, rows: Any, at: int) -> None:
        place = slice(at, at + len(rows))
        if isinstance(rows, np.ndarray):
            np.copyto(self._host_pixels[place], rows)
            rows = self._staged_pixels[place]
        self._pixels[place].copy_(rows, non_blocking=True)

    def _infer(self, rows: int) -> None:
        self._logits = _only(self._network(self._pixels[:rows]))

    def _capture(self, rows: int) -> _Captured:
        for _ in range(_WARM_UP_RUNS):
            self._infer(rows)
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # One pool for all graphs: no two run at the same time, and the output of each is kept. Other threads of the
        # process may do what they like meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            logits = _only(self._network(self._pixels[:rows]))
        return _Captured(graph, logits)

    def _replay(self, graph: _Captured) -> None:
        graph.graph.replay()
        self._logits = graph.logits

    def _fetch(self, rows: int) -> Array:
        logits = self._logits
        assert logits is not None
        # copy_ would spread one row over all, and convert numbers.
        ran = max(rows, self._smallest)
        if logits.dtype != torch.float32 or logits.shape != (ran, *self._staged_logits.shape[1:]):
            raise RuntimeError(f"it answers {logits.dtype} {list(logits.shape)} for {ran} images")
        self._staged_logits[:rows].copy_(logits[:rows], non_blocking=True)
        self._stream.synchronize()
        return self._host_logits[:rows].copy()

    def _settle(self) -> None:
        self._stream.synchronize()


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph, and where its output lies."""

    graph: Any
    logits: torch.Tensor


def _on_cpu(network: Any, guard: Callable[[], AbstractContextManager[Any]]) -> Run:
    def run(pixels: Array) -> Array:
        with guard():
            logits: Array = _only(network(torch.from_numpy(pixels))).numpy()
        return np.ascontiguousarray(logits)

    return run


def _only(answer: Any) -> torch.Tensor:
    """The network's one output: Torch-TensorRT's dynamo front end saves networks that answer a tuple of one."""
    if isinstance(answer, (tuple, list)) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, torch.Tensor):
        raise RuntimeError(f"the network answers a {type(answer).__name__}, but a classifier has one output")  # noqa: TRY004
    return answer


def _load(artefact: Path, device: str, script: Script) -> Any:
    try:
        with warnings.catch_warnings():
            # PyTorch advises against TorchScript; it is what Triton's libtorch backend loads.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(str(artefact), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        told = next((line for line in str(error).splitlines() if line.strip()), "")
        hint = "its TensorRT engines are of one GPU and one TensorRT: " if script.engines else ""
        raise BackendConfigError(
            f"{artefact.name} cannot be loaded by PyTorch {torch.__version__} onto {device} ({told.strip()}): "
            f"{hint}{REBUILD}"
        ) from error


def _compute_capability(gpu: int | None) -> str:
    """Of a GPU, as "9.0"; empty on the CPU. Raises BackendConfigError if PyTorch has no such GPU."""
    if gpu is None:
        return ""
    if not torch.cuda.is_available():
        raise BackendConfigError(
            f"PyTorch {torch.__version__} finds no NVIDIA GPU (nvidia-smi shows what the driver finds): "
            "give instance_group the kind KIND_CPU, or install a PyTorch for CUDA"
        )
    if gpu >= torch.cuda.device_count():
        raise BackendConfigError(f"there is no GPU {gpu}: PyTorch finds {torch.cuda.device_count()}")
    major, minor = torch.cuda.get_device_capability(gpu)
    return f"{major}.{minor}"


def _import_torch_tensorrt(artefact: Path, config: ModelConfig) -> None:
    """Register the operations that files with TensorRT engines call."""
    if config.gpu is None:
        raise BackendConfigError(
            f"{artefact.name} holds TensorRT engines, which run on a GPU: give instance_group the kind KIND_GPU, or "
            "build it without them: jpeg-build RECIPE --backend torch_tensorrt --no-trt"
        )
    try:
        importlib.import_module("torch_tensorrt")
    except Exception as error:  # it raises what it likes where it finds no GPU or another TensorRT
        raise BackendConfigError(
            f"{artefact.name} holds TensorRT engines, and the package torch_tensorrt cannot be imported ({error}): "
            f"pip install torch-tensorrt in the version that goes with PyTorch {torch.__version__}"
        ) from error


def _set_up(config: ModelConfig) -> None:
    """What holds for the whole process; an instance has one of its own."""
    # As when the artefact was compared with its network: fp32 is to mean fp32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    intra = config.integer("INTRA_OP_THREAD_COUNT", 0) or limited_cpus()
    inter = config.integer("INTER_OP_THREAD_COUNT", 0)
    if intra > 0:
        torch.set_num_threads(intra)
    if inter > 0:
        torch.set_num_interop_threads(inter)
    if config.boolean("DISABLE_CUDNN", False):
        torch.backends.cudnn.enabled = False


def _guard(config: ModelConfig) -> Callable[[], AbstractContextManager[Any]]:
    """What must hold around each run."""
    inference_mode = config.boolean("INFERENCE_MODE", True)
    optimised = not config.boolean("DISABLE_OPTIMIZED_EXECUTION", False)
    optimized_execution = torch.jit.optimized_execution  # type: ignore[attr-defined]  # it is documented

    @contextmanager
    def guard() -> Iterator[None]:
        with torch.inference_mode() if inference_mode else torch.no_grad(), optimized_execution(optimised):
            yield

    return guard


def _check_answer(run: Run, config: ModelConfig) -> None:
    """Run one black image: TorchScript does not say what it takes and answers. Raises BackendConfigError."""
    wanted = [1, *config.output_dims]
    try:
        logits = run(np.zeros((1, *config.input_dims), np.uint8))
        if logits.dtype != np.float32 or list(logits.shape) != wanted:
            raise RuntimeError(f"it answers {logits.dtype} {list(logits.shape)}")
    except RuntimeError as error:
        told = str(error).strip().splitlines() or ["no reason given"]
        raise BackendConfigError(
            f"the network does not turn uint8 {[1, *config.input_dims]} into float32 {wanted}, as the config says "
            f"({told[-1]}): {REBUILD}"
        ) from error
