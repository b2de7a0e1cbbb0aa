"""The interface of a trained network to a build, whatever framework it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Weights:
    """Where the numbers of a network come from, for the report. sha256 is None for random weights."""

    source: str
    sha256: str | None


class Network(Protocol):
    """A trained network with its labels."""

    @property
    def weights(self) -> Weights:
        """Where its numbers come from."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """The names of its classes."""
        ...

    @property
    def rounds_to_half(self) -> bool:
        """Whether it is itself in float16, so that its outputs are rounded before any conversion."""
        ...

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run it in its own framework, in fp32: (N, H, W, 3) uint8 to (N, classes) float32 logits."""
        ...

    def export_onnx(self, path: Path) -> None:
        """Write an ONNX file of the contract: `input__0` uint8 (N, H, W, 3), `output__0` float32 logits."""
        ...
