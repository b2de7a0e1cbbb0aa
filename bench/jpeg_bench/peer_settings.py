"""The peers: how each is asked, and set up, tuned and as its documentation has it by default."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jpeg_bench import peer_starts
from jpeg_bench.peer_starts import Choice, Place, Start

Configuration = Literal["tuned", "default"]
CONFIGURATIONS: tuple[Configuration, ...] = ("tuned", "default")

JPEG = (("Content-Type", "image/jpeg"),)
JSON = (("Content-Type", "application/json"),)


@dataclass(frozen=True)
class Peer:
    """A peer.

    package: whose version counts. path: of the URL. tuned, default: for a number of threads. headers, body: of the
    request for a JPEG. answer: labels and scores, from the body of an answer.
    """

    name: str
    package: str
    path: str
    start: Callable[[Place, Choice], Start]
    tuned: Callable[[int], Choice]
    default: Callable[[int], Choice]
    headers: tuple[tuple[str, str], ...] = JPEG
    body: Callable[[bytes], bytes] = bytes
    answer: Callable[[bytes], dict[str, Any]] = json.loads


def _v2(image: bytes) -> bytes:
    """MLServer takes no binary tensors over HTTP: base64 in JSON is what its documentation has for bytes."""
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1, 1],
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode()


def _v2_answer(body: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(json.loads(body)["outputs"][0]["data"][0])
    return answer


def _per_thread(why: str, **more: Any) -> Callable[[int], Choice]:
    """A process for each thread, and in each one thread that computes: the fastest for every peer, where tried."""
    return lambda threads: Choice(why, workers=threads, runtime_threads=1, **more)


def _plain(why: str, **more: Any) -> Callable[[int], Choice]:
    return lambda _threads: Choice(why, **more)


# The numbers are images/s of MobileNetV2 with 32 in flight on the 2-core machine, 4 to 5 s each and some seconds apart,
# while others used the machine now and then: differences below a tenth say nothing.
_ALL = (
    Peer(
        "litserve",
        "litserve",
        "/predict",
        peer_starts.script,
        _per_thread(
            "workers for each device and batching, as its documentation advises. Tried: no batching 111, 115 (one API "
            "server 104, fast_queue 95); batches of 8 and 5 ms 111, 121, 10 ms 122, 20 ms 123, 119; of 16 and 50 ms "
            "100, 112; 3 workers and batches of 4 96, 118; one worker with 2 threads and batches of 16 90, 107",
            max_batch=8,
            batch_wait_ms=10,
        ),
        _plain("LitServer(api): one worker, no batching"),
    ),
    Peer(
        "bentoml",
        "bentoml",
        "/classify",
        peer_starts.bentoml,
        _per_thread(
            "one worker for each CPU, as its documentation advises. Tried: 2 workers 103, 118, one worker 51; its "
            "batching (batchable=True, one image in a form of a request) 77 with 2 workers, 62 with one of 2 threads"
        ),
        _plain("@bentoml.service: one worker, no batching"),
    ),
    Peer(
        "ray_serve",
        "ray",
        "/classify",
        peer_starts.ray,
        _per_thread(
            "RAY_SERVE_ENABLE_HA_PROXY and RAY_SERVE_THROUGHPUT_OPTIMIZED, which its documentation has for high "
            "throughput. Tried: with both 128, 134, serve.batch of 8 and 10 ms 103, one replica of 2 threads 81; "
            "HAProxy alone 113, with batches 109; neither 57, 62, with batches 65, 77",
            extra={
                "max_ongoing_requests": 100,
                "environment": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
            },
        ),
        _plain(
            "@serve.deployment: one replica, at most 5 requests in it, no batching. With more under way little "
            "is answered: 8 with 32 in flight, where 47 are with 100 instead of 5",
            extra={"max_ongoing_requests": 5},
        ),
    ),
    Peer(
        "mlserver",
        "mlserver",
        "/v2/models/classifier/infer",
        peer_starts.mlserver,
        _per_thread(
            "parallel_workers. Tried: 2 workers 113, 103, 98; with batches of 4 and 5 ms 107; no workers, 2 threads "
            "and batches of 8 102"
        ),
        _plain("one parallel worker, no batching"),
        JSON,
        _v2,
        _v2_answer,
    ),
    Peer(
        "torchserve",
        "torchserve",
        "/predictions/classifier",
        peer_starts.torchserve,
        _per_thread(
            "a worker for each CPU and batching. Tried: 2 workers, batches of 8 and 5 ms 112, no batching 101, 97; one "
            "worker of 2 threads with batches of 8 98",
            max_batch=8,
            batch_wait_ms=5,
        ),
        lambda threads: Choice("a worker for each CPU, no batching", workers=threads),
    ),
    Peer(
        "fastapi",
        "fastapi",
        "/classify",
        peer_starts.script,
        _per_thread(
            "a process for each CPU, as its documentation advises. Tried: 2 processes 120, 134, 115, with 2 threads "
            "each 91; one process with one thread of ONNX Runtime, which serves several requests at once, 119, 128, 125"
        ),
        _plain("uvicorn server:app: one process, its pool of threads"),
    ),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
