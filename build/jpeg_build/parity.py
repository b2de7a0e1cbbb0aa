"""Does the artefact compute what the network computes?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jpeg_build.errors import ParityError
from jpeg_build.network import Network

Logits = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """What is allowed at one precision.

    relative_difference: largest difference of a logit, as a part of the reference's largest absolute logit.
    mean_difference: the same of the mean difference.
    top1_agreement, top5_overlap: at least this part, over the photos.
    tie: classes whose reference logits are nearer to each other than this part of the largest logit count as equal in
    rank: which of two equal logits is first says nothing about an artefact.
    noise: whether images of noise count. Calibrated artefacts clip what no photo reaches.
    """

    relative_difference: float
    mean_difference: float
    top1_agreement: float
    top5_overlap: float
    tie: float
    noise: bool = True


TOLERANCES = {
    "fp32": Tolerance(1e-3, 1e-4, 1.0, 1.0, tie=1e-3),
    "fp16": Tolerance(0.02, 0.004, 1.0, 0.95, tie=0.005),
    "bf16": Tolerance(0.10, 0.02, 0.95, 0.90, tie=0.02),
    "int8": Tolerance(0.15, 0.025, 0.85, 0.80, tie=0.02, noise=False),
}


@dataclass(frozen=True)
class Parity:
    """What was measured; differences are of logits, agreement and overlap over the photos.

    relative_difference, mean_difference: the largest and the mean difference, as a part of the largest logit.
    """

    photos: int
    random_images: int
    largest_logit: float
    max_abs_difference: float
    mean_abs_difference: float
    relative_difference: float
    mean_difference: float
    top1_agreement: float
    top5_overlap: float


def measure(reference: Logits, artefact: Logits, *, photos: int, precision: str) -> Parity:
    """Compare two sets of logits, both (N, classes) float32; the first `photos` rows are of photos."""
    tolerance = TOLERANCES[precision]
    if not tolerance.noise:
        reference, artefact = reference[:photos], artefact[:photos]
    if reference.shape != artefact.shape:
        raise ParityError(f"the artefact's output has shape {artefact.shape}, the network's {reference.shape}")
    difference = np.abs(reference.astype(np.float64) - artefact)
    # A NaN anywhere must fail every comparison.
    largest = float(difference.max()) if np.isfinite(artefact).all() else float("nan")
    scale = float(np.abs(reference).max())
    tie = tolerance.tie * scale
    k = min(5, reference.shape[1])
    rows = np.arange(photos)
    ranked = -np.sort(-reference[:photos], axis=1)
    first = reference[rows, artefact[:photos].argmax(axis=1)]
    best = np.argpartition(-artefact[:photos], k - 1, axis=1)[:, :k]
    among_best = np.take_along_axis(reference[:photos], best, axis=1) >= ranked[:, k - 1 : k] - tie
    return Parity(
        photos=photos,
        random_images=len(reference) - photos,
        largest_logit=scale,
        max_abs_difference=largest,
        mean_abs_difference=float(difference.mean()),
        relative_difference=largest / max(scale, 1e-6),
        mean_difference=float(difference.mean()) / max(scale, 1e-6),
        top1_agreement=float((first >= ranked[:, 0] - tie).mean()),
        top5_overlap=float(among_best.mean()),
    )


def judged_as(precision: str, network: Network) -> str:
    """The precision whose tolerance counts: a network that is itself in float16 rounds its own answers, too."""
    return "fp16" if precision == "fp32" and network.rounds_to_half else precision


def check(parity: Parity, judged: str, precision: str | None = None) -> None:
    """Raises ParityError, naming what is outside, if the tolerance of the precision `judged` is not kept.

    precision: of the artefact, for the message (default: `judged`).
    """
    tolerance = TOLERANCES[judged]
    faults = []
    if not parity.relative_difference <= tolerance.relative_difference:
        faults.append(
            f"logits differ by up to {parity.relative_difference:.2g} of the largest logit, "
            f"{tolerance.relative_difference:.2g} is allowed"
        )
    if not parity.mean_difference <= tolerance.mean_difference:
        faults.append(
            f"logits differ by {parity.mean_difference:.2g} of the largest logit on the mean, "
            f"{tolerance.mean_difference:.2g} is allowed"
        )
    if not parity.top1_agreement >= tolerance.top1_agreement:
        faults.append(f"top-1 agrees on {parity.top1_agreement:.1%}, {tolerance.top1_agreement:.1%} is needed")
    if not parity.top5_overlap >= tolerance.top5_overlap:
        faults.append(f"top-5 overlaps by {parity.top5_overlap:.1%}, {tolerance.top5_overlap:.1%} is needed")
    if faults:
        raise ParityError(
            f"the {precision or judged} artefact does not compute what the network computes: {'; '.join(faults)}"
        )


def run_in_batches(run: Callable[[Pixels], Logits], pixels: Pixels) -> Logits:
    """Run on batches of 1, then of 3, then of 16 until all is done, so that a dynamic batch is proven."""
    bounds = [0, 1, 4, *range(20, len(pixels), 16), len(pixels)]
    parts = [pixels[first:last] for first, last in itertools.pairwise(bounds)]
    return np.concatenate([run(part) for part in parts if len(part)])
