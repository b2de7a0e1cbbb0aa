"""Fairness: how long a client with a small photo waits while others send the most expensive images that are allowed."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from jpeg_client import Client
from jpeg_client.errors import JpegClientError
from PIL import Image

from faults.senders import Target

LIMIT_S = 2.0
"""The longest that a small request waits for the images of others."""

_SIDE, _SCANS = 7000, 60
_END_MARKER, _SCAN_MARKER = b"\xff\xd9", b"\xff\xda"
_PAUSE_S = 0.02


def measure_fairness(
    target: Target,
    photo: bytes,
    *,
    seconds: float = 20.0,
    senders: int = 64,
    images: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Send a small photo again and again, alone and beside the storm.

    Args:
        target: The server. Nobody else uses it.
        photo: The small one.
        seconds: Length of the storm.
        senders: Clients that send expensive images, each one request after the other, and do not repeat refused ones.
        images: In each of their requests.
        progress: Receives the steps.

    Returns:
        Latencies in seconds, `alone` and `beside` the storm, what became of the `storm`'s requests, and `verdict`.
    """
    progress("alone")
    alone = _latencies(target, photo, time.monotonic() + seconds / 4)
    progress(f"beside {senders} clients with expensive images")
    end = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    request = [expensive_image()] * images
    storm = [threading.Thread(target=_storm, args=(target, request, end, counts)) for _ in range(senders)]
    for sender in storm:
        sender.start()
    beside = _latencies(target, photo, end)
    for sender in storm:
        sender.join()
    found = _summary(beside)
    return {
        "image_mb": round(len(request[0]) / 1e6, 2),
        "senders": senders,
        "images": images,
        "alone": _summary(alone),
        "beside": found,
        "storm": dict(counts),
        "verdict": {"waits_at_most_the_limit": found["max_s"] < LIMIT_S},
    }


def expensive_image() -> bytes:
    """Make a progressive JPEG of 49 megapixels with 60 scans, which takes a core a second, in some 600 kB."""
    file = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE), (90, 120, 30)).save(file, "JPEG", progressive=True)
    body = file.getvalue().removesuffix(_END_MARKER)
    last = body[body.rindex(_SCAN_MARKER) :]
    return body + last * (_SCANS - body.count(_SCAN_MARKER)) + _END_MARKER


def _latencies(target: Target, photo: bytes, end: float) -> list[float]:
    """Classify a photo until `end`, as a user does: the client repeats what is refused."""
    found = []
    with Client(f"grpc://{target.grpc}", model=target.model) as client:
        while time.monotonic() < end:
            begun = time.monotonic()
            client.classify([photo], k=1)
            found.append(time.monotonic() - begun)
            time.sleep(_PAUSE_S)
    return found


def _storm(target: Target, request: list[bytes], end: float, counts: Counter[str]) -> None:
    with Client(f"grpc://{target.grpc}", model=target.model, retry=False) as client:
        while time.monotonic() < end:
            try:
                error = client.classify(request, k=1)[0].reason
                counts[error or "answered"] += 1
            except JpegClientError as failure:
                counts[failure.reason] += 1
                time.sleep(_PAUSE_S)


def _summary(latencies: list[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(latencies, (50, 90, 99))
    return {
        "requests": len(latencies),
        "p50_s": round(float(p50), 4),
        "p90_s": round(float(p90), 4),
        "p99_s": round(float(p99), 4),
        "max_s": round(max(latencies), 4),
    }
