"""The wrapper that gives every network the same input: uint8 pixels, normalised inside the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jpeg_build.recipe import Normalisation


class PixelsToLogits(nn.Module):
    """(N, H, W, 3) uint8 RGB pixels in [0, 255] to (N, classes) float32 logits.

    network takes (N, 3, H, W) float32, normalised; float16 with fp16, for a network whose weights are that.
    (pixel / 255 - mean) / std is computed as (pixel - 255 mean) * (1 / (255 std)), which saves a pass over the image,
    in float32 always. It can be exported, traced and scripted.
    """

    __constants__ = ("bgr", "fp16")  # so that TorchScript leaves out what is not done

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
        """Normalise, transpose to NCHW, and ask the network."""
        if self.bgr:
            pixels = pixels.flip([-1])
        normalised = (pixels.to(torch.float32) - self.mean) * self.scale
        if self.fp16:
            normalised = normalised.to(torch.float16)
        # In memory as in name: exporters write other operators for a network that sees strides of a view.
        logits: Tensor = self.network(normalised.permute(0, 3, 1, 2).contiguous())
        if self.fp16:
            logits = logits.to(torch.float32)
        return logits
