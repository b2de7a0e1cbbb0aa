"""Does the artefact compute what the network computes, in every batch that a server is sent?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jpeg_contract.report import ParityResult, Tolerance
from numpy.typing import NDArray

from jpeg_build.errors import ParityError
from jpeg_build.networks.network import Network

Logits = NDArray[np.float32]
Pixels = NDArray[np.uint8]


# The more photos, the larger the largest difference of all: of a good int8 artefact, that of one photo in a hundred is
# twice that of the others (docs/quantise.md). With fewer photos than this, 5 % are none of them.
OUTLIERS = 0.05
SEVERAL_PHOTOS = 20

TOLERANCES = {
    "fp32": Tolerance(1e-3, 1e-4, 1.0, 1.0, tie=1e-3),
    "fp16": Tolerance(0.02, 0.004, 1.0, 0.95, tie=0.005),
    "bf16": Tolerance(0.10, 0.02, 0.95, 0.90, tie=0.02),
    "int8": Tolerance(0.15, 0.025, 0.85, 0.80, tie=0.02, noise=False, outlier_difference=0.30),
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
    worst = np.max([difference[:photos].max(axis=1) for difference in differences], axis=0)
    # Integers, since 0.05 * 20 may be a little less than 1.
    exceptions = photos // SEVERAL_PHOTOS
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
        most_photos_difference=float(np.sort(worst)[::-1][exceptions]) / scale if finite else float("nan"),
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
    found = [each for each in comparisons(parity, judged) if not each.within]
    if found:
        sizes = ", ".join(map(str, parity.batches))
        raise ParityError(
            f"the {precision or judged} artefact does not compute what the network computes (in batches of {sizes}): "
            f"{'; '.join(each.fault for each in found)}",
            reason="neighbours" if all(each.of_neighbours for each in found) else "parity",
        )


@dataclass(frozen=True)
class Comparison:
    """One measure against its bound.

    Attributes:
        within: Whether it is kept; never by NaN.
        fault: What to say if it is not.
        excess: How far the measure is from its ideal, as a multiple of what is allowed.
        of_neighbours: It is of the dependence on neighbours in a batch.
    """

    within: bool
    fault: str
    excess: float
    of_neighbours: bool = False


def comparisons(parity: ParityResult, judged: str) -> list[Comparison]:
    """Compare each measure with its bound in the tolerance of a precision."""
    tolerance = TOLERANCES[judged]
    allowed, outlier = tolerance.relative_difference, tolerance.outlier_difference
    largest = parity.relative_difference if outlier is None else parity.most_photos_difference
    on_most = " on all photos but the worst 5 %" if outlier is not None and parity.photos >= SEVERAL_PHOTOS else ""
    found = [
        _at_most(largest, allowed, f"logits differ by up to {largest:.2g} of the largest logit{on_most}"),
        _at_most(
            parity.mean_difference,
            tolerance.mean_difference,
            f"logits differ by {parity.mean_difference:.2g} of the largest logit on average",
        ),
        _at_least(parity.top1_agreement, tolerance.top1_agreement, "top-1 agrees on"),
        _at_least(parity.top5_overlap, tolerance.top5_overlap, "top-5 overlaps by"),
        replace(
            _at_most(
                parity.neighbour_difference,
                allowed,
                "an image's logits depend on its neighbours in the batch, by up to "
                f"{parity.neighbour_difference:.2g} of the largest logit",
            ),
            of_neighbours=True,
        ),
    ]
    if outlier is not None and on_most:
        worst = parity.relative_difference
        found.append(_at_most(worst, outlier, f"logits of one photo differ by up to {worst:.2g} of the largest logit"))
    return found


def _at_most(value: float, bound: float, what: str) -> Comparison:
    # A NaN fails every comparison.
    excess = value / bound if bound and not math.isnan(value) else math.inf
    return Comparison(value <= bound, f"{what}, {bound:.2g} is allowed", excess)


def _at_least(part: float, bound: float, what: str) -> Comparison:
    excess = (1 - part) / (1 - bound) if bound < 1 else math.inf
    return Comparison(part >= bound, f"{what} {part:.1%}, {bound:.1%} is needed", excess)
