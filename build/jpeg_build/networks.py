"""Which network a recipe means for a backend."""

from __future__ import annotations

from pathlib import Path

from jpeg_build.emitters import Say
from jpeg_build.errors import BuildError
from jpeg_build.network import Network
from jpeg_build.recipe import OnnxSource, Recipe


def load_network(
    recipe: Recipe,
    backend: str,
    *,
    checkpoint: Path | None = None,
    random: bool = False,
    built: Path | None = None,
    say: Say,
) -> Network:
    """The network of a recipe, with the framework that has it.

    checkpoint: weights instead of the recipe's. random: random weights. Both are for networks whose file holds no
    weights. built: a model repository whose classifier_onnx is the network.

    Raises BuildError.
    """
    if built is not None:
        from jpeg_build.built_network import SOURCE, BuiltNetwork

        say(f"taking the network from {SOURCE.model}")
        return BuiltNetwork(recipe, built)
    if backend == "tf_trt":
        say("starting TensorFlow")
        from jpeg_build.keras_network import KerasNetwork

        say("loading the recipe's TensorFlow network")
        return KerasNetwork(recipe, checkpoint=checkpoint, random=random)
    source = recipe.onnx_network()
    if isinstance(source, OnnxSource):
        if checkpoint is not None or random:
            raise BuildError("--checkpoint and --weights do not go with an ONNX file, which has its weights inside")
        from jpeg_build.onnx_network import OnnxNetwork  # needs no PyTorch

        say(f"loading {source.file.name} with ONNX Runtime")
        return OnnxNetwork(recipe)
    say("starting PyTorch")
    from jpeg_build.torchvision_network import TorchvisionNetwork

    say(f"loading {source.network}")
    return TorchvisionNetwork(recipe, checkpoint=checkpoint, random=random)
