"""Measures what the client's `shrink` saves, and what it costs in labels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jpeg_client import Client, Prediction
from jpeg_client.shrink import Shrinker
from jpeg_contract.command_line import Progress
from jpeg_contract.cpus import usable_cpus

from jpeg_bench.errors import BenchError
from jpeg_bench.photos import Photos

_ROUNDS = 3


@dataclass(frozen=True)
class ShrunkPhoto:
    """A photo, whole and shrunk.

    Attributes:
        name: File name.
        size: WIDTHxHEIGHT.
        whole_bytes: Length of the photo.
        shrunk_bytes: Length of what is sent with `shrink`.
        shrink_ms: Time of one core to shrink it.
        label: Best label of the whole photo.
        score: Its score.
        shrunk_label: Best label of the shrunk photo.
        shrunk_score: Its score.
        score_difference: Largest difference of a score, over all classes.
    """

    name: str
    size: str
    whole_bytes: int
    shrunk_bytes: int
    shrink_ms: float
    label: str
    score: float
    shrunk_label: str
    shrunk_score: float
    score_difference: float


def measure_shrinking(url: str, model: str, photos: Photos, uplinks: Sequence[float], progress: Progress) -> Any:
    """Classify photos whole and shrunk.

    Args:
        url: Running server, grpc://HOST:PORT or http://HOST:PORT.
        model: Name of the ensemble.
        photos: The photos.
        uplinks: Speeds of the network in Mbit/s, for which the photos per second are computed.
        progress: Called before each photo.

    Returns:
        The photos, and a summary of them.

    Raises:
        BenchError: A photo has no label.
        JpegClientError: The server does not respond.
    """
    found = []
    # The second one sends both, since what is sent was shrunk before, where its time was measured.
    with Client(url, model=model, shrink=True) as client, Client(url, model=model) as plain:
        classes, shrinker = plain.describe().classes, client.shrinker()
        assert shrinker is not None
        for name, data, size in zip(photos.names, photos.data, photos.groups, strict=True):
            progress(f"{name}, {size}")
            shrunk, shrink_ms = _shrunk(shrinker, data)
            whole, small = (_scores(plain, each, classes, name) for each in (data, shrunk))
            found.append(
                ShrunkPhoto(
                    name=name,
                    size=size,
                    whole_bytes=len(data),
                    shrunk_bytes=len(shrunk),
                    shrink_ms=round(shrink_ms, 1),
                    label=whole.labels[0],
                    score=whole.scores[0],
                    shrunk_label=small.labels[0],
                    shrunk_score=small.scores[0],
                    score_difference=_difference(whole, small),
                )
            )
    return {"photos": [asdict(each) for each in found], **summarized(found, uplinks)}


def summarized(photos: Sequence[ShrunkPhoto], uplinks: Sequence[float]) -> dict[str, Any]:
    """Summarise photos, and compute how many per second a network of some Mbit/s takes; shrinking uses all CPUs."""
    whole, shrunk = (
        sum(getattr(each, name) for each in photos) / len(photos) for name in ("whole_bytes", "shrunk_bytes")
    )
    shrink_s = sum(each.shrink_ms for each in photos) / len(photos) / 1e3
    return {
        "count": len(photos),
        "labels_changed": sum(each.label != each.shrunk_label for each in photos),
        "score_difference": {
            "mean": sum(each.score_difference for each in photos) / len(photos),
            "max": max(each.score_difference for each in photos),
        },
        "whole_bytes": round(whole),
        "shrunk_bytes": round(shrunk),
        "shrink_ms": round(1e3 * shrink_s, 1),
        "uplinks": [
            {
                "mbit_per_s": uplink,
                "whole_per_s": uplink * 1e6 / 8 / whole,
                "shrunk_per_s": min(uplink * 1e6 / 8 / shrunk, usable_cpus() / max(shrink_s, 1e-9)),
            }
            for uplink in uplinks
        ],
    }


def _shrunk(shrinker: Shrinker, data: bytes) -> tuple[bytes, float]:
    """Return what is sent, and the time that it takes in ms, the best of some rounds."""
    seconds = []
    shrunk = data
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        shrunk = shrinker.shrink(data)
        seconds.append(time.perf_counter() - begun)
    return shrunk, 1e3 * min(seconds)


def _scores(client: Client, data: bytes, classes: int, name: str) -> Prediction:
    prediction = client.classify(data, classes, threshold=0)
    if prediction.error is not None:
        raise BenchError(f"{name} has no label: {prediction.error}", reason=prediction.reason or "request_failed")
    return prediction


def _difference(one: Prediction, other: Prediction) -> float:
    scores: Mapping[int, float] = dict(zip(other.indices, other.scores, strict=True))
    return max(abs(score - scores[index]) for index, score in zip(one.indices, one.scores, strict=True))
