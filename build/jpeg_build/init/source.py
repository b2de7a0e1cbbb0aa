"""What SOURCE of `jpeg-build init` is: the name of a network of a framework, or the path of a file or folder."""

from __future__ import annotations

import pickletools  # nosec B403  # it lists the operations of a pickle, and runs none
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jpeg_build.errors import CallError, NetworkError
from jpeg_build.networks.drafts import Draft, Hint
from jpeg_build.networks.torch_files import refuse_cut_short
from jpeg_build.recipe.keys import Layout
from jpeg_build.recipe.pointers import refuse_pointer
from jpeg_build.recipe.sources import is_file

# Kind of an Origin whose network --network must name: its file has weights only.
STATE_DICT = "state_dict"

_KERAS_ENDINGS = {".keras", ".h5", ".hdf5"}
# ".tar": the name is that of an archive, and the content what torch.save writes, as in timm's model_best.pth.tar.
_TORCH_ENDINGS = {".pt", ".pth", ".pt2", ".ts", ".torchscript", ".ckpt", ".bin", ".tar"}
_ENDINGS = {".onnx", ".safetensors", *_KERAS_ENDINGS, *_TORCH_ENDINGS}

# Of the objects beside tensors in the checkpoints of training scripts.
_PLAIN_MODULES = {
    *("torch", "collections", "numpy", "builtins", "__builtin__", "argparse", "pathlib", "datetime", "typing"),
    "omegaconf",
}

_NETWORKS = "timm:NAME, torchvision:NAME or module:FILE.py:FUNCTION"


@dataclass(frozen=True)
class Origin:
    """A network for which there is no recipe yet.

    Attributes:
        kind: Of the recipe's [source], or STATE_DICT.
        name: Of the recipe.
        keys: Those of [source] that SOURCE states; files and folders as paths from the working directory.
    """

    kind: str
    name: str
    keys: Mapping[str, str | Path]

    @property
    def files(self) -> list[Path]:
        """The files and folders that it names."""
        return [value for value in self.keys.values() if isinstance(value, Path)]

    def table(self, relative: Callable[[Path], str] = str) -> dict[str, str]:
        """Return its keys as [source] has them.

        Args:
            relative: Gives the name of a file in the recipe.
        """
        keys = {key: relative(value) if isinstance(value, Path) else value for key, value in self.keys.items()}
        if "function" in keys:
            keys["module"] += f":{keys.pop('function')}"
        return keys


@dataclass(frozen=True)
class Hints:
    """What the user states on an ONNX file, without which it cannot be run.

    Attributes:
        layout: Order of the input's axes.
        output_name: The output to take.
        crop_size: (height, width) of the images.
    """

    layout: Layout | None = None
    output_name: str | None = None
    crop_size: tuple[int, int] | None = None


def recipe_name(text: str) -> str:
    """Return a name for a recipe: lower-case letters, digits, `_` and `-`."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_") or "network"


def find_origin(source: str, *, network: str | None = None, checkpoint: Path | None = None) -> Origin | None:
    """Return the network that SOURCE names; None if it is neither a framework's name nor the path of a network.

    Args:
        source: The argument.
        network: Of --network: the network that a file of weights is for.
        checkpoint: Of --checkpoint: weights for a network that SOURCE names.

    Raises:
        CallError: The options do not go with it.
        NetworkError: There is no such file, or it is no network.
    """
    framework, separator, rest = source.partition(":")
    if separator and framework in _FRAMEWORKS and rest:
        found = _FRAMEWORKS[framework](rest)
    elif (path_origin := _of_path(Path(source))) is not None:
        found = path_origin
    else:
        return None
    if network is not None:
        found = _with_network(found, network, source)
    return found if checkpoint is None else _with_checkpoint(found, checkpoint)


def make_draft(origin: Origin, hints: Hints) -> Draft:
    """Let the framework of a network describe it; no code of the user's is run.

    Raises:
        BuildError: The network is not available, or not an image classifier.
    """
    return _DRAFTS[origin.kind](origin.keys, hints)


def _timm(rest: str) -> Origin:
    return Origin("timm", recipe_name(rest), {"kind": "timm", "network": rest})


def _hugging_face(rest: str) -> Origin:
    folder = Path(rest)
    if folder.is_dir():
        return Origin("hugging_face", recipe_name(folder.resolve().name), {"kind": "hugging_face", "folder": folder})
    network, _, revision = rest.partition("@")
    keys = {"kind": "hugging_face", "network": network, **({"revision": revision} if revision else {})}
    return Origin("hugging_face", recipe_name(network.rpartition("/")[2]), keys)


def _torchvision(rest: str) -> Origin:
    network, _, weights = rest.partition(":")
    keys = {"kind": "torchvision", "network": network, **({"weights": weights} if weights else {})}
    return Origin("torchvision", recipe_name(network), keys)


def _ultralytics(rest: str) -> Origin:
    return _of_file("ultralytics", Path(rest))


def _module(rest: str) -> Origin:
    file, _, function = rest.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise CallError(f"module:{rest}: must be module:FILE.py:FUNCTION; the function returns a torch.nn.Module")
    return Origin("module", recipe_name(Path(file).stem), {"kind": "module", "module": _existing(Path(file)),
                                                          "function": function})  # fmt: skip


def _keras(rest: str) -> Origin:
    if Path(rest).suffix.lower() in _KERAS_ENDINGS:
        return _of_file("keras", Path(rest))
    return Origin("keras", recipe_name(rest), {"kind": "keras", "network": rest, "weights": "imagenet"})


_FRAMEWORKS: Mapping[str, Callable[[str], Origin]] = {
    "timm": _timm,
    "hf": _hugging_face,
    "torchvision": _torchvision,
    "ultralytics": _ultralytics,
    "module": _module,
    "keras": _keras,
}


def _existing(path: Path) -> Path:
    if not is_file(path):
        raise NetworkError(f"{path}: no such file", reason="network_not_found")
    refuse_pointer(path)
    return path


def _of_file(kind: str, file: Path) -> Origin:
    return Origin(kind, recipe_name(file.stem), {"kind": kind, "file": _existing(file)})


def _of_path(path: Path) -> Origin | None:
    if path.is_dir():
        return _of_folder(path)
    ending = path.suffix.lower()
    if ending not in _ENDINGS:
        return None
    _existing(path)
    if ending == ".onnx":
        return _of_file("onnx", path)
    if ending in _KERAS_ENDINGS:
        return _of_file("keras", path)
    if ending == ".safetensors":
        if is_file(path.parent / "config.json"):
            raise CallError(f"{path}: is part of a network of Hugging Face: give its folder, {path.parent}")
        return _state_dict(path)
    kind = torch_kind(path)
    return _state_dict(path) if kind == STATE_DICT else _of_file(kind, path)


def _named(folder: Path) -> Path:
    """Return the path of a folder with its name at the end: a recipe inside would change the folder's digest."""
    return folder.resolve() if folder.name in ("", "..") else folder


def _of_folder(folder: Path) -> Origin | None:
    folder = _named(folder)
    name = recipe_name(folder.name)
    if is_file(folder / "saved_model.pb"):
        return Origin("saved_model", name, {"kind": "saved_model", "folder": folder})
    if is_file(folder / "config.json"):
        return Origin("hugging_face", name, {"kind": "hugging_face", "folder": folder})
    return None


def _state_dict(file: Path) -> Origin:
    stem = file.with_suffix("") if file.suffix.lower() == ".tar" else file
    return Origin(STATE_DICT, recipe_name(stem.stem), {"checkpoint": file})


def torch_kind(file: Path) -> str:
    """Return what a file of PyTorch is, without running anything in it: "torch", "ultralytics" or STATE_DICT.

    Raises:
        NetworkError: It is a network that was pickled as a whole, or its end is missing.
    """
    refuse_cut_short(file)
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
            if {"constants.pkl", "serialized_exported_program.json", "models/model.json"} & names:
                return "torch"
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            modules = set() if pickled is None else _modules_named(archive.read(pickled))
    except (zipfile.BadZipFile, OSError):
        return STATE_DICT  # The format of PyTorch before 1.6, or damaged: loading it shows which.
    if "ultralytics" in modules:
        return "ultralytics"
    others = modules - _PLAIN_MODULES
    if others:
        raise NetworkError(
            f"{file}: holds a whole network as Python objects ({', '.join(sorted(others))}), whose "
            "loading would run code: save the weights with torch.save(network.state_dict(), FILE), and name the "
            f"network with --network ({_NETWORKS})",
            reason="pickled_network",
        )
    return STATE_DICT


def _modules_named(pickled: bytes) -> set[str]:
    """Return the packages whose names a pickle would import; of torch, also `torch.nn`."""
    modules: set[str] = set()
    texts: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "GLOBAL":
                modules.add(str(argument).partition(" ")[0])
            elif operation.name == "STACK_GLOBAL":
                modules |= set(texts[-2:-1])
            elif isinstance(argument, str):
                texts.append(argument)
    except ValueError:
        return set()  # Damaged: loading it shows how.
    return {"torch.nn" if module.startswith("torch.nn.") else module.partition(".")[0] for module in modules}


def _with_network(found: Origin, network: str, source: str) -> Origin:
    """Return a file of weights with the network that it is for."""
    framework, _, rest = network.partition(":")
    if found.kind != STATE_DICT:
        raise CallError(f"--network goes with a file of weights only, and {source} names its network itself")
    if framework not in ("timm", "torchvision", "module") or not rest:
        raise CallError(f"--network {network}: must be {_NETWORKS}")
    of_network = _FRAMEWORKS[framework](rest)
    return Origin(of_network.kind, found.name, {**of_network.keys, **found.keys})


def _with_checkpoint(found: Origin, checkpoint: Path) -> Origin:
    _existing(checkpoint)
    name = recipe_name(checkpoint.stem)
    if found.kind in ("timm", "torchvision", "module") and "checkpoint" not in found.keys:
        return Origin(found.kind, name, {**found.keys, "checkpoint": checkpoint})
    if found.kind == "keras" and "network" in found.keys:
        return Origin(found.kind, name, {**found.keys, "weights": checkpoint})
    raise CallError("--checkpoint goes with a network that SOURCE names: timm, torchvision, module, keras")


def _onnx_draft(keys: Mapping[str, Any], hints: Hints) -> Draft:
    from jpeg_build.init.onnx_draft import draft

    return draft(keys["file"], layout=hints.layout, output_name=hints.output_name, crop_size=hints.crop_size)


def _timm_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    from jpeg_build.networks.timm_network import draft

    return draft(keys["network"], keys.get("checkpoint"))


def _hugging_face_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    from jpeg_build.networks.hugging_face_network import draft

    return draft(keys.get("folder"), keys.get("network"), keys.get("revision"))


def _torchvision_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    from jpeg_build.networks.torchvision_network import draft

    found = draft(keys["network"], keys.get("weights"))
    return found if "checkpoint" not in keys else _fine_tuned(found, keys["checkpoint"])


def _fine_tuned(found: Draft, checkpoint: Path) -> Draft:
    """Return the draft of a network with other weights: with another number of classes, it has other labels."""
    import torch
    from torchvision.models import get_model

    from jpeg_build.networks.checkpoints import read_state_dict

    state, _ = read_state_dict(checkpoint)
    with torch.device("meta"):  # the names only
        names = list(get_model(found.source["network"], weights=None).state_dict())
    # The layer of the classes is the last one of torchvision's networks. In a file, names may be in another order.
    last = state.get(names[-1])
    classes = None if last is None else int(last.shape[0])
    text = (
        f"resize, crop and normalisation are those of torchvision's weights {found.source['weights']} of "
        f"{found.source['network']}: change them if the training had others"
    )
    note = Hint(text, "resize_size|crop_percent", "scale|mean")
    same = classes == found.classes
    # With labels of their own, nothing is taken from torchvision's weights.
    source = {key: value for key, value in found.source.items() if same or key != "weights"}
    labels = found.labels if same else None
    return replace(found, source=source, classes=classes, labels=labels, notes=[*found.notes, note])


def _ultralytics_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    from jpeg_build.networks.ultralytics_network import draft

    return draft(keys["file"])


def _module_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    from jpeg_build.networks.module_network import draft

    return draft(f"{keys['module']}:{keys['function']}")


def _torch_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    from jpeg_build.networks.torch_program_network import draft

    return draft(keys["file"])


def _keras_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    if "network" in keys:
        from jpeg_build.init.keras_files import application_draft

        return application_draft(keys["network"], keys["weights"])
    from jpeg_build.networks.keras_torch_network import draft

    return draft(keys["file"])


def _saved_model_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    from jpeg_build.networks.saved_model_network import draft

    return draft(keys["folder"])


def _state_dict_draft(keys: Mapping[str, Any], _: Hints) -> Draft:
    raise CallError(
        f"{keys['checkpoint']}: has weights only: name the network that they are for with --network ({_NETWORKS})",
        reason="missing_facts",
    )


_DRAFTS: Mapping[str, Callable[[Mapping[str, Any], Hints], Draft]] = {
    "onnx": _onnx_draft,
    "timm": _timm_draft,
    "hugging_face": _hugging_face_draft,
    "torchvision": _torchvision_draft,
    "ultralytics": _ultralytics_draft,
    "module": _module_draft,
    "torch": _torch_draft,
    "keras": _keras_draft,
    "saved_model": _saved_model_draft,
    STATE_DICT: _state_dict_draft,
}
