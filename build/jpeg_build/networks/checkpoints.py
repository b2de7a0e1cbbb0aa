"""Checkpoints of PyTorch: state dicts as training scripts write them, read without running code that lies in a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jpeg_contract.artefacts import file_sha256
from torch import nn

from jpeg_build.errors import NetworkError
from jpeg_build.networks.network import Weights
from jpeg_build.networks.torch_files import refuse_cut_short
from jpeg_build.recipe.pointers import refuse_pointer
from jpeg_build.recipe.recipe import Recipe

SAVE_HINT = "save one with torch.save(network.state_dict(), FILE)"

# Where training scripts put a state dict. Averaged weights first: they are those that a training is validated with.
_EMA_KEYS = ("state_dict_ema", "model_ema")
_KEYS = (*_EMA_KEYS, "state_dict", "model", "model_state_dict")

# Of DataParallel and DistributedDataParallel, and of torch.compile.
_PREFIXES = ("module.", "_orig_mod.")

# What training scripts save beside a state dict.
_BESIDE = ("argparse.Namespace", "pathlib.", "numpy.", "omegaconf.", "collections.", "datetime.", "typing.Any")

# By which some releases of Python, such as 3.11.2, pickle the members of an enumeration. A stand-in takes its place, so
# it is not called.
_MEMBER = "builtins.getattr"


class Inert:
    """Stands for an object in a pickle: takes what a pickle puts into it, and does nothing."""

    name = ""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def load_inert(path: Path, allowed: Callable[[str], bool], remedy: str) -> Any:
    """Load what `torch.save` wrote, with an Inert for each object of a class that PyTorch does not know as harmless.

    Args:
        path: The file.
        allowed: Whether a file may name this class or function, such as "torch.nn.modules.linear.Linear".
        remedy: What to do with a file that is refused.

    Raises:
        NetworkError: There is no such file, it is none of PyTorch, or it names what is not allowed.
    """
    if not path.is_file():
        raise NetworkError(f"{path}: no such file", reason="checkpoint_not_found")
    refuse_pointer(path)
    refuse_cut_short(path)
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:
        # Of the format before PyTorch 1.6, or with PyTorch before 2.6. Loading it reports what is not harmless.
        found = []
    if refused := [name for name in found if name != _MEMBER and not allowed(name)]:
        raise NetworkError(
            f"{path}: is not a file of weights only: it names {', '.join(sorted(refused)[:5])}, which could run code: "
            f"{remedy}",
            reason="invalid_checkpoint",
        )
    stand_ins: list[Any] = [(type("Inert", (Inert,), {"name": name}), name) for name in found]
    try:
        with _known_as_harmless(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message advises to load it without weights_only, which would run the code inside.
        raise NetworkError(f"{path}: is not a file of weights only: {remedy}", reason="invalid_checkpoint") from error


@contextmanager
def _known_as_harmless(classes: list[Any]) -> Iterator[None]:
    """Let `weights_only` take these classes, and none that other code has registered."""
    if not hasattr(torch.serialization, "safe_globals"):
        yield  # PyTorch before 2.5 takes none but its own.
        return
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(classes):
            yield
    finally:
        torch.serialization.add_safe_globals(before)


def read_state_dict(path: Path) -> tuple[dict[str, Any], str]:
    """Read a state dict: safetensors, or what `torch.save` wrote.

    Returns:
        The state dict, and the key that it was under if its weights are averages over a training; otherwise "".

    Raises:
        NetworkError: There is no such file, or it has no state dict.
    """
    if not path.is_file():
        raise NetworkError(f"{path}: no such file", reason="checkpoint_not_found")
    if _is_safetensors(path):
        from safetensors.torch import load_file

        try:
            return _without_prefixes(load_file(path)), ""
        except Exception as error:
            raise NetworkError(
                f"{path}: is damaged: {str(error).splitlines()[0][:200]}", reason="invalid_checkpoint"
            ) from error
    loaded = load_inert(path, lambda name: name.startswith(_BESIDE), SAVE_HINT)
    key = next((key for key in _KEYS if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)), "")
    state = loaded[key] if key else loaded
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise NetworkError(f"{path}: has no state dict: {SAVE_HINT}", reason="invalid_checkpoint")
    return _without_prefixes(state), key if key in _EMA_KEYS else ""


def load_checkpoint(recipe: Recipe, network: nn.Module, checkpoint: Path, title: str, hint: str) -> Weights:
    """Load a state dict into a network.

    Args:
        recipe: For messages.
        network: It has the recipe's number of classes.
        checkpoint: The file.
        title: Name of the network, for messages.
        hint: A question on what may be wrong if it does not fit, for messages.

    Raises:
        NetworkError: There is no such file, or it does not fit.
    """
    state, key = read_state_dict(checkpoint)
    expected = network.state_dict()
    state = _below(state, expected)
    found = _classes_of(state, expected, recipe.classes)
    if found is not None:
        raise NetworkError(
            f"{recipe.locate('', 'classes')}: is {recipe.classes}, but {checkpoint} has {found} "
            f"classes: set classes = {found} and give a label file with {found} lines, or take another checkpoint",
            reason="classes_differ",
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        lines = "; ".join(line.strip()[:200] for line in str(error).splitlines()[1:4])
        raise NetworkError(
            f"{checkpoint}: does not fit {title}: {lines}. {hint}", reason="checkpoint_differs"
        ) from error
    # "checkpoint": of the option --checkpoint, which the next build or verification needs again.
    kind = "state dict" if getattr(recipe.source, "checkpoint", None) == checkpoint else "checkpoint"
    return Weights(f"{kind} {checkpoint.name}{f', {key}' if key else ''}", file_sha256(checkpoint))


def state_sha256(network: nn.Module) -> str:
    """Return a digest of a network's numbers, for weights that have no file of their own."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def weights_only() -> Iterator[None]:
    """Let torch.load refuse code, also where a framework calls it to run what is in the file."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header in JSON, and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _without_prefixes(state: Mapping[Any, Any]) -> dict[str, Any]:
    names = {str(name): value for name, value in state.items()}
    # torch.optim.swa_utils.AveragedModel counts what it averages.
    if any(name.startswith("module.") for name in names):
        names.pop("n_averaged", None)
    while prefix := next((each for each in _PREFIXES if all(name.startswith(each) for name in names)), ""):
        names = {name.removeprefix(prefix): value for name, value in names.items()}
    return names


def _below(state: dict[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict of the network in that of a module around it, such as PyTorch Lightning's."""
    prefix = next(iter(state), "").partition(".")[0] + "."
    inner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return inner if not state.keys() & expected.keys() and expected.keys() <= inner.keys() else state


def _classes_of(state: Mapping[str, Any], expected: Mapping[str, Any], classes: int) -> int | None:
    """Return the number of classes of a state dict if that is all in which its shapes differ; otherwise None."""
    found = set()
    for name in state.keys() & expected.keys():
        has, needs = list(state[name].shape), list(expected[name].shape)
        if has == needs:
            continue
        if not has or needs[:1] != [classes] or has[1:] != needs[1:]:
            return None
        found.add(has[0])
    return found.pop() if len(found) == 1 else None
