"""The module around a network of PyTorch: uint8 pixels in, normalised inside the graph, logits out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jpeg_build.recipe.normalisation import GRAY_WEIGHTS, Normalisation
from jpeg_build.recipe.outputs import LOGITS, SMALLEST, OutputKind


class PixelsToLogits(nn.Module):
    """Normalise pixels and run a network on them. Can be exported, traced and scripted.

    (pixel / 255 - mean) / std is computed as (pixel - 255 mean) * (1 / (255 std)), which saves a pass over the image,
    and always in float32.

    Args:
        network: Takes (N, channels, H, W) float32, normalised, and returns (N, classes) values, or (N, 1).
        normalisation: That the network was trained with.
        fp16: The network takes and returns float16.
        output: Kind of the network's values.
    """

    # TorchScript drops the branches that these switch off.
    __constants__ = ("bgr", "fp16", "gray", "one_channel", "probabilities", "sigmoid", "single")

    def __init__(
        self,
        network: nn.Module,
        normalisation: Normalisation,
        *,
        fp16: bool = False,
        output: OutputKind = LOGITS,
    ) -> None:
        super().__init__()
        self.network = network
        self.bgr = normalisation.color == "BGR"
        self.gray = normalisation.color == "GRAY"
        self.one_channel = normalisation.channels == 1
        self.fp16 = fp16
        self.probabilities = output.values == "probabilities"
        self.sigmoid = output.head == "sigmoid" or output.single
        self.single = output.single
        self.register_buffer("weights", torch.tensor(GRAY_WEIGHTS))
        self.weights: Tensor
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
        floats = pixels.to(torch.float32)
        if self.gray:
            floats = (floats * self.weights).sum(-1, keepdim=True)
        normalised = (floats - self.mean) * self.scale
        if self.fp16:
            normalised = normalised.to(torch.float16)
        if self.one_channel:
            # A permuted axis of one passes for contiguous as it is, and the network's layers then keep channels last.
            planes = normalised.squeeze(-1).unsqueeze(1)
        else:
            # Contiguous: from the strides of a view, exporters write other operators.
            planes = normalised.permute(0, 3, 1, 2).contiguous()
        logits: Tensor = self.network(planes)
        if self.fp16:
            logits = logits.to(torch.float32)
        if self.probabilities:
            positive = logits.clamp(min=SMALLEST)
            logits = positive.log() - (1 - logits).clamp(min=SMALLEST).log() if self.sigmoid else positive.log()
        if self.single:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits
