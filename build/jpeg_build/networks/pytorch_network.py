"""Networks of PyTorch: run, wrapped in the contract, exported to ONNX. Where they come from is others' work."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jpeg_contract.tensors import INPUT, OUTPUT
from numpy.typing import NDArray
from torch import Tensor, nn

from jpeg_build.errors import NetworkError, first_line
from jpeg_build.networks.network import Weights
from jpeg_build.networks.pixels_to_logits import PixelsToLogits
from jpeg_build.networks.pytorch_ending import Endings
from jpeg_build.networks.reference import check_shape, check_values, normalise, probe_images
from jpeg_build.quiet import quiet
from jpeg_build.recipe.keys import Output
from jpeg_build.recipe.normalisation import Normalisation
from jpeg_build.recipe.outputs import OutputKind, to_logits
from jpeg_build.recipe.recipe import Recipe


class PyTorchNetwork:
    """A network of PyTorch, in evaluation mode, on the CPU.

    Args:
        recipe: Its recipe.
        network: Takes (N, channels, H, W) float32, normalised, and returns (N, classes) values, or (N, 1) for two
            classes.
        labels: Of the classes.
        weights: Where its numbers come from.
        title: File or name of the network, for messages.
        output: Kind of the output's values, as the recipe states it.

    Raises:
        NetworkError: It cannot run on images of the recipe, or its output does not fit the recipe.
    """

    rounds_to_half = False

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        *,
        labels: Sequence[str],
        weights: Weights,
        title: str,
        output: Output = "logits",
    ) -> None:
        self._recipe, self._network, self._title = recipe, network.eval(), title
        self.labels, self.weights = labels, weights
        with Endings() as endings:
            output_tensor = self._call(probe_images(recipe))
        self.kind: OutputKind = check_values(
            _values(output_tensor),
            recipe,
            "source",
            output,
            title,
            trained=weights.sha256 is not None,
            ending=endings.of(output_tensor),
        )

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Network. NumPy normalises the images, and not the wrapper that is checked."""
        return to_logits(self._run(pixels), self.kind)

    def export_onnx(self, path: Path) -> None:
        """See Network. Uses torch.onnx's exporter of torch.export programs, with a dynamic batch."""
        from jpeg_build.graphs.onnx_graph import finish  # Nothing else here needs the package onnx.

        height, width = self._recipe.geometry.crop_size
        # Two images: with one, the exporter makes the batch a constant.
        example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
        wrapped = self.pixels_to_logits()
        try:
            with quiet("torch.onnx", "torch.export", "onnxscript", "onnx_ir"):
                program = torch.onnx.export(
                    wrapped,
                    (example,),
                    dynamo=True,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                    external_data=False,
                    verbose=False,
                )
        except Exception as error:  # as the network's own code may raise any
            raise NetworkError(
                f"{self._title}: PyTorch cannot export it to ONNX: {first_line(error)}. If its code depends on the "
                'values of images, export it yourself, for kind = "onnx" (docs/recipes.md)',
                reason="not_exported",
            ) from error
        assert program is not None
        finish(program.model_proto, path)

    @property
    def network(self) -> nn.Module:
        """The network itself: (N, channels, H, W) float32 images, normalised, to its values. Not to be changed."""
        return self._network

    @property
    def normalisation(self) -> Normalisation:
        """That the network was trained with."""
        return self._recipe.normalisation

    def pixels_to_logits(self, *, fp16: bool = False) -> PixelsToLogits:
        """Return the network with the contract around it; with fp16, a copy of it with float16 weights."""
        return self.wrap(copy.deepcopy(self._network).half() if fp16 else self._network, fp16=fp16)

    def wrap(self, network: nn.Module, *, fp16: bool = False) -> PixelsToLogits:
        """Return the contract around another form of the network."""
        return PixelsToLogits(network, self.normalisation, fp16=fp16, output=self.kind).eval()

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network on pixels, (N, H, W, 3) uint8; return its values, (N, values) float32."""
        return _values(self._call(pixels))

    def _call(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Run the network on pixels, (N, H, W, 3) uint8; return its output, of a shape that fits the recipe."""
        images = normalise(pixels, self.normalisation).transpose(0, 3, 1, 2).astype(np.float32)
        try:
            with torch.inference_mode():
                # A copy: of one channel, NumPy takes channels last for contiguous.
                output = self._network(torch.from_numpy(images).clone(memory_format=torch.contiguous_format))
        except Exception as error:
            raise self._not_run(images.shape[1:], error) from error
        if not isinstance(output, Tensor):
            raise NetworkError(
                f"{self._title}: returns {type(output).__name__}, and not one tensor with a value for each class: "
                "return that tensor alone",
                reason="output_type",
            )
        check_shape(output.shape, self._recipe, self._title, "0")
        return output

    def _not_run(self, shape: tuple[int, ...], error: Exception) -> NetworkError:
        """Return the error of a network that does not run on images of this shape, (channels, height, width)."""
        color = self._recipe.locate("normalisation", "color")
        if shape[0] == 3 and _takes(self._network, (1, *shape[1:])):
            return NetworkError(
                f'{color}: {self._title} takes images of one channel: set [normalisation] color = "GRAY", with one '
                "number for mean and for std",
                reason="gray_network",
            )
        if shape[0] == 1 and _takes(self._network, (3, *shape[1:])):
            return NetworkError(
                f"{color}: makes images of one channel, and {self._title} takes three: for gray images three times, "
                "write three numbers for mean and for std; for colours, leave color out",
                reason="channels_differ",
            )
        size = "x".join(str(each) for each in shape)
        return NetworkError(
            f"{self._title}: PyTorch cannot run it on images of {size}: {first_line(error)}. Is crop_size that of the "
            "training?",
            reason="network_failed",
        )


def _takes(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a network runs on an image of this shape."""
    try:
        with torch.inference_mode():
            network(torch.zeros(1, *shape))
    except Exception:
        return False
    return True


def _values(output: Tensor) -> NDArray[np.float32]:
    """Return the output of N images as (N, values) float32."""
    values: NDArray[np.float32] = output.reshape(len(output), -1).float().numpy()
    return values
