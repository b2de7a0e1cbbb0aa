"""How many servers a load needs: a model of one server, fitted to measurements of it.

Three properties of a server, each with the fewest parameters that describe it:

- its throughput has a limit, the peak of a closed loop;
- a quantile of the latency is `base + slope * u / (1 - u)`, where u is the part of the peak that is used: the time
  without a queue, and a queue that grows as that of one server does (Kleinrock, Queueing Systems, volume 1, M/M/1);
- it keeps `fixed + each * images per second` cores busy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jpeg_bench.errors import BenchError

MOST_USED = 0.9
"""Highest utilisation that is planned: above it, a small error of the peak is a large one of the latency."""


@dataclass(frozen=True)
class Line:
    """y = base + slope * x, with neither below 0.

    Attributes:
        base: At x = 0.
        slope: Growth.
    """

    base: float
    slope: float

    @classmethod
    def fit(cls, x: Sequence[float], y: Sequence[float]) -> Line:
        """Fit by the least sum of squared relative errors.

        Args:
            x: At least one value, none below 0.
            y: Values above 0, as many.
        """
        weights = 1 / np.asarray(y, float)
        columns = np.stack([np.ones(len(x)), np.asarray(x, float)], axis=1) * weights[:, None]
        candidates = []
        # With two parameters, the best one that is not negative is among these.
        for chosen in ([0, 1], [0], [1]):
            values = np.zeros(2)
            values[chosen] = np.linalg.lstsq(columns[:, chosen], np.ones(len(x)), rcond=None)[0]
            if (values >= 0).all():
                candidates.append((float(((columns @ values - 1) ** 2).sum()), values))
        best = min(candidates, key=lambda each: each[0])[1]
        return cls(float(best[0]), float(best[1]))

    def at(self, x: float) -> float:
        """Return y."""
        return self.base + self.slope * x


@dataclass(frozen=True)
class Capacity:
    """The model of one server.

    Attributes:
        peak_images_per_s: Its throughput in a closed loop.
        p50_ms: Of u / (1 - u), u being the utilisation.
        p99_ms: The same.
        cores: Of images per second; None if the server runs on another machine.
        request_bytes: Of one image.
        response_bytes: Of one image.
    """

    peak_images_per_s: float
    p50_ms: Line
    p99_ms: Line
    cores: Line | None
    request_bytes: float
    response_bytes: float

    @classmethod
    def fit(
        cls,
        peak_images_per_s: float,
        points: Sequence[Mapping[str, Any]],
        request_bytes: float,
        response_bytes: float,
    ) -> Capacity:
        """Fit the model to open loops.

        Args:
            peak_images_per_s: Throughput of a closed loop.
            points: Of `LoadPoint.to_json`, below the peak.
            request_bytes: Of one image.
            response_bytes: Of one image.

        Raises:
            BenchError: Fewer than two of them are below the peak.
        """
        below = [point for point in points if point["images_per_s"] < peak_images_per_s]
        if len(below) < 2:
            raise BenchError(
                "two loads below the peak are needed for a fit: lower --peak-fraction, or repeat the measurement",
                reason="too_few_points",
            )
        queue = [queue_factor(point["images_per_s"] / peak_images_per_s) for point in below]
        cores = None
        if all(point["cpu_cores"] for point in below):
            cores = Line.fit([point["images_per_s"] for point in below], [point["cpu_cores"]["all"] for point in below])
        return cls(
            peak_images_per_s,
            Line.fit(queue, [point["p50_ms"] for point in below]),
            Line.fit(queue, [point["p99_ms"] for point in below]),
            cores,
            request_bytes,
            response_bytes,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Capacity:
        """Read `to_json`."""
        lines = {name: values[name] and Line(**values[name]) for name in ("p50_ms", "p99_ms", "cores")}
        return cls(**{**values, **lines})

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as JSON values."""
        return asdict(self)

    def at(self, images_per_s: float) -> dict[str, float | None]:
        """Predict one server at a rate below its peak: latency in milliseconds, and busy cores."""
        queue = queue_factor(images_per_s / self.peak_images_per_s)
        return {
            "p50_ms": self.p50_ms.at(queue),
            "p99_ms": self.p99_ms.at(queue),
            "cores": None if self.cores is None else self.cores.at(images_per_s),
        }

    def utilisation_for(self, p99_ms: float) -> float:
        """Return the highest utilisation at which the 99th percentile stays in a limit, at most `MOST_USED`.

        Args:
            p99_ms: The limit.

        Raises:
            BenchError: An idle server takes longer.
        """
        if p99_ms <= self.p99_ms.base:
            raise BenchError(
                f"a p99 of {p99_ms:g} ms is out of reach: an idle server takes {self.p99_ms.base:.1f} ms",
                reason="latency_out_of_reach",
            )
        if self.p99_ms.slope == 0:
            return MOST_USED
        queue = (p99_ms - self.p99_ms.base) / self.p99_ms.slope
        return min(MOST_USED, queue / (1 + queue))


@dataclass(frozen=True)
class Plan:
    """What a load needs.

    Attributes:
        images_per_s: The load.
        servers: Servers like the measured one.
        utilisation: Of each.
        p50_ms: Predicted.
        p99_ms: Predicted.
        cores: Busy ones of all servers; None if unknown.
        gigabits_in: To the servers, per second.
        gigabits_out: From them, per second.
        gateways: That carry the bytes in.
    """

    images_per_s: float
    servers: int
    utilisation: float
    p50_ms: float
    p99_ms: float
    cores: float | None
    gigabits_in: float
    gigabits_out: float
    gateways: int

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def plan(
    capacity: Capacity, images_per_s: float, *, p99_ms: float | None = None, gateway_gigabits: float = 10.0
) -> Plan:
    """Plan servers for a load.

    Args:
        capacity: Of one server.
        images_per_s: The load.
        p99_ms: Limit of the 99th percentile of the latency; None plans with `MOST_USED`.
        gateway_gigabits: What one gateway carries per second.

    Raises:
        BenchError: The limit is out of reach.
    """
    used = MOST_USED if p99_ms is None else capacity.utilisation_for(p99_ms)
    servers = max(1, math.ceil(images_per_s / (used * capacity.peak_images_per_s)))
    one = capacity.at(images_per_s / servers)
    gigabits_in, gigabits_out = (
        images_per_s * size * 8 / 1e9 for size in (capacity.request_bytes, capacity.response_bytes)
    )
    assert one["p50_ms"] is not None
    assert one["p99_ms"] is not None
    return Plan(
        images_per_s=images_per_s,
        servers=servers,
        utilisation=images_per_s / servers / capacity.peak_images_per_s,
        p50_ms=one["p50_ms"],
        p99_ms=one["p99_ms"],
        cores=None if one["cores"] is None else servers * one["cores"],
        gigabits_in=gigabits_in,
        gigabits_out=gigabits_out,
        gateways=max(1, math.ceil(max(gigabits_in, gigabits_out) / gateway_gigabits)),
    )


def queue_factor(utilisation: float) -> float:
    """Return u / (1 - u). utilisation: 0 to below 1."""
    return utilisation / (1 - utilisation)
