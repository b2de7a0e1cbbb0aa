"""Ratios of a comparison. Each is computed within a round, so that noise of the machine affects both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Round = Mapping[str, Any]


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Return median, minimum and maximum of the rounds.

    Args:
        values: One per round; None where a round has no value.

    Returns:
        None if no round has a value.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "median": round(median(known), 4),
        "min": round(min(known), 4),
        "max": round(max(known), 4),
        "rounds": [None if value is None else round(value, 4) for value in values],
    }


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Divide; None if a value is missing or the denominator is 0."""
    return None if numerator is None or not denominator else numerator / denominator


def all_ratios(rounds: Sequence[Round]) -> dict[str, dict[str, Any] | None]:
    """Return the spread of every ratio by name. docs/performance.md describes them."""
    return {name: spread([compute(each) for each in rounds]) for name, compute in _RATIOS.items()}


def _value(trials: Mapping[str, Any], system: str, load: str, name: str = "images_per_s") -> float | None:
    """Return a value of a system under a load; None if the system or the load is missing or has failures."""
    point = trials.get(system, {}).get("points", {}).get(load)
    if point is None or point.get("failures"):
        return None
    value: float | None = point[name]
    return value


def _of_best_peer(trials: Round, configuration: str, name: str = "images_per_s") -> float | None:
    """Return a value of the peer with the highest throughput under concurrent requests."""
    peers = trials.get("peers", {})
    found = [
        (throughput, _value(peers, peer, "concurrent", name))
        for peer in peers
        if peer.endswith(f" {configuration}") and (throughput := _value(peers, peer, "concurrent")) is not None
    ]
    return max(found)[1] if found else None


def _ceiling(trials: Round, name: str = "images_per_s") -> float | None:
    value: float | None = trials.get("ceiling", {}).get(name)
    return value


_RATIOS: dict[str, Callable[[Round], float | None]] = {
    "served_over_ceiling": lambda r: ratio(_value(r, "ours", "grpc concurrent"), _ceiling(r)),
    "served_over_ceiling_http": lambda r: ratio(_value(r, "ours", "http concurrent"), _ceiling(r)),
    "served_over_ceiling_batches": lambda r: ratio(_value(r, "ours", "grpc batched"), _ceiling(r)),
    "served_over_ceiling_batches_http": lambda r: ratio(_value(r, "ours", "http batched"), _ceiling(r)),
    "p50_over_one_process": lambda r: ratio(_value(r, "ours", "grpc single", "p50_ms"), _ceiling(r, "p50_ms")),
    "p50_over_one_process_http": lambda r: ratio(_value(r, "ours", "http single", "p50_ms"), _ceiling(r, "p50_ms")),
    "p99_over_p50": lambda r: ratio(
        _value(r, "ours", "grpc concurrent", "p99_ms"), _value(r, "ours", "grpc concurrent", "p50_ms")
    ),
    "p99_over_p50_http": lambda r: ratio(
        _value(r, "ours", "http concurrent", "p99_ms"), _value(r, "ours", "http concurrent", "p50_ms")
    ),
    # The peers serve HTTP only, so HTTP is the like-for-like comparison; gRPC is this project's recommendation.
    "over_best_peer": lambda r: ratio(_value(r, "ours", "http concurrent"), _of_best_peer(r, "tuned")),
    "over_best_peer_grpc": lambda r: ratio(_value(r, "ours", "grpc concurrent"), _of_best_peer(r, "tuned")),
    "p99_over_best_peer": lambda r: ratio(
        _value(r, "ours", "http concurrent", "p99_ms"), _of_best_peer(r, "tuned", "p99_ms")
    ),
    "own_choice_over_best_peer_default": lambda r: ratio(
        _value(r, "own choice", "http concurrent"), _of_best_peer(r, "default")
    ),
    "own_choice_over_best_peer_default_grpc": lambda r: ratio(
        _value(r, "own choice", "grpc concurrent"), _of_best_peer(r, "default")
    ),
}
