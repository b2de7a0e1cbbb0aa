"""The module around a network of PyTorch: uint8 pixels in, normalised inside the graph, logits out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jpeg_build.recipe import Normalisation


class PixelsToLogits(nn.Module):
    """Normalise pixels and run a network on them. Can be exported, traced and scripted.

    (pixel / 255 - mean) / std is computed as (pixel - 255 mean) * (1 / (255 std)), which saves a pass over the image,
    and always in float32.

    Args:
        network: Takes (N, 3, H, W) float32, normalised, and returns (N, classes) logits.
        normalisation: That the network was trained with.
        fp16: The network takes and returns float16.
    """

    __constants__ = ("bgr", "fp16")  # TorchScript drops the branches that these switch off.

    def __init__(self, network: nn.Module, normalisation: Normalisation, *, fp16: bool = False) -> None:
        super().__init__()
        self.network = network
        self.bgr = normalisation.color == "BGR"
        self.fp16 = fp16
        mean = torch.tensor(normalisation.mean, dtype=torch.float64) * 255
        scale = 1 / (torch.tensor(normalisation.std, dtype=torch.float64) * 255)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute logits.

        Args:
            pixels: (N, H, W, 3) uint8, RGB, [0, 255].

        Returns:
            (N, classes) float32 logits.
        """
        if self.bgr:
            pixels = pixels.flip([-1])
        normalised = (pixels.to(torch.float32) - self.mean) * self.scale
        if self.fp16:
            normalised = normalised.to(torch.float16)
        # Contiguous: from the strides of a view, exporters write other operators.
        logits: Tensor = self.network(normalised.permute(0, 3, 1, 2).contiguous())
        if self.fp16:
            logits = logits.to(torch.float32)
        return logits
