"""Measures a server for the model of its capacity, and compares the model with loads that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jpeg_contract.command_line import Progress

from jpeg_bench.capacity import Capacity
from jpeg_bench.load import Load, PreparedRequest
from jpeg_bench.load_point import LoadPoint, measure_load
from jpeg_bench.target_server import TargetServer


def measure_capacity(
    server: TargetServer,
    requests: Sequence[PreparedRequest],
    closed: Load,
    progress: Progress,
    *,
    fit_fractions: Sequence[float],
    check_fractions: Sequence[float],
) -> dict[str, Any]:
    """Measure the peak and open loops below it, fit the model to some of them, and compare it with the others.

    Args:
        server: The server.
        requests: Sent in rotation.
        closed: Closed loop that finds the peak.
        progress: Called before each measurement.
        fit_fractions: Rates of the loads that the model is fitted to, relative to the peak.
        check_fractions: Rates of the other loads.

    Returns:
        `capacity` has the model, `points` the loads that it was fitted to, `checks` the others: measured and predicted
        values, and the predicted ones relative to the measured ones.

    Raises:
        BenchError: The server cannot be measured, or too few loads were below the peak.
    """

    def measure(load: Load) -> LoadPoint:
        progress(f"{requests[0].protocol}, {load}")
        return measure_load(server, requests, load)

    def open_loop(fraction: float) -> LoadPoint:
        return measure(replace(closed, concurrency=0, request_rate=fraction * peak.result.requests_per_s))

    peak = measure(closed)
    points = [open_loop(fraction) for fraction in fit_fractions]
    checks = [open_loop(fraction) for fraction in check_fractions]
    images = sum(request.images for request in requests)
    answers = [response for responses in peak.samples.responses.values() for response in responses]
    capacity = Capacity.fit(
        peak.result.images_per_s,
        [point.to_json() for point in points],
        sum(len(request.body) for request in requests) / images,
        sum(map(len, answers)) / max(1, len(answers)) / requests[0].images,
    )
    return {
        "protocol": requests[0].protocol,
        "batch_size": requests[0].images,
        "peak": peak.to_json(),
        "points": [point.to_json() for point in points],
        "capacity": capacity.to_json(),
        "checks": [
            _compare(capacity, point) for point in checks if point.result.images_per_s < peak.result.images_per_s
        ],
    }


def _compare(capacity: Capacity, point: LoadPoint) -> dict[str, Any]:
    measured = {
        "p50_ms": point.result.p50_ms,
        "p99_ms": point.result.p99_ms,
        "cores": point.cpu_cores["all"] if point.cpu_cores else None,
    }
    predicted = capacity.at(point.result.images_per_s)
    return {
        "images_per_s": round(point.result.images_per_s, 1),
        "utilisation": round(point.result.images_per_s / capacity.peak_images_per_s, 3),
        "measured": measured,
        "predicted": predicted,
        "predicted_over_measured": {
            name: round(value / found, 3) for name, found in measured.items() if found and (value := predicted[name])
        },
    }
