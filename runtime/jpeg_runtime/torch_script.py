"""TorchScript through PyTorch, 2.2 or later, with or without TensorRT engines inside (Torch-TensorRT)."""

from __future__ import annotations

import importlib
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jpeg_contract.forms import TorchParameters
from torch.utils.dlpack import from_dlpack

from jpeg_runtime.batching import Array, Run
from jpeg_runtime.device_runner import DeviceRunner, FrequentSizes
from jpeg_runtime.serving_config import ModelLoadError, ServingConfig

REBUILD = "build it again on this machine: jpeg-build RECIPE --backend torch_tensorrt"

# The file inside the archive that holds the notes of jpeg-build: TorchScript itself does not state its tensors.
NOTES = "jpeg_build.json"

# PyTorch's executor of TorchScript watches two runs before it optimises for a size; a graph wants the runs after that.
_WARM_UP_RUNS = 3


def load(config: ServingConfig) -> Run | DeviceRunner:
    """Load a TorchScript file onto the instance's GPU or the CPU, with the parameters of TorchParameters.

    On a GPU, frequent batch sizes get CUDA graphs; files with TensorRT engines only if the config says so.

    Raises:
        ModelLoadError: The file is missing or cannot be loaded here, or does not turn the config's input into its
            output.
        SettingsError: A parameter has a value that cannot be used.
    """
    artefact = config.artefact_for(_compute_capability(config.gpu))
    script = describe(artefact)
    if script.engines:
        _import_torch_tensorrt(artefact, config)
    options = config.options(TorchParameters)
    _set_up(config, options)
    if config.gpu is None:
        run = _on_cpu(_load(artefact, "cpu", script), _guard(config.options(TorchParameters)))
        _check_output(run, config)
        return run
    with torch.cuda.device(config.gpu):
        runner = ScriptRunner(_load(artefact, f"cuda:{config.gpu}", script), config, script)
    _check_output(lambda pixels: runner([pixels])[0], config)
    return runner


@dataclass(frozen=True)
class Script:
    """What a TorchScript file says before it is loaded.

    Attributes:
        engines: Whether its code calls TensorRT engines.
        smallest: The smallest batch that they take, as jpeg-build noted it in the file.
        largest: The largest; None if there is no such note.
        notes: All that jpeg-build noted in the file.
    """

    engines: bool
    smallest: int = 1
    largest: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def describe(artefact: Path) -> Script:
    """Inspect a TorchScript file without loading it. Raises ModelLoadError if it is missing or not TorchScript."""
    if not artefact.is_file():
        raise ModelLoadError(f"{artefact.name} is missing: build it with jpeg-build", reason="artefact_missing")
    try:
        with zipfile.ZipFile(artefact) as archive:
            names = archive.namelist()
            code = [archive.read(name) for name in names if "/code/" in name and name.endswith(".py")]
            notes = [json.loads(archive.read(name)) for name in names if name.endswith(f"/extra/{NOTES}")]
    except zipfile.BadZipFile as error:
        raise ModelLoadError(f"{artefact.name} is not a TorchScript file: save it with torch.jit.save") from error
    if not code:
        raise ModelLoadError(f"{artefact.name} holds no TorchScript: save it with torch.jit.save")
    engines = any(b"classes.tensorrt." in text or b"ops.tensorrt." in text for text in code)
    noted: Mapping[str, Any] = notes[0] if notes else {}
    profile = noted.get("profile", {})
    return Script(engines, int(profile.get("min", 1)), profile.get("max"), noted)


class ScriptRunner(DeviceRunner):
    """One TorchScript network on one GPU: see DeviceRunner. Made with that GPU as the current one.

    A TensorRT engine in it keeps one execution context for all batch sizes, and TensorRT leaves a CUDA graph undefined
    once its context ran another size: such files get no graphs, unless the config enables them.
    """

    def __init__(self, network: Any, config: ServingConfig, script: Script) -> None:
        if config.max_batch_size < 1:
            raise ModelLoadError("max_batch_size must be at least 1")
        largest = max(script.smallest, min(config.max_batch_size, script.largest or config.max_batch_size))
        super().__init__(
            item=config.input_dims,
            smallest=script.smallest,
            largest=largest,
            frequent=FrequentSizes.from_config(config, default=not script.engines),
        )
        self._network = network
        self._guard = _guard(config.options(TorchParameters))
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # Allocated once: CUDA graphs hold the addresses.
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

    def _put_host(self, parts: Sequence[Array], at: int) -> None:
        place = slice(at, at + sum(map(len, parts)))
        np.concatenate(parts, out=self._host_pixels[place])
        self._pixels[place].copy_(self._staged_pixels[place], non_blocking=True)

    def _put_device(self, rows: Any, at: int) -> None:
        self._pixels[at : at + len(rows)].copy_(rows, non_blocking=True)

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
            raise RuntimeError(f"it returns {logits.dtype} {list(logits.shape)} for {ran} images")
        self._staged_logits[:rows].copy_(logits[:rows], non_blocking=True)
        self._stream.synchronize()
        return self._host_logits[:rows].copy()

    def _settle(self) -> None:
        self._stream.synchronize()


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph and its output tensor."""

    graph: Any
    logits: torch.Tensor


def _on_cpu(network: Any, guard: Callable[[], AbstractContextManager[Any]]) -> Run:
    def run(pixels: Array) -> Array:
        with guard():
            logits: Array = _only(network(torch.from_numpy(pixels))).numpy()
        return np.ascontiguousarray(logits)

    return run


def _only(output: Any) -> torch.Tensor:
    """Return the network's one output: Torch-TensorRT's dynamo front end saves networks that return a tuple of one."""
    if isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise RuntimeError(f"the network returns a {type(output).__name__}, but a classifier has one output")  # noqa: TRY004
    return output


def _load(artefact: Path, device: str, script: Script) -> Any:
    try:
        with warnings.catch_warnings():
            # PyTorch advises against TorchScript; it is what Triton's libtorch backend loads.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(str(artefact), map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        hint = "its TensorRT engines are of one GPU and one TensorRT: " if script.engines else ""
        raise ModelLoadError(
            f"{artefact.name} cannot be loaded by PyTorch {torch.__version__} onto {device} ({reason.strip()}): "
            f"{hint}{REBUILD}"
        ) from error


def _compute_capability(gpu: int | None) -> str:
    """Return that of a GPU, as "9.0"; empty on the CPU. Raises ModelLoadError if PyTorch has no such GPU."""
    if gpu is None:
        return ""
    if not torch.cuda.is_available():
        raise ModelLoadError(
            f"PyTorch {torch.__version__} finds no NVIDIA GPU (nvidia-smi shows what the driver finds): "
            "give instance_group the kind KIND_CPU, or install a PyTorch for CUDA"
        )
    if gpu >= torch.cuda.device_count():
        raise ModelLoadError(f"there is no GPU {gpu}: PyTorch finds {torch.cuda.device_count()}")
    major, minor = torch.cuda.get_device_capability(gpu)
    return f"{major}.{minor}"


def _import_torch_tensorrt(artefact: Path, config: ServingConfig) -> None:
    """Register the operations that files with TensorRT engines call."""
    if config.gpu is None:
        raise ModelLoadError(
            f"{artefact.name} holds TensorRT engines, which run on a GPU: give instance_group the kind KIND_GPU, or "
            "build it without them: jpeg-build RECIPE --backend torch_tensorrt --no-trt"
        )
    try:
        importlib.import_module("torch_tensorrt")
    except Exception as error:  # it raises what it likes where it finds no GPU or another TensorRT
        raise ModelLoadError(
            f"{artefact.name} holds TensorRT engines, and the package torch_tensorrt cannot be imported ({error}): "
            f"pip install torch-tensorrt in the version that goes with PyTorch {torch.__version__}"
        ) from error


def _set_up(config: ServingConfig, options: TorchParameters) -> None:
    """Apply the settings of the whole process, which serves this instance only."""
    # As when the artefact was compared with its network: fp32 is to mean fp32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    intra = options.intra_op_thread_count or config.limited_cpus
    if intra > 0:
        torch.set_num_threads(intra)
    if options.inter_op_thread_count > 0:
        torch.set_num_interop_threads(options.inter_op_thread_count)
    if options.disable_cudnn:
        torch.backends.cudnn.enabled = False


def _guard(options: TorchParameters) -> Callable[[], AbstractContextManager[Any]]:
    """Return the context in which each run takes place."""
    optimised = not options.disable_optimized_execution
    optimized_execution = torch.jit.optimized_execution  # type: ignore[attr-defined]  # it is documented

    @contextmanager
    def guard() -> Iterator[None]:
        with torch.inference_mode() if options.inference_mode else torch.no_grad(), optimized_execution(optimised):
            yield

    return guard


def _check_output(run: Run, config: ServingConfig) -> None:
    """Run one black image: TorchScript does not state its tensors. Raises ModelLoadError."""
    wanted = [1, *config.output_dims]
    try:
        logits = run(np.zeros((1, *config.input_dims), np.uint8))
        if logits.dtype != np.float32 or list(logits.shape) != wanted:
            raise RuntimeError(f"it returns {logits.dtype} {list(logits.shape)}")
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise ModelLoadError(
            f"the network does not turn uint8 {[1, *config.input_dims]} into float32 {wanted}, as the config says "
            f"({lines[-1]}): {REBUILD}"
        ) from error
