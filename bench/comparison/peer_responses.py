"""Sends single requests to a peer, and checks its responses."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jpeg_bench.errors import BenchError

from comparison.peer_process import PeerProcess
from comparison.peer_settings import Peer

_READY_TIMEOUT_S = 120.0
_TIMEOUT_S = 30.0
_POLL_S = 0.1

# Batch sizes change scores slightly.
_SCORE_TOLERANCE = 0.01


def wait_until_correct(
    peer: Peer, process: PeerProcess, address: str, expected: Sequence[tuple[bytes, dict[str, Any]]], workers: int
) -> None:
    """Wait until a peer responds, and check responses of all its workers.

    Args:
        peer: The peer.
        process: Its process.
        address: HOST:PORT.
        expected: Encoded images with their expected labels and scores.
        workers: Number of its workers.

    Raises:
        BenchError: The peer exits, does not respond in time, or a response is wrong.
    """
    deadline = time.monotonic() + _READY_TIMEOUT_S
    last: object = "no response"
    photo, _ = expected[0]
    while True:
        if process.exit_status is not None:
            raise BenchError(
                f"{peer.name} exited with status {process.exit_status}; end of its log:\n{process.log_tail()}",
                reason="peer_exited",
            )
        if time.monotonic() > deadline:
            raise BenchError(
                f"{peer.name} was not ready within {_READY_TIMEOUT_S:.0f} s, last response: {str(last)[:300]}; end of "
                f"its log:\n{process.log_tail()}",
                reason="peer_not_ready",
            )
        try:
            status, last = classify(peer, address, photo)
        except (OSError, http.client.HTTPException) as error:
            last = error
        else:
            if status == 200:
                break
        time.sleep(_POLL_S)
    # Concurrent requests reach all workers.
    pairs = [*expected] * (2 * workers)
    with ThreadPoolExecutor(4 * workers) as pool:
        responses = list(pool.map(lambda pair: classify(peer, address, pair[0]), pairs))
    for (_, right), (status, response) in zip(pairs, responses, strict=True):
        if status != 200 or isinstance(response, str) or not matches(response, right):
            raise BenchError(
                f"{peer.name} responded HTTP {status}, {response}, instead of {right}", reason="invalid_response"
            )


def matches(response: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Return whether a response has the expected first label, and the expected scores within the tolerance."""
    try:
        scores = zip(response["scores"], expected["scores"], strict=True)
        largest = max(abs(one - other) for one, other in scores)
        return bool(response["labels"][0] == expected["labels"][0] and largest < _SCORE_TOLERANCE)
    except (KeyError, TypeError, ValueError, IndexError):
        return False


def classify(peer: Peer, address: str, image: bytes) -> tuple[int, dict[str, Any] | str]:
    """Send one request.

    Args:
        peer: The peer.
        address: HOST:PORT.
        image: Encoded image.

    Returns:
        HTTP status, and labels and scores or the text of the error response.

    Raises:
        OSError: No connection.
        http.client.HTTPException: The response is not HTTP.
    """
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", peer.path, peer.encode(image), dict(peer.headers))
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return response.status, peer.decode(body) if response.status == 200 else body.decode(errors="replace")
