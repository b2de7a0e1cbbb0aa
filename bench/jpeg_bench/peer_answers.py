"""What a peer answers, and whether that is right."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jpeg_bench.errors import BenchError
from jpeg_bench.peer_process import PeerProcess
from jpeg_bench.peer_settings import Peer

_READY_S = 120.0
_ANSWER_S = 30.0
_SCORES_DIFFER = 0.01


def wait_until_right(
    peer: Peer, process: PeerProcess, address: str, expected: Sequence[tuple[bytes, dict[str, Any]]], workers: int
) -> None:
    """Wait until a peer answers, and check that all its answers are right. Raises BenchError.

    expected: photos, and what is right for each.
    """
    limit = time.monotonic() + _READY_S
    said: object = "nothing"
    photo, right = expected[0]
    while True:
        if process.ended is not None:
            raise BenchError(f"{peer.name} ended with status {process.ended}; its log ends:\n{process.last_words()}")
        if time.monotonic() > limit:
            raise BenchError(
                f"{peer.name} did not answer a photo rightly within {_READY_S:.0f} s, it said {str(said)[:300]}; its "
                f"log ends:\n{process.last_words()}"
            )
        try:
            status, said = post(peer, address, photo)
        except (OSError, http.client.HTTPException) as error:
            said = error
        else:
            if status == 200:
                break
        time.sleep(0.1)
    # All its workers, as far as they take requests at the same time.
    with ThreadPoolExecutor(4 * workers) as pool:
        pairs = [*expected] * (2 * workers)
        answers = list(pool.map(lambda pair: post(peer, address, pair[0]), pairs))
    for (_, right), (status, answer) in zip(pairs, answers, strict=True):
        if status != 200 or isinstance(answer, str) or not same(answer, right):
            raise BenchError(f"{peer.name} answered HTTP {status}, {answer}, where {right} is right")


def same(answer: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether it has the same first label, and the scores as near as other batch sizes let them be."""
    try:
        differ = max(abs(one - other) for one, other in zip(answer["scores"], right["scores"], strict=True))
        return bool(answer["labels"][0] == right["labels"][0] and differ < _SCORES_DIFFER)
    except (KeyError, TypeError, ValueError, IndexError):
        return False


def post(peer: Peer, address: str, photo: bytes) -> tuple[int, dict[str, Any] | str]:
    """Ask once: the HTTP status, and labels and scores, or the text of a refusal. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection(address, timeout=_ANSWER_S)
    try:
        connection.request("POST", peer.path, peer.body(photo), dict(peer.headers))
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return response.status, peer.answer(body) if response.status == 200 else body.decode(errors="replace")
