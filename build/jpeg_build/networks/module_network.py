"""Networks that a function in the user's own Python file makes. This runs the file: only if the user trusts it."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from torch import nn

from jpeg_build.errors import NetworkError
from jpeg_build.networks.checkpoints import load_checkpoint
from jpeg_build.networks.drafts import Draft
from jpeg_build.networks.network import Weights
from jpeg_build.networks.preparation import check_labels
from jpeg_build.networks.pytorch_network import PyTorchNetwork
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import ModuleSource


class ModuleNetwork(PyTorchNetwork):
    """The network that a function returns, in evaluation mode, on the CPU.

    Args:
        recipe: Its source is module, and its code is trusted: it runs.

    Raises:
        NetworkError: The function fails, or its network does not fit the recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        assert isinstance(recipe.source, ModuleSource)
        source = recipe.source
        title = f"{source.file.name}:{source.function}"
        labels = check_labels(recipe, None, title)
        with _beside(source.file):
            network = _made(recipe, source)
        weights = Weights(title, source.sha256)
        if source.checkpoint is not None:
            hint = f"Is it the network that {title} returns?"
            weights = load_checkpoint(recipe, network, source.checkpoint, title, hint)
        super().__init__(recipe, network, labels=labels, weights=weights, title=title, output=source.output)


def draft(module: str) -> Draft:
    """Return what is known of `FILE.py:FUNCTION` without running it.

    Raises:
        NetworkError: There is no such file.
    """
    name, _, function = module.rpartition(":")
    file = Path(name)
    if not name or not file.is_file():
        raise NetworkError(f"{name or module}: no such file: give FILE.py:FUNCTION", reason="network_not_found")
    return Draft(
        name=re.sub(r"[^a-z0-9_-]+", "_", file.stem.lower()),
        source={"kind": "module", "module": f"{name}:{function}"},
        notes=[f"Building runs the code in {file}: read it, and build with --trust-code"],
    )


class _SourceLoader(SourceFileLoader):
    """Runs the file as it is.

    Python takes its bytecode from before if the file has the same size and was written in the same second; the
    network's hash would then be that of code that did not run.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _made(recipe: Recipe, source: ModuleSource) -> nn.Module:
    """Import the file and call its function."""
    private = f"_jpeg_build_module_{source.sha256[:16]}"
    loader = _SourceLoader(private, str(source.file))
    spec = importlib.util.spec_from_loader(private, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module  # Exporters and copy.deepcopy look classes up there.
    _run(source.file, lambda: loader.exec_module(module))
    function = getattr(module, source.function, None)
    if not callable(function):
        known = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        raise NetworkError(
            f"{recipe.locate('source', 'module')}: {source.file.name} has no function {source.function}; it has "
            f"{', '.join(known) or 'none'}",
            reason="module_failed",
        )
    network = _run(source.file, function)
    if not isinstance(network, nn.Module):
        raise NetworkError(
            f"{source.file}: {source.function}() returns {type(network).__name__}, and not a torch.nn.Module",
            reason="module_failed",
        )
    return network


def _run(file: Path, call: Callable[[], Any]) -> Any:
    """Call the user's code; name its line in an error."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename) == file]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else 1
        message = (str(error).strip().splitlines() or [""])[0][:300]
        raise NetworkError(f"{file}:{line}: {type(error).__name__}: {message}", reason="module_failed") from error


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Let the user's file import those beside it."""
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
