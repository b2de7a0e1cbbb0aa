"""Which network of a recipe a classifier form is built from."""

from __future__ import annotations

from pathlib import Path

from jpeg_contract.command_line import Progress
from jpeg_contract.forms import ClassifierForm

from jpeg_build.errors import BuildError
from jpeg_build.network import Network
from jpeg_build.recipe import Recipe
from jpeg_build.sources import OnnxSource, TimmSource, TorchvisionSource

# Whose weights --checkpoint and --weights replace.
WITH_CHECKPOINT = (TorchvisionSource, TimmSource)


def load_network(
    recipe: Recipe,
    form: ClassifierForm,
    *,
    checkpoint: Path | None = None,
    random: bool = False,
    built: Path | None = None,
    progress: Progress,
) -> Network:
    """Load the network of a recipe, with the framework that it belongs to.

    Args:
        recipe: It names the network.
        form: It decides between the recipe's networks.
        checkpoint: Weights instead of the recipe's; not for a file that holds its weights.
        random: Random weights; likewise.
        built: A model repository whose classifier_onnx is the network.
        progress: Takes the steps of the work.

    Raises:
        BuildError: The network or its weights are not available.
    """
    if built is not None:
        from jpeg_build.built_network import SOURCE, BuiltNetwork

        progress(f"taking the network from {SOURCE.model}")
        return BuiltNetwork(recipe, built)
    if form.from_tensorflow:
        progress("starting TensorFlow")
        from jpeg_build.keras_network import KerasNetwork

        progress("loading the recipe's TensorFlow network")
        return KerasNetwork(recipe, checkpoint=checkpoint, random=random)
    source = recipe.source
    if not isinstance(source, WITH_CHECKPOINT) and (checkpoint is not None or random):
        raise BuildError(
            "--checkpoint and --weights do not go with a file that has its weights inside", reason="invalid_call"
        )
    if isinstance(source, OnnxSource):
        from jpeg_build.onnx_network import OnnxNetwork  # needs no PyTorch

        progress(f"loading {source.file.name} with ONNX Runtime")
        return OnnxNetwork(recipe)
    progress("starting PyTorch")
    if isinstance(source, TorchvisionSource):
        from jpeg_build.torchvision_network import TorchvisionNetwork

        progress(f"loading {source.network}")
        return TorchvisionNetwork(recipe, checkpoint=checkpoint, random=random)
    raise AssertionError(source)
