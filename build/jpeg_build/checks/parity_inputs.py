"""The images that artefacts are checked on, with the logits of the network itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jpeg_build.emitters import Logits, Pixels
from jpeg_build.networks.network import Network


@dataclass(frozen=True)
class ParityInputs:
    """The images that every candidate is checked on, and the network's own logits.

    Attributes:
        network: The trained network.
        photos: (N, H, W, 3) uint8.
        noise: (M, H, W, 3) uint8.
        reference: (N + M, classes) float32 logits of the network, in fp32.
    """

    network: Network
    photos: Pixels
    noise: Pixels
    reference: Logits

    @property
    def pixels(self) -> Pixels:
        """Photos, then noise."""
        return np.concatenate([self.photos, self.noise])
