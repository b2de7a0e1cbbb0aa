"""The server's load, from two readings of Triton's metrics."""

from __future__ import annotations

import asyncio
import http.client
import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from urllib.parse import urlsplit

from jpeg_client.description import ModelDescription
from prometheus_client.parser import text_string_to_metric_families

from jpeg_web.fresh import Fresh
from jpeg_web.schema import Stats, StepMeans

log = logging.getLogger(__name__)

PERIOD_S = 1.0
"""Time between two readings of the metrics, however many pages look."""

# Rates over a longer time do not show the current load: after a pause, the first reading only begins a period.
_LONGEST_PERIOD_S = 10.0
_TIMEOUT_S = 2.0
_MAX_PAGE_BYTES = 16 * 2**20

_ANSWERED, _REJECTED = "jpeg_images_answered_total", "jpeg_images_rejected_total"
_REQUESTS, _DURATION_US = "nv_inference_request_success", "nv_inference_request_duration_us"
_PENDING = "nv_inference_pending_request_count"
_NAMES = frozenset({_ANSWERED, _REJECTED, _REQUESTS, _DURATION_US, _PENDING})

_NOTHING = Stats(
    images_per_s=None,
    latency_ms=None,
    steps_ms=StepMeans(preprocess=None, classify=None, postprocess=None),
    waiting=None,
    failed_per_s=None,
)


@dataclass(frozen=True)
class Reading:
    """The metrics at one moment.

    Attributes:
        at_s: When, in seconds of a monotonic clock.
        sums: Values by name and model, summed over versions, reasons and servers.
    """

    at_s: float
    sums: dict[tuple[str, str], float]

    @classmethod
    def parse(cls, text: str, at_s: float) -> Reading:
        """Parse Prometheus' text format.

        Raises:
            ValueError: The text has another format.
        """
        sums: defaultdict[tuple[str, str], float] = defaultdict(float)
        for family in text_string_to_metric_families(_only_used(text)):
            for sample in family.samples:
                # The parser makes the names of counters end in _total, Triton's do not.
                name = sample.name if sample.name in _NAMES else sample.name.removesuffix("_total")
                if name in _NAMES:
                    sums[name, sample.labels.get("model", "")] += sample.value
        return cls(at_s, dict(sums))

    def total(self, name: str) -> float | None:
        """Return a metric summed over all models, None if it is missing."""
        values = [value for (each, _), value in self.sums.items() if each == name]
        return sum(values) if values else None


class Statistics:
    """Reads the metrics on demand, at most once per `PERIOD_S`.

    Args:
        metrics_url: http://HOST:PORT/metrics; empty for none.
        model: The ensemble.
    """

    def __init__(self, metrics_url: str, model: str) -> None:
        self._url, self._model = metrics_url, model
        self._previous: Reading | None = None
        self._described: ModelDescription | None = None
        self._fresh = Fresh(self._read, PERIOD_S)
        self._reported = False

    async def get(self, described: ModelDescription | None) -> Stats:
        """Return the load since the reading before.

        Args:
            described: The ensemble, whose steps are named there; None if they are unknown.
        """
        if not self._url:
            return _NOTHING
        self._described = described
        return await self._fresh.get()

    async def close(self) -> None:
        """End the current reading."""
        await self._fresh.close()

    async def _read(self) -> Stats:
        try:
            reading = await asyncio.to_thread(_fetch, self._url)
        except (OSError, ValueError) as error:
            if not self._reported:
                self._reported = True
                log.warning("%s: the metrics cannot be read: %s", self._url, error)
            self._previous = None
            return _NOTHING
        self._reported = False
        before, self._previous = self._previous, reading
        if before is None or reading.at_s - before.at_s > _LONGEST_PERIOD_S:
            return _NOTHING.model_copy(update={"waiting": _whole(reading.total(_PENDING))})
        return load_between(before, reading, self._model, self._described)


def load_between(before: Reading, now: Reading, model: str, described: ModelDescription | None) -> Stats:
    """Return the load between two readings.

    Args:
        before: The first reading.
        now: The second reading.
        model: The ensemble.
        described: The ensemble; None if its steps are unknown.
    """
    seconds = now.at_s - before.at_s

    def rate(name: str) -> float | None:
        # A counter that shrinks belongs to a server that was replaced.
        grown = _difference(before.total(name), now.total(name))
        return None if grown is None or seconds <= 0 else grown / seconds

    def mean_ms(name: str | None) -> float | None:
        if name is None:
            return None
        key_us, key_requests = (_DURATION_US, name), (_REQUESTS, name)
        duration_us = _difference(before.sums.get(key_us), now.sums.get(key_us))
        requests = _difference(before.sums.get(key_requests), now.sums.get(key_requests))
        return None if duration_us is None or not requests else duration_us / requests / 1000

    return Stats(
        images_per_s=rate(_ANSWERED),
        latency_ms=mean_ms(model),
        steps_ms=StepMeans(
            preprocess=mean_ms(described.preprocess if described else None),
            classify=mean_ms((described.router or described.classifier) if described else None),
            postprocess=mean_ms(described.postprocess if described else None),
        ),
        waiting=_whole(now.total(_PENDING)),
        failed_per_s=rate(_REJECTED),
    )


def _difference(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None or now < before else now - before


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _only_used(text: str) -> str:
    """Keep the lines of the metrics that are read: the parser needs milliseconds for all."""
    names = tuple(_NAMES)
    lines = [line for line in text.splitlines() if line.removeprefix("# TYPE ").startswith(names)]
    return "\n".join(lines) + "\n"


def _fetch(url: str) -> Reading:
    """Read the metrics once. Raises OSError, or ValueError if the page is none of Prometheus."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/metrics")
        response = connection.getresponse()
        page = response.read(_MAX_PAGE_BYTES)
    except http.client.HTTPException as error:
        raise OSError("the response is no HTTP") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise OSError(f"the response has status {response.status}")
    return Reading.parse(page.decode(errors="replace"), time.monotonic())
