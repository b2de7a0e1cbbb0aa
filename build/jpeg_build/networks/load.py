"""Which network of a recipe a classifier form is built from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jpeg_contract.command_line import Progress
from jpeg_contract.forms import ClassifierForm
from jpeg_contract.remedies import missing_package

from jpeg_build.errors import BuildError
from jpeg_build.extras import EXTRAS
from jpeg_build.networks.network import Network
from jpeg_build.recipe.recipe import Recipe
from jpeg_build.recipe.sources import (
    HuggingFaceSource,
    KerasSource,
    ModuleSource,
    OnnxSource,
    SavedModelSource,
    TimmSource,
    TorchSource,
    TorchvisionSource,
    UltralyticsSource,
)

# Whose weights --checkpoint and --weights replace.
WITH_CHECKPOINT = (TorchvisionSource, TimmSource, KerasSource)


def load_network(
    recipe: Recipe,
    form: ClassifierForm,
    *,
    checkpoint: Path | None = None,
    random: bool = False,
    built: Path | None = None,
    trust_code: bool = False,
    progress: Progress,
) -> Network:
    """Load the network of a recipe, with the framework that it belongs to.

    Args:
        recipe: It names the network.
        form: It decides between the recipe's networks.
        checkpoint: Weights instead of the recipe's; not for a file that holds its weights.
        random: Random weights; likewise.
        built: A model repository whose classifier_onnx is the network.
        trust_code: Run a Python file that the recipe names.
        progress: Takes the steps of the work.

    Raises:
        BuildError: The network or its weights are not available.
    """
    if built is not None:
        from jpeg_build.networks.built_network import SOURCE, BuiltNetwork

        progress(f"taking the network from {SOURCE.of(form.ensemble).model}")
        return BuiltNetwork(recipe, built, form.ensemble)
    if form.from_tensorflow:
        progress("starting TensorFlow")
        from jpeg_build.networks.keras_network import KerasNetwork

        progress("loading the recipe's TensorFlow network")
        return KerasNetwork(recipe, checkpoint=checkpoint, random=random)
    if not isinstance(recipe.source, WITH_CHECKPOINT) and (checkpoint is not None or random):
        raise BuildError(
            "--checkpoint and --weights do not go with a file that has its weights inside", reason="invalid_call"
        )
    if isinstance(recipe.source, ModuleSource) and not trust_code:
        raise BuildError(
            f"{recipe.locate('source', 'module')}: names code that the build would run, {recipe.source.file}: read it, "
            "and add --trust-code if you trust it",
            reason="untrusted_code",
        )
    with _packages():
        return _load(recipe, checkpoint=checkpoint, random=random, progress=progress)


def _load(recipe: Recipe, *, checkpoint: Path | None, random: bool, progress: Progress) -> Network:
    """Load the network of [source]. Each framework is imported only for its own networks."""
    match recipe.source:
        case OnnxSource(file=file):
            from jpeg_build.networks.onnx_network import OnnxNetwork  # needs no PyTorch

            progress(f"loading {file.name} with ONNX Runtime")
            return OnnxNetwork(recipe)
        case SavedModelSource(folder=folder):
            from jpeg_build.networks.saved_model_network import SavedModelNetwork

            progress(f"loading {folder.name}")
            return SavedModelNetwork(recipe)
        case KerasSource(network=network, file=keras_file):
            progress("starting Keras with PyTorch")
            from jpeg_build.networks.keras_torch_network import KerasTorchNetwork

            progress(f"loading {keras_file.name if keras_file is not None else network}")
            return KerasTorchNetwork(recipe, checkpoint=checkpoint, random=random)
    progress("starting PyTorch")
    match recipe.source:
        case TorchvisionSource(network=network):
            from jpeg_build.networks.torchvision_network import TorchvisionNetwork

            progress(f"loading {network}")
            return TorchvisionNetwork(recipe, checkpoint=checkpoint, random=random)
        case TimmSource(network=network):
            from jpeg_build.networks.timm_network import TimmNetwork

            progress(f"loading {network}")
            return TimmNetwork(recipe, checkpoint=checkpoint, random=random)
        case HuggingFaceSource(folder=hub_folder, network=network):
            from jpeg_build.networks.hugging_face_network import HuggingFaceNetwork

            progress(f"loading {hub_folder.name if hub_folder is not None else network}")
            return HuggingFaceNetwork(recipe)
        case UltralyticsSource(file=file):
            from jpeg_build.networks.ultralytics_network import UltralyticsNetwork

            progress(f"loading {file.name}")
            return UltralyticsNetwork(recipe)
        case ModuleSource(file=file, function=function):
            from jpeg_build.networks.module_network import ModuleNetwork

            progress(f"calling {file.name}:{function}")
            return ModuleNetwork(recipe)
        case TorchSource(file=file):
            from jpeg_build.networks.torch_program_network import TorchProgramNetwork

            progress(f"loading {file.name}")
            return TorchProgramNetwork(recipe)
    raise AssertionError(recipe.source)


@contextmanager
def _packages() -> Iterator[None]:
    """Name the extra of a framework's package that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        raise BuildError(missing_package(package, EXTRAS[package]), reason="package_missing") from error
