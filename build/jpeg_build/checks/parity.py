"""Does the artefact compute what the network computes, in every batch that a server is sent?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jpeg_contract.report import ParityResult
from numpy.typing import NDArray

from jpeg_build.errors import ParityError
from jpeg_build.networks.network import Network

Logits = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Tolerance:
    """The bounds of one precision.

    Attributes:
        relative_difference: Largest difference of a logit, as a part of the network's largest absolute logit. It also
            bounds how far an image's logits may depend on its neighbours in a batch.
        mean_difference: The same of the mean difference.
        top1_agreement: Least agreement, as a part of the photos.
        top5_overlap: Least overlap.
        tie: Classes whose logits by the network are nearer to each other than this part of the largest logit count as
            equal in rank: which of two equal logits is first says nothing about an artefact.
        noise: Whether images of noise count. Calibrated artefacts clip values that no photo reaches.
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
class Outputs:
    """The logits of an artefact, run in batches of several sizes.

    Attributes:
        batches: The sizes, in the order of `logits`.
        logits: For each size (N, classes) float32 of all N images.
    """

    batches: tuple[int, ...]
    logits: tuple[Logits, ...]


def batch_sizes(*, cpus: int, opt: int, largest: int) -> tuple[int, ...]:
    """Return the batch sizes that parity is measured in: 1, 2, 3, the number of CPUs, those of the profile.

    Args:
        cpus: How many the loader counts on: its way of running a batch depends on it.
        opt: The size that an engine is tuned for.
        largest: max_batch_size of the config.
    """
    return tuple(sorted({min(size, largest) for size in (1, 2, 3, cpus, 2 * cpus + 1, opt, largest)}))


def run_in_batches(run: Callable[[Pixels], Logits], pixels: Pixels, sizes: Sequence[int]) -> Outputs:
    """Run all images in batches of each size, with other neighbours and at other positions each time.

    Args:
        run: (N, H, W, 3) uint8 to (N, classes) float32.
        pixels: (N, H, W, 3) uint8; repeated where a batch is longer.
        sizes: Of the batches.

    Raises:
        ParityError: An output has another shape than its batch.
    """
    logits = []
    for turn, size in enumerate(sizes):
        # Rotated, and every second time backwards: each image meets other neighbours, at another position.
        order = np.roll(np.arange(len(pixels)), turn)[:: -1 if turn % 2 else 1]
        padded = np.resize(order, -(-len(order) // size) * size)
        found: dict[int, NDArray[np.float32]] = {}
        for first in range(0, len(padded), size):
            places = padded[first : first + size]
            rows = run(pixels[places])
            if rows.ndim != 2 or len(rows) != size:
                raise ParityError(
                    f"a batch of {size} images gives an output of shape {list(rows.shape)}", reason="output_shape"
                )
            found.update(zip(places.tolist(), rows, strict=True))
        logits.append(np.stack([found[place] for place in range(len(pixels))]))
    return Outputs(tuple(sizes), tuple(logits))


def measure(reference: Logits, outputs: Outputs, *, photos: int, precision: str) -> ParityResult:
    """Compare an artefact with the network; of each measure, the worst of all batch sizes counts.

    Args:
        reference: (N, classes) float32 logits of the network.
        outputs: Of the artefact.
        photos: The first so many rows are of photos, the others of noise.
        precision: Whose tolerance for ties and noise counts.

    Raises:
        ParityError: The shapes differ.
    """
    tolerance = TOLERANCES[precision]
    rows = len(reference) if tolerance.noise else photos
    reference = reference[:rows]
    each = [logits[:rows] for logits in outputs.logits]
    for logits in each:
        if reference.shape != logits.shape:
            raise ParityError(
                f"the artefact's output has shape {logits.shape}, the network's {reference.shape}",
                reason="output_shape",
            )
    scale = max(float(np.abs(reference).max()), 1e-6)
    differences = [np.abs(reference.astype(np.float64) - logits) for logits in each]
    finite = all(np.isfinite(logits).all() for logits in each)
    # A NaN anywhere must fail every comparison.
    largest = max(float(difference.max()) for difference in differences) if finite else float("nan")
    mean = max(float(difference.mean()) for difference in differences) if finite else float("nan")
    stacked = np.stack(each).astype(np.float64)
    neighbours = float((stacked.max(axis=0) - stacked.min(axis=0)).max()) if finite else float("nan")
    ranks = [_ranks(reference[:photos], logits[:photos], tolerance.tie * scale) for logits in each]
    return ParityResult(
        photos=photos,
        random_images=rows - photos,
        largest_logit=float(np.abs(reference).max()),
        max_abs_difference=largest,
        mean_abs_difference=mean,
        relative_difference=largest / scale,
        mean_difference=mean / scale,
        top1_agreement=min(top1 for top1, _ in ranks),
        top5_overlap=min(top5 for _, top5 in ranks),
        batches=list(outputs.batches),
        neighbour_difference=neighbours / scale,
    )


def _ranks(reference: Logits, logits: Logits, tie: float) -> tuple[float, float]:
    """Return top-1 agreement and top-5 overlap over the rows."""
    k = min(5, reference.shape[1])
    rows = np.arange(len(reference))
    ranked = -np.sort(-reference, axis=1)
    first = reference[rows, logits.argmax(axis=1)]
    best = np.argpartition(-logits, k - 1, axis=1)[:, :k]
    among_best = np.take_along_axis(reference, best, axis=1) >= ranked[:, k - 1 : k] - tie
    return float((first >= ranked[:, 0] - tie).mean()), float(among_best.mean())


def judged_as(precision: str, network: Network) -> str:
    """Return the precision whose tolerance counts: a network that is itself in float16 rounds its own outputs, too."""
    return "fp16" if precision == "fp32" and network.rounds_to_half else precision


def check(parity: ParityResult, judged: str, precision: str | None = None) -> None:
    """Check that the tolerance of a precision is kept.

    Args:
        parity: Of the artefact.
        judged: The precision whose tolerance counts.
        precision: Of the artefact, for the message; None is `judged`.

    Raises:
        ParityError: It is not; the message names what is outside. Reason "neighbours" if nothing but the dependence on
            neighbours is outside.
    """
    tolerance = TOLERANCES[judged]
    faults = []
    sizes = ", ".join(map(str, parity.batches))
    if not parity.relative_difference <= tolerance.relative_difference:
        faults.append(
            f"logits differ by up to {parity.relative_difference:.2g} of the largest logit, "
            f"{tolerance.relative_difference:.2g} is allowed"
        )
    if not parity.mean_difference <= tolerance.mean_difference:
        faults.append(
            f"logits differ by {parity.mean_difference:.2g} of the largest logit on average, "
            f"{tolerance.mean_difference:.2g} is allowed"
        )
    if not parity.top1_agreement >= tolerance.top1_agreement:
        faults.append(f"top-1 agrees on {parity.top1_agreement:.1%}, {tolerance.top1_agreement:.1%} is needed")
    if not parity.top5_overlap >= tolerance.top5_overlap:
        faults.append(f"top-5 overlaps by {parity.top5_overlap:.1%}, {tolerance.top5_overlap:.1%} is needed")
    reason = "parity" if faults else "neighbours"
    if not parity.neighbour_difference <= tolerance.relative_difference:
        faults.append(
            f"an image's logits depend on its neighbours in the batch, by up to {parity.neighbour_difference:.2g} of "
            f"the largest logit, {tolerance.relative_difference:.2g} is allowed"
        )
    if faults:
        raise ParityError(
            f"the {precision or judged} artefact does not compute what the network computes (in batches of {sizes}): "
            f"{'; '.join(faults)}",
            reason=reason,
        )
