"""The metrics of the two models, for Prometheus.

Triton's class `pb_utils.MetricFamily` is handed in, so nothing here knows Triton. The names follow
https://prometheus.io/docs/practices/naming/: base units, and `_total` for what only grows.
"""

from __future__ import annotations

import bisect
import collections
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

from jpeg_contract.image_errors import ImageError, Reason

log = logging.getLogger(__name__)

Refusal = Literal[
    "no_usable_image", "bad_k", "bad_threshold", "bad_shape", "too_long", "internal", "stopping", "busy", "late"
]
"""Why a request was refused as a whole: see `REFUSALS`."""

REFUSALS: Mapping[Refusal, str] = {
    "no_usable_image": "None of its images could be answered.",
    "bad_k": "`k` is out of range, or no integer.",
    "bad_threshold": "`threshold` is out of range, or no number.",
    "bad_shape": "It has a batch of 0.",
    "too_long": "Its images together take too long to decode.",
    "internal": "A fault of the server.",
    "stopping": "The server drains.",
    "busy": "Too many requests wait, or large images of others come first.",
    "late": "Its deadline has passed.",
}
"""What each refusal means."""

# How long measurements are gathered before they are handed on: a batch a millisecond costs no more than five a second.
GATHER_S = 0.2
# How long an unloading model waits for its last measurements.
_CLOSE_S = 2.0

_DECODE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
# Of an image on a GPU (3 ms) as well as under overload on a few cores.
_ANSWER_SECONDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10)
_SIZE_BYTES = tuple(float(1024 * 2**power) for power in range(4, 16))  # 16 KiB to 32 MiB
_BATCH_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Series(NamedTuple):
    """One time series of a model: a counter, or a histogram where there are buckets (their upper ends).

    reason: value of the label `reason`; a series without it has no such label.
    """

    name: str
    description: str
    buckets: tuple[float, ...] = ()
    reason: str = ""


DECODED = Series("jpeg_images_decoded_total", "Images that were decoded")
CLASSIFIER_WAIT_SECONDS = Series(
    "jpeg_classifier_wait_seconds_total",
    "Time that requests waited in `preprocess` until the classifier had room, before their images were decoded",
)
ANSWERED = Series("jpeg_images_answered_total", "Images that got labels")
DECODE_SECONDS = Series(
    "jpeg_decode_duration_seconds",
    "Time to decode, resize and crop one image, or to find out that it cannot be decoded",
    _DECODE_SECONDS,
)
ANSWER_SECONDS = Series(
    "jpeg_answer_duration_seconds",
    "Time from the start of an image's batch in `preprocess` until its labels are ready",
    _ANSWER_SECONDS,
)
SIZE_BYTES = Series("jpeg_image_size_bytes", "Length of one encoded image", _SIZE_BYTES)
BATCH_IMAGES = Series("jpeg_batch_images", "Images that the model was handed at once", _BATCH_IMAGES)


def rejected(reason: Reason) -> Series:
    """Images that got no labels, for one reason."""
    return Series("jpeg_images_rejected_total", "Images that got no labels", reason=reason)


def refused(refusal: Refusal) -> Series:
    """Requests that were refused as a whole, for one reason."""
    return Series("jpeg_requests_refused_total", "Requests that were refused as a whole", reason=refusal)


_AFTER_CLASSIFIER: tuple[Reason, ...] = ("not_finite",)

# Each image is rejected by one of the two models, so each reason belongs to one of them.
PREPROCESS_SERIES = (
    DECODED,
    *(rejected(reason) for reason in get_args(Reason) if reason not in _AFTER_CLASSIFIER),
    refused("no_usable_image"),
    refused("bad_shape"),
    refused("too_long"),
    refused("internal"),
    refused("stopping"),
    refused("busy"),
    refused("late"),
    CLASSIFIER_WAIT_SECONDS,
    DECODE_SECONDS,
    SIZE_BYTES,
    BATCH_IMAGES,
)
POSTPROCESS_SERIES = (
    ANSWERED,
    *(rejected(reason) for reason in _AFTER_CLASSIFIER),
    refused("no_usable_image"),
    refused("bad_k"),
    refused("bad_threshold"),
    refused("bad_shape"),
    refused("internal"),
    ANSWER_SECONDS,
    BATCH_IMAGES,
)

ROUTED_PRIMARY = Series("jpeg_routed_primary_images_total", "Images that the primary classifier answered")
ROUTED_CANDIDATE = Series("jpeg_routed_candidate_images_total", "Images that the candidate answered")
CANDIDATE_FAILED = Series("jpeg_candidate_failed_images_total", "Images that the candidate failed on")
SHADOW_SAME = Series("jpeg_shadow_same_images_total", "Images for which the candidate has the primary's best class")
SHADOW_DIFFERENT = Series("jpeg_shadow_different_images_total", "Images for which the candidate has another best class")
SHADOW_SKIPPED = Series("jpeg_shadow_skipped_images_total", "Images that were not compared, since others waited")
ROUTER_SERIES = (
    ROUTED_PRIMARY,
    ROUTED_CANDIDATE,
    CANDIDATE_FAILED,
    SHADOW_SAME,
    SHADOW_DIFFERENT,
    SHADOW_SKIPPED,
)


@dataclass
class Measurements:
    """Increments of counters, and values for histograms to observe."""

    counts: collections.defaultdict[Series, float] = field(default_factory=lambda: collections.defaultdict(float))
    observed: dict[Series, list[float]] = field(default_factory=dict)

    def count(self, series: Series, number: float = 1) -> None:
        """Add to a counter."""
        self.counts[series] += number

    def observe(self, series: Series, values: Iterable[float]) -> None:
        """Let a histogram observe values."""
        self.observed.setdefault(series, []).extend(values)

    def decoded(self, images: Sequence[bytes], errors: Sequence[ImageError | None], seconds: Sequence[float]) -> None:
        """Add a batch of `preprocess`: encoded images, the errors of those rejected, and how long each took."""
        if not images:
            return
        self.observe(BATCH_IMAGES, [len(images)])
        self.observe(SIZE_BYTES, map(len, images))
        self.observe(DECODE_SECONDS, seconds)
        for error in errors:
            self.count(DECODED if error is None else rejected(error.reason))

    def answered(
        self, failures: Sequence[bytes], errors: Sequence[bytes] | None, seconds: Sequence[float] = ()
    ) -> None:
        """Add a request of `postprocess`: messages from before it, and those it answers with.

        Args:
            failures: Of each image, empty if it came through to `postprocess`.
            errors: The same after it; None if none of the images that came through could be answered.
            seconds: How long each image took, from the start of `preprocess`; needed with `errors` only.
        """
        before = sum(map(bool, failures))
        after = len(failures) if errors is None else sum(map(bool, errors))
        self.count(ANSWERED, len(failures) - after)
        self.count(rejected("not_finite"), after - before)
        if errors is not None:
            self.observe(ANSWER_SECONDS, [each for each, error in zip(seconds, errors, strict=True) if not error])

    def add(self, other: Measurements) -> None:
        """Add others to these."""
        for series, number in other.counts.items():
            self.count(series, number)
        for series, values in other.observed.items():
            self.observe(series, values)


class Counter(Protocol):
    """The used part of what `pb_utils.MetricFamily.Metric` returns."""

    def increment(self, value: float) -> None:
        """Add to it."""


class Histogram:
    """A histogram of counters: one for each bucket, their sum and their count, under the names of Prometheus.

    Triton has histograms, too, but takes each value in a message of its own; an update of these costs some messages,
    however many values there are. `jpeg-serve` publishes them as the histograms that they are.

    Args:
        make: Makes a counter of this name and these further labels.
        series: With buckets.
    """

    def __init__(self, make: Callable[[str, Mapping[str, str]], Counter], series: Series) -> None:
        bounds = {**{f"{bound:.10g}": bound for bound in series.buckets}, "+Inf": math.inf}
        self._buckets = [(bound, make(f"{series.name}_bucket", {"le": le})) for le, bound in bounds.items()]
        self._sum, self._count = make(f"{series.name}_sum", {}), make(f"{series.name}_count", {})

    def observe(self, values: Iterable[float]) -> None:
        """Add values."""
        ordered = sorted(values)
        added = [(counter, bisect.bisect_right(ordered, bound)) for bound, counter in self._buckets]
        for counter, amount in (*added, (self._sum, sum(ordered)), (self._count, len(ordered))):
            if amount:
                counter.increment(amount)


class Metrics:
    """The series of one model instance in the server, each at zero from the start.

    family: `pb_utils.MetricFamily`. args: what Triton hands to a Python model's `initialize`; its name and version are
    labels of every series. The instances of a model, and the model after a reload, share its series: Triton keeps one
    registry for all its workers.

    Each update is a message to the server's process, 20 to 80 us (measured with Triton 2.51). So a thread of its own
    gathers and sends them, and the models never wait.

    A server that cannot count, such as one older than 24.08, serves all the same: its log says what is missing.
    """

    def __init__(self, family: Any, series: Sequence[Series], args: Mapping[str, str]) -> None:
        self._families: dict[str, Any] = {}
        self._counters: dict[Series, Counter] = {}
        self._histograms: dict[Series, Histogram] = {}
        try:
            self._register(family, series, {"model": args["model_name"], "version": args["model_version"]})
        except Exception as error:
            log.warning("%s has no metrics of its own, this Triton cannot keep them: %s", args["model_name"], error)
            return
        self._waiting: queue.SimpleQueue[Measurements | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="metrics", daemon=True)
        self._thread.start()

    def add(self, measured: Measurements) -> None:
        """Count; returns at once. The server shows it some tenths of a second later."""
        if self._counters:
            self._waiting.put(measured)

    def close(self) -> None:
        """Send what is left, and end the thread."""
        if self._counters:
            self._closing.set()
            self._waiting.put(None)
            self._thread.join(_CLOSE_S)

    def _send_all(self) -> None:
        closing = False
        while not closing:
            gathered = [self._waiting.get()]
            if None not in gathered:
                self._closing.wait(GATHER_S)
            while not self._waiting.empty():
                gathered.append(self._waiting.get())
            closing = None in gathered
            total = Measurements()
            for measured in filter(None, gathered):
                total.add(measured)
            try:
                self._send(total)
            except Exception:
                # Numbers are lost, answers are not.
                log.exception("the metrics could not be updated")

    def _send(self, measured: Measurements) -> None:
        for series, number in measured.counts.items():
            if number:
                self._counters[series].increment(number)
        for series, values in measured.observed.items():
            self._histograms[series].observe(values)

    def _register(self, family: Any, series: Iterable[Series], labels: Mapping[str, str]) -> None:
        counters: dict[Series, Counter] = {}
        for one in series:

            def make(name: str, further: Mapping[str, str], description: str = one.description) -> Counter:
                if name not in self._families:
                    # Kept: a counter whose family is collected as garbage can no longer be updated.
                    self._families[name] = family(name=name, description=description, kind=family.COUNTER)
                counter: Counter = self._families[name].Metric(labels={**labels, **further})
                return counter

            if one.buckets:
                self._histograms[one] = Histogram(make, one)
            else:
                counters[one] = make(one.name, {"reason": one.reason} if one.reason else {})
        self._counters = counters  # all, or none
