"""From the rounds of a comparison to its ratios: each is taken within a round, so that a noisy moment hits both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

Round = Mapping[str, Any]


def spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Median, smallest and largest of the rounds that have the value; None if none has."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "median": round(median(known), 4),
        "min": round(min(known), 4),
        "max": round(max(known), 4),
        "rounds": [None if value is None else round(value, 4) for value in values],
    }


def ratio(over: float | None, under: float | None) -> float | None:
    """One number over another, None where there is nothing to divide."""
    return None if over is None or not under else over / under


def all_ratios(rounds: Sequence[Round]) -> dict[str, dict[str, Any] | None]:
    """Every ratio of a comparison. See docs/performance.md for what each of them means."""
    return {name: spread([compute(each) for each in rounds]) for name, compute in _RATIOS.items()}


def _point(round_: Round, who: str, key: str, value: str = "images_per_s") -> float | None:
    point = round_.get(who, {}).get("points", {}).get(key)
    # A run with failures is no throughput.
    if point is None or point.get("failures"):
        return None
    found: float | None = point[value]
    return found


def _of_peers(round_: Round, configuration: str, value: str) -> float | None:
    """The value of the peer that is fastest with many in flight."""
    names = [name for name in round_.get("peers", {}) if name.endswith(f" {configuration}")]
    found = [
        (speed, _point(round_["peers"], name, "many", value))
        for name in names
        if (speed := _point(round_["peers"], name, "many")) is not None
    ]
    return max(found)[1] if found else None


def _ceiling(round_: Round, value: str = "images_per_s") -> float | None:
    found: float | None = round_.get("ceiling", {}).get(value)
    return found


_RATIOS: dict[str, Callable[[Round], float | None]] = {
    "served_over_ceiling": lambda r: ratio(_point(r, "ours", "grpc many"), _ceiling(r)),
    "served_over_ceiling_http": lambda r: ratio(_point(r, "ours", "http many"), _ceiling(r)),
    "served_over_ceiling_batches": lambda r: ratio(_point(r, "ours", "grpc batches"), _ceiling(r)),
    "served_over_ceiling_batches_http": lambda r: ratio(_point(r, "ours", "http batches"), _ceiling(r)),
    "p50_over_one_process": lambda r: ratio(_point(r, "ours", "grpc one", "p50_ms"), _ceiling(r, "p50_ms")),
    "p50_over_one_process_http": lambda r: ratio(_point(r, "ours", "http one", "p50_ms"), _ceiling(r, "p50_ms")),
    "p99_over_p50": lambda r: ratio(_point(r, "ours", "grpc many", "p99_ms"), _point(r, "ours", "grpc many", "p50_ms")),
    "p99_over_p50_http": lambda r: ratio(
        _point(r, "ours", "http many", "p99_ms"), _point(r, "ours", "http many", "p50_ms")
    ),
    # Peers are asked over HTTP, so HTTP is what is compared; gRPC is what we advise.
    "over_best_peer": lambda r: ratio(_point(r, "ours", "http many"), _of_peers(r, "tuned", "images_per_s")),
    "over_best_peer_grpc": lambda r: ratio(_point(r, "ours", "grpc many"), _of_peers(r, "tuned", "images_per_s")),
    "p99_over_best_peer": lambda r: ratio(_point(r, "ours", "http many", "p99_ms"), _of_peers(r, "tuned", "p99_ms")),
    "own_choice_over_best_peer_default": lambda r: ratio(
        _point(r, "own choice", "http many"), _of_peers(r, "default", "images_per_s")
    ),
    "own_choice_over_best_peer_default_grpc": lambda r: ratio(
        _point(r, "own choice", "grpc many"), _of_peers(r, "default", "images_per_s")
    ),
}
