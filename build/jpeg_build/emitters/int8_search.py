"""The search for an int8 form that is within its tolerance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
from jpeg_contract.command_line import Progress
from jpeg_contract.report import ComparedOn, ParityResult, Quantisation, QuantisationTry
from numpy.typing import NDArray

from jpeg_build.errors import ParityError
from jpeg_build.graphs.onnx_values import logits
from jpeg_build.graphs.quantise import Quantised

Forms = Callable[[], Iterator[Quantised]]

# After so many seconds, no further form is tried: a build must end, also of a large network on a slow machine.
MOST_SECONDS = 20 * 60

# Forms that are run as the server runs them, at most: a TensorRT engine takes minutes to build.
MOST_SERVED = 3


@dataclass(frozen=True)
class Verdict:
    """How a form compares with the network.

    Attributes:
        parity: How far it is from it.
        fault: What is outside the tolerance; empty if nothing is.
        excess: The measure that is furthest outside, as a multiple of what is allowed; at most 1 if none is outside.
    """

    parity: ParityResult
    fault: str
    excess: float


@dataclass
class Int8Search:
    """Tries the int8 forms of one network, in their order, until one is within its tolerance.

    ONNX Runtime computes each form on the images of the comparison, which takes seconds. The form that is within the
    tolerance is then built and run as it is served; if it is not within the tolerance there, the search goes on.

    Attributes:
        images: (N, H, W, 3) uint8, to compare on.
        compared_on: Which images these are.
        judge: Compares the logits of the images with the network's.
        is_exhausted: No form is left.
    """

    images: NDArray[np.uint8]
    compared_on: ComparedOn
    judge: Callable[[NDArray[np.float32]], Verdict]
    is_exhausted: bool = False
    _forms: Iterator[Quantised] | None = None
    _tries: list[QuantisationTry] = field(default_factory=list)
    _excess: list[float] = field(default_factory=list)
    _served: int = 0
    _began: float = field(default_factory=time.monotonic)

    def next_form(self, forms: Forms, progress: Progress) -> Quantised:
        """Return the next form that is within the tolerance in ONNX Runtime.

        Args:
            forms: Makes the forms, in their order; called once in a search.
            progress: Takes a line for each form.

        Raises:
            ParityError: There is none.
        """
        if self._forms is None:
            self._forms = forms()
        for form in self._forms:
            verdict = self.judge(logits(form.model, self.images))
            self._add(form, verdict)
            progress(f"int8 with {_named(self._tries[-1])}: {_numbers(verdict.parity)}: {verdict.fault or 'good'}")
            if not verdict.fault:
                return form
            if time.monotonic() - self._began > MOST_SECONDS:
                progress(f"no further form of int8 is tried after {MOST_SECONDS / 60:.0f} minutes")
                break
        self.is_exhausted = True
        raise ParityError(self._refusal(), reason="parity")

    def goes_on_after(self, fault: ParityError) -> bool:
        """Record that the last form is outside the tolerance as it is served; return whether another may be tried."""
        self._tries[-1] = msgspec.structs.replace(self._tries[-1], fault=f"as it is served: {fault}")
        self._excess[-1] = max(self._excess[-1], 1.0)
        self._served += 1
        return self._served < MOST_SERVED

    def report(self, form: Quantised, calibration_images: int) -> Quantisation:
        """Return what was tried, and which form it is now."""
        return Quantisation(
            strategy=form.strategy,
            layers_in_float32=list(form.kept),
            calibration_images=calibration_images,
            compared_images=len(self.images),
            compared_on=self.compared_on,
            tries=list(self._tries),
        )

    def note(self, form: Quantised) -> str:
        """Describe for the user how the form was found; empty if it was the first."""
        if len(self._tries) == 1:
            return ""
        kept = f"; in float32: {', '.join(form.kept)}" if form.kept else ""
        return f"int8: {len(self._tries)} forms were tried; this one has {_named(self._tries[-1])}{kept}"

    def _add(self, form: Quantised, verdict: Verdict) -> None:
        parity = verdict.parity
        self._tries.append(
            QuantisationTry(
                strategy=form.strategy,
                layers_in_int8=form.layers,
                layers_in_float32=len(form.kept),
                top1_agreement=parity.top1_agreement,
                top5_overlap=parity.top5_overlap,
                mean_difference=parity.mean_difference,
                most_photos_difference=parity.most_photos_difference,
                relative_difference=parity.relative_difference,
                fault=verdict.fault,
            )
        )
        self._excess.append(verdict.excess)

    def _refusal(self) -> str:
        closest = self._tries[int(np.argmin(self._excess))]
        return (
            f"the int8 artefact does not compute what the network computes: {len(self._tries)} forms were tried on "
            f"{len(self.images)} {self.compared_on}, and none is within the tolerance. The closest has "
            f"{_named(closest)}: {closest.fault}"
        )


def _named(tried: QuantisationTry) -> str:
    layers = tried.layers_in_int8 + tried.layers_in_float32
    return f"{tried.strategy} ({tried.layers_in_float32} of {layers} layers in float32)"


def _numbers(parity: ParityResult) -> str:
    return (
        f"top-1 agreement {parity.top1_agreement:.1%}, mean difference {parity.mean_difference:.2g}, largest "
        f"{parity.most_photos_difference:.2g}"
    )
