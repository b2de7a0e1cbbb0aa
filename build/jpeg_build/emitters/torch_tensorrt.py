"""TorchScript for Triton's PyTorch backend: with TensorRT engines inside, or (`trt` False) plain.

Torch-TensorRT makes the engines from the network alone; the normalisation is put around them as TorchScript. Operations
that TensorRT does not support stay in PyTorch: they are counted in the finished file, and reported.
"""

from __future__ import annotations

import copy
import io
import json
import pickletools  # nosec B403  # it lists the opcodes of a pickle, and runs none
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jpeg_contract.remedies import install_command
from jpeg_contract.report import Requirements
from jpeg_contract.tensors import INPUT, OUTPUT
from jpeg_contract.versions import release
from jpeg_runtime.serving_config import ModelLoadError
from jpeg_runtime.torch_script import NOTES, Script, describe
from torch import Tensor, nn

from jpeg_build.emitters import Emitted, Job, Options
from jpeg_build.errors import BuildError, first_line
from jpeg_build.gpu import cache_folder, require_gpu
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.quiet import quiet
from jpeg_build.recipe.sources import OnnxSource

# Some of its functions are typed in some versions of PyTorch.
_JIT: Any = torch.jit

# The first Torch-TensorRT whose dynamo front end takes the types from the network by default. Before it, the
# TorchScript front end is used, which is in maintenance since, and is not in every build.
_DYNAMO = (2, 11)

_ENGINE = "tensorrt::execute_engine"

# Texts of this length in a TorchScript archive are engines.
_LONG = 4096


def require_tools(options: Options) -> None:
    """See Emitter."""
    if options.trt:
        try:
            require_gpu()
            _torch_tensorrt()
        except BuildError as error:
            raise BuildError(f"{error}; --no-trt makes plain TorchScript, which needs neither") from error


def emit(job: Job) -> Emitted:
    """See Emitter."""
    if not isinstance(job.network, PyTorchNetwork):
        from_onnx = isinstance(job.recipe.source, OnnxSource)
        possible = "onnx, openvino and tensorrt" if from_onnx else "onnx, openvino, tensorrt and tf_trt"
        raise BuildError(
            f"{job.recipe.path}: this recipe's network is not one of PyTorch, which TorchScript needs: it can be built "
            f"for {possible}",
            reason="not_pytorch",
        )
    artefact = job.folder / "model.pt"
    return _emit_engines(job, job.network, artefact) if job.options.trt else _emit_plain(job, job.network, artefact)


def inspect(artefact: Path) -> dict[str, Any]:
    """See Emitter. Also the operators and their number, and the engines with their bytes."""
    module, script = _load(artefact)
    notes = script.notes
    found = _operations(module)
    engines = _engine_bytes(artefact)
    return {
        "inputs": {INPUT: notes.get("input", "tensor")},
        "outputs": {OUTPUT: notes.get("output", "tensor")},
        "form": "engine" if script.engines else "plain",
        "operators": dict(found.most_common()),
        **({"profile": notes["profile"]} if "profile" in notes else {}),
        **({"engine_bytes": engines} if engines else {}),
        "file_bytes": artefact.stat().st_size,
    }


def _save(module: Any, artefact: Path, notes: Any) -> None:
    """Save through memory: on a full disk, PyTorch's own writer ends the process."""
    buffer = io.BytesIO()
    _JIT.save(module, buffer, _extra_files={NOTES: json.dumps(notes)})
    artefact.write_bytes(buffer.getbuffer())


def _emit_plain(job: Job, network: PyTorchNetwork, artefact: Path) -> Emitted:
    """Trace, and fold constants: batch normalisation goes into the convolutions."""
    fp16 = job.precision == "fp16"
    height, width = job.recipe.geometry.crop_size
    job.progress(f"tracing the network with PyTorch {torch.__version__}")
    with quiet(), torch.inference_mode():
        # Two images: with one, a size could be taken for a constant 1.
        example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
        try:
            traced = _JIT.trace(network.pixels_to_logits(fp16=fp16), example, check_trace=False)
            frozen = _JIT.freeze(traced.eval())
        except Exception as error:  # The network's own code runs: any error of its.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            remedy = "build it in fp32, or with --backend onnx" if fp16 else "build it with --backend onnx"
            raise BuildError(
                f"PyTorch cannot trace the network in {job.precision} ({lines[-1][:300]}): {remedy}",
                reason="not_traced",
            ) from error
        notes = _notes(job)
        _save(frozen, artefact, notes)
    found = _operations(frozen)
    notes_for_user = ["float16 is slow on CPUs, which have few instructions for it: serve this file on a GPU"]
    return Emitted(
        artefact,
        details={"form": "plain", "torch": str(torch.__version__), "operations_in_pytorch": dict(found.most_common())},
        notes=notes_for_user if fp16 else [],
    )


def _emit_engines(job: Job, network: PyTorchNetwork, artefact: Path) -> Emitted:
    gpu = require_gpu()
    torch_tensorrt = _torch_tensorrt()
    import tensorrt

    options = job.options
    dynamo = release(torch_tensorrt.__version__) >= _DYNAMO
    if not dynamo and (options.version_compatible or options.hardware_compatible):
        raise BuildError(
            f"Torch-TensorRT {torch_tensorrt.__version__} cannot make engines for other versions or GPUs: build "
            "without --version-compatible and --hardware-compatible, or with Torch-TensorRT 2.11 or later"
        )
    job.progress(f"compiling with Torch-TensorRT {torch_tensorrt.__version__} for {gpu.name}; this takes minutes")
    with tempfile.TemporaryDirectory(prefix="jpeg-build-") as scratch, _quiet():
        compile_ = _compile_with_dynamo if dynamo else _compile_torchscript
        try:
            compiled, fp16 = compile_(torch_tensorrt, network.network, job, Path(scratch) / "network.pt")
        except Exception as error:  # Torch-TensorRT has no exceptions of its own
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise BuildError(f"Torch-TensorRT could not compile the network: {lines[0][:500]}") from error
        wrapped = network.wrap(_one_output(compiled), fp16=fp16).cuda()
        try:
            scripted = _JIT.script(wrapped)
            _save(scripted, artefact, _notes(job, profile=True))
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
            raise BuildError(f"the compiled network cannot be saved as TorchScript: {reason}") from error
    inside = _operations(scripted.network)
    around = _operations(scripted) - inside
    engines = inside.pop(_ENGINE, 0)
    if not engines:
        raise BuildError(
            f"Torch-TensorRT {torch_tensorrt.__version__} put nothing of this network into a TensorRT engine: all its "
            f"{sum(inside.values())} operations stayed in PyTorch; --no-trt makes plain TorchScript"
        )
    left = ", ".join(f"{count} {name}" for name, count in inside.most_common()) or "none"
    return Emitted(
        artefact,
        requires=Requirements(
            torch=str(torch.__version__),
            torch_tensorrt=str(torch_tensorrt.__version__),
            tensorrt=tensorrt.__version__,
            compute_capability=gpu.compute_capability,
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
        ),
        details={
            "form": "engine",
            "gpu": gpu.name,
            "front_end": "dynamo" if dynamo else "torchscript",
            "profile": _profile(options),
            "engines": engines,
            "engine_bytes": _engine_bytes(artefact),
            "operations_in_pytorch": dict(inside.most_common()),
            "operations_of_the_normalisation": dict(around.most_common()),
        },
        notes=[f"TensorRT engines: {engines}; operations of the network that stayed in PyTorch: {left}"],
    )


def _compile_torchscript(torch_tensorrt: Any, network: nn.Module, job: Job, path: Path) -> tuple[Any, bool]:
    """Compile with the TorchScript front end.

    With fp16, TensorRT may choose float16 for each layer of the float32 network.

    Returns:
        The compiled network, and whether it takes float16.
    """
    options = job.options
    fp16 = job.precision == "fp16"
    compiled = torch_tensorrt.compile(
        copy.deepcopy(network).cuda(),
        ir="ts",
        inputs=[_input(torch_tensorrt, job, torch.float32)],
        enabled_precisions={torch.float32, torch.float16} if fp16 else {torch.float32},
        disable_tf32=not fp16,
        workspace_size=options.workspace_bytes or 0,
        truncate_long_and_double=True,
    )
    # The freshly compiled module cannot be put into another one; saved and loaded, it can.
    _JIT.save(compiled, str(path))
    return _JIT.load(str(path)), False


def _compile_with_dynamo(torch_tensorrt: Any, network: nn.Module, job: Job, path: Path) -> tuple[Any, bool]:
    """Compile with the dynamo front end, where the network's own types are the engines'; returns the same."""
    options = job.options
    fp16 = job.precision == "fp16"
    kind = torch.float16 if fp16 else torch.float32
    compiled = torch_tensorrt.compile(
        copy.deepcopy(network).to(kind).cuda(),
        ir="dynamo",
        inputs=[_input(torch_tensorrt, job, kind)],
        disable_tf32=not fp16,
        workspace_size=options.workspace_bytes or 0,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        timing_cache_path=str(
            options.timing_cache
            or cache_folder() / f"torch_tensorrt-{torch_tensorrt.__version__}-{require_gpu().architecture}.timing"
        ),
    )
    height, width = job.recipe.geometry.crop_size
    example = torch.zeros((_profile(options)["opt"], 3, height, width), dtype=kind, device="cuda")
    torch_tensorrt.save(compiled, str(path), output_format="torchscript", inputs=[example])
    return _JIT.load(str(path)), fp16


def _input(torch_tensorrt: Any, job: Job, kind: torch.dtype) -> Any:
    height, width = job.recipe.geometry.crop_size
    shapes = {f"{name}_shape": (batch, 3, height, width) for name, batch in _profile(job.options).items()}
    return torch_tensorrt.Input(**shapes, dtype=kind, name="images")


def _profile(options: Options) -> dict[str, int]:
    """Return the batch sizes. torch.export takes the 1 of a single image for a constant: opt is at least 2."""
    opt = max(options.opt_batch, min(2, options.max_batch))
    return {"min": options.min_batch, "opt": opt, "max": options.max_batch}


class _First(nn.Module):
    """Takes the first output of a network that returns a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        logits: Tensor = self.network(images)[0]
        return logits


def _one_output(compiled: Any) -> nn.Module:
    """Unwrap the tuple of one that the dynamo front end's TorchScript returns."""
    kind = next(iter(compiled.graph.outputs())).type().kind()
    return _First(compiled) if kind in ("TupleType", "ListType") else compiled


def _operations(module: Any) -> Counter[str]:
    """Count the calls of each operator; not of those that only pass values (constants, lists, attributes)."""

    def count(block: Any) -> Iterator[str]:
        for node in block.nodes():
            if not node.kind().startswith("prim::") or node.kind() in ("prim::If", "prim::Loop", "prim::PythonOp"):
                yield node.kind()
            for inner in node.blocks():
                yield from count(inner)

    return Counter(count(module.inlined_graph))


def _notes(job: Job, *, profile: bool = False) -> dict[str, Any]:
    height, width = job.recipe.geometry.crop_size
    return {
        "input": f"uint8[N,{height},{width},3]",
        "output": f"float32[N,{job.recipe.classes}]",
        "precision": job.precision,
        **({"profile": _profile(job.options)} if profile else {}),
    }


def _load(artefact: Path) -> tuple[Any, Script]:
    """Return a TorchScript file in evaluation mode, and its description. Raises BuildError."""
    try:
        script = describe(artefact)
    except ModelLoadError as error:
        raise BuildError(f"{artefact.parent}: {error}", reason=error.reason) from error
    if script.engines:
        require_gpu()
        _torch_tensorrt()  # it knows the class of the engines inside
    on_gpu = script.engines or (script.notes.get("precision") == "fp16" and torch.cuda.is_available())
    try:
        with _quiet():
            module = _JIT.load(str(artefact), map_location="cuda" if on_gpu else "cpu")
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise BuildError(f"{artefact}: PyTorch {torch.__version__} cannot load it: {reason}") from error
    return module.eval(), script


def _engine_bytes(artefact: Path) -> list[int]:
    """Return the sizes of the engines in a TorchScript file, where they are base64 texts; reads pickle opcodes only."""
    with zipfile.ZipFile(artefact) as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    try:
        texts = [
            argument for data in pickles for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)
        ]
    except ValueError:
        return []  # a pickle protocol that Python does not know
    return [len(text) * 3 // 4 for text in texts if len(text) > _LONG]


def _torch_tensorrt() -> Any:
    """Return the package torch_tensorrt. Raises BuildError if it is missing or does not load."""
    try:
        import torch_tensorrt
    except ModuleNotFoundError as error:
        raise BuildError(
            f"the package {error.name} is not installed: {install_command('torch-tensorrt')}, or "
            "build in NVIDIA's image nvcr.io/nvidia/pytorch:YY.MM-py3"
        ) from error
    except Exception as error:  # it loads libraries and queries the driver: any error of theirs
        reason = first_line(error)
        raise BuildError(
            f"the package torch_tensorrt does not load here ({reason}): it needs a GPU, and the versions of PyTorch "
            "and TensorRT that it was made for; NVIDIA's image nvcr.io/nvidia/pytorch:YY.MM-py3 has them"
        ) from error
    return torch_tensorrt


@contextmanager
def _quiet() -> Iterator[None]:
    """Two warnings are answered here: TorchScript is deprecated, but is what Triton's PyTorch backend loads; and a size
    that tracing takes for a constant may be one, or not: several batches are tried.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=_JIT.TracerWarning)
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=category)
        yield
