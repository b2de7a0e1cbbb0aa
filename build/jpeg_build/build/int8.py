"""The images of an int8 build: to calibrate on, and to compare on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jpeg_contract.command_line import Progress
from jpeg_contract.report import ComparedOn
from jpeg_contract.resources import PHOTOS

from jpeg_build.build.inputs import run_network
from jpeg_build.build.request import Request
from jpeg_build.checks import parity
from jpeg_build.checks.parity_inputs import ParityInputs
from jpeg_build.emitters import Logits, Pixels
from jpeg_build.emitters.int8_search import Verdict
from jpeg_build.photos import MOST_HELD_OUT, held_out, load_photos

# Ranges of values hardly change with more, and all are in memory at once (150 kB each at 224x224).
CALIBRATION_PHOTOS = 1000


@dataclass(frozen=True)
class Int8Images:
    """The images of an int8 build.

    Attributes:
        calibration: (N, H, W, 3) uint8.
        inputs: What it is compared on.
        compared_on: Which images these are.
    """

    calibration: Pixels
    inputs: ParityInputs
    compared_on: ComparedOn

    @property
    def advice(self) -> str:
        """What to do if int8 is outside its tolerance."""
        return (
            f". The ranges of int8 came from {len(self.calibration)} images: give more, of the kind that the server "
            "gets, with --calibration DIR, or use --precision fp16"
        )

    def judge(self, logits: Logits) -> Verdict:
        """Compare the logits of an int8 form on the photos, run one at a time, with the network's."""
        outputs = parity.Outputs((1,), (logits,))
        measured = parity.measure(self.inputs.reference, outputs, photos=len(self.inputs.photos), precision="int8")
        compared = parity.comparisons(measured, "int8")
        fault = "; ".join(each.fault for each in compared if not each.within)
        return Verdict(measured, fault, max(each.excess for each in compared))


def int8_images(request: Request, inputs: ParityInputs, progress: Progress) -> Int8Images:
    """Load the calibration photos, and choose the images to compare on.

    Photos of the project say little about a network for other images, whose values no cat or cup reaches: with
    --calibration, and without --photos, int8 is compared on some of the calibration photos.

    Raises:
        BuildError: There is no photo.
    """
    if request.calibration is None:
        return Int8Images(inputs.photos, inputs, "photos")
    images = load_photos(
        request.calibration,
        request.recipe,
        purpose="calibrate int8 on",
        option="--calibration",
        at_most=CALIBRATION_PHOTOS,
        skipped=lambda line: progress(f"left out of the calibration: {line}"),
    )
    if request.photos != PHOTOS:
        return Int8Images(images, inputs, "photos")
    divided = held_out(images)
    calibration, compared = divided if divided is not None else (images, images[:: -(-len(images) // MOST_HELD_OUT)])
    progress(f"running the network on {len(compared)} of the calibration photos")
    reference = np.concatenate([run_network(inputs.network, compared), inputs.reference[len(inputs.photos) :]])
    return Int8Images(
        calibration,
        replace(inputs, photos=compared, reference=reference),
        "calibration photos" if divided is None else "held-out calibration photos",
    )
