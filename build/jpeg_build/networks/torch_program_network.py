"""Files of `torch.jit.save` (TorchScript) and `torch.export.save` (.pt2).

TorchScript runs no Python. A .pt2 names the functions that it calls, and holds expressions that PyTorch evaluates as
Python: both are checked before it is loaded.

torch.onnx's exporter of torch.export programs does not take TorchScript: such a file is exported by the older one.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jpeg_contract.tensors import INPUT, OUTPUT
from torch import Tensor, nn

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.networks.checkpoints import weights_only
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.networks.network import Weights
from jpeg_build.networks.preparation import check_labels
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.quiet import quiet
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import TorchSource

# Some of its functions are typed in some versions of PyTorch.
_JIT: Any = torch.jit
_ATEN: Any = torch.ops.aten

# The operators' names, Python's arithmetic, and PyTorch's on sizes.
_TARGET = re.compile(
    r"torch\.ops\.\w+(\.\w+)+|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)"
    r"|torch\.(_?sym_\w+)|math\.(ceil|floor|trunc)"
)
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),.=<>&|~']*")

_OPSET = 18

SAVE_HINT = (
    'torch.export.export(network.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},)) '
    "with two images, and torch.export.save"
)


class TorchProgramNetwork(PyTorchNetwork):
    """The network of a TorchScript or torch.export file, in evaluation mode, on the CPU.

    Args:
        recipe: Its source is torch.

    Raises:
        NetworkError: The file is neither, or its network does not fit the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert isinstance(recipe.source, TorchSource)
        file = recipe.source.file
        self._is_script = _kind(file) == "torchscript"
        labels = check_labels(recipe, None, file.name)
        network = _load_script(file) if self._is_script else _load_program(file)[0]
        weights = Weights(file.name, recipe.source.sha256)
        super().__init__(recipe, network, labels=labels, weights=weights, title=str(file), output=recipe.source.output)

    def export_onnx(self, path: Path) -> None:
        """See Network."""
        if not self._is_script:
            super().export_onnx(path)
            return
        import onnx

        from jpeg_build.graphs.onnx_graph import finish

        height, width = self._recipe.geometry.crop_size
        example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
        batch = {0: "batch"}
        with tempfile.TemporaryDirectory(prefix="jpeg-build-") as scratch, quiet("torch.onnx"), torch.no_grad():
            file = Path(scratch) / "model.onnx"
            traced = _JIT.trace(self.pixels_to_logits(), example, check_trace=False)
            try:
                torch.onnx.export(
                    traced,
                    (example,),
                    str(file),
                    dynamo=False,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_axes={INPUT: batch, OUTPUT: batch},
                    opset_version=_OPSET,
                )
            except Exception as error:  # of the exporter's own, and of PyTorch
                reason = first_line(error)
                raise NetworkError(
                    f"{self._title}: PyTorch cannot export this TorchScript to ONNX: {reason}. Save the network by "
                    f"{SAVE_HINT}; or build --backend torch_tensorrt --no-trt, which serves TorchScript",
                    reason="not_exported",
                ) from error
            model = onnx.load(str(file))
        finish(model, path)


class _Program(nn.Module):
    """Holds a program of torch.export, which has one mode only, that of its export."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> Tensor:
        """Run the program."""
        values: Tensor = self.program(images)
        return values

    def train(self, mode: bool = True) -> _Program:  # noqa: ARG002  # PyTorch's signature
        """Do nothing: programs refuse to change their mode."""
        return self


def draft(file: Path) -> Draft:
    """Return what a file of TorchScript or torch.export states.

    Raises:
        NetworkError: It is neither.
    """
    geometry, notes = None, []
    if _kind(file) == "program":
        shape = _load_program(file)[1]
        height, width = (size if isinstance(size, int) else None for size in (*shape, None, None)[2:4])
        if height and width:
            side: Any = height if height == width else [height, width]
            geometry = {"resize_size": side, "crop_size": side}
            notes.append(
                Hint(
                    f"The network takes images of {height}x{width}. How they are resized is not in the file: compare "
                    "[geometry] with your training",
                    "resize_size|crop_percent",
                )
            )
    notes.append(
        Hint(
            "Whether the network ends in a softmax is not in the file: the build checks [source] output", "output_kind"
        )
    )
    return Draft(
        name=re.sub(r"[^a-z0-9_-]+", "_", file.stem.lower()),
        source={"kind": "torch", "file": str(file), "output": "logits"},
        geometry=geometry,
        notes=notes,
    )


def _kind(file: Path) -> str:
    """Return "torchscript" or "program", by the file's content."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()} | set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        names = set()
    if any(name.startswith("code/") for name in names):
        return "torchscript"
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return "program"
    remedy = (
        'It is a state dict or a pickled network: take kind = "torchvision", "timm" or "module", and this file as its '
        "checkpoint"
        if "data.pkl" in names
        else "Files of torch.jit.save and torch.export.save are"
    )
    raise NetworkError(f"{file}: is neither TorchScript nor a torch.export program. {remedy}", reason="invalid_program")


def _load_script(file: Path) -> nn.Module:
    try:
        with quiet():
            script: nn.Module = _JIT.load(str(file), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise NetworkError(
            f"{file}: PyTorch {torch.__version__} cannot load it: {reason}", reason="invalid_program"
        ) from error
    return script


def _load_program(file: Path) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return the network of a torch.export file, and the shape of its input."""
    _check_program(file)
    try:
        with quiet("torch.export", "torch._export"), weights_only():
            program = torch.export.load(str(file))
            module: Any = program.module(check_guards=False)
    except Exception as error:  # of any kind, for files of other versions
        reason = first_line(error)
        raise NetworkError(
            f"{file}: PyTorch {torch.__version__} cannot load it: {reason}", reason="invalid_program"
        ) from error
    inputs = [
        node
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    shape = tuple(inputs[0].meta["val"].shape) if len(inputs) == 1 else ()
    if len(shape) != 4:
        raise NetworkError(
            f"{file}: takes {len(inputs)} inputs, and not one of [N, channels, height, width]", reason="input_shape"
        )
    if isinstance(shape[0], int):
        raise NetworkError(
            f"{file}: takes batches of {shape[0]} only, and the server makes batches of any size: export it with a "
            f"dynamic batch, by {SAVE_HINT}",
            reason="static_batch",
        )
    # The bounds of the batch that the export was given: what the network computes does not depend on them.
    module._forward_pre_hooks.clear()
    _make_traceable(module)
    return _Program(module), shape


def _make_traceable(module: Any) -> None:
    """Write sizes and shapes as methods: as operators, tracing takes a batch's size for a constant."""
    methods = {
        _ATEN.sym_size.int: "size",
        _ATEN.view.default: "reshape",
        _ATEN._unsafe_view.default: "reshape",
        _ATEN.reshape.default: "reshape",
        _ATEN.expand.default: "expand",
    }
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in methods:
            node.op, node.target = "call_method", methods[node.target]
    module.recompile()


def _check_program(file: Path) -> None:
    """Raise NetworkError if a torch.export file calls what is no operator, or holds what is no arithmetic."""
    with zipfile.ZipFile(file) as archive:
        texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
    try:
        found = [each for text in texts for each in _strings(json.loads(text))]
    except (ValueError, RecursionError) as error:
        raise NetworkError(f"{file}: is damaged: {error}", reason="invalid_program") from error
    for key, text in found:
        if (key == "target" and not _TARGET.fullmatch(text)) or (
            key == "expr_str"
            and ("__" in text or not _EXPRESSION.fullmatch(text) or re.search(r"\w\s*\.\s*[A-Za-z_]", text))
        ):
            raise NetworkError(
                f"{file}: holds {text[:100]!r}, which could run code: it is not loaded. Save it as TorchScript",
                reason="invalid_checkpoint",
            )


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Find the texts of a JSON value, with the keys that they are under."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str):
                yield key, inner
            else:
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
