"""The peers: their requests, and their options as tuned and by default."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from comparison import peer_launch
from comparison.peer_launch import Launch, Location, PeerOptions

Configuration = Literal["tuned", "default"]
"""Tuned for this work as the peer's documentation advises, or the first that its documentation shows."""

CONFIGURATIONS: tuple[Configuration, ...] = ("tuned", "default")

JPEG = (("Content-Type", "image/jpeg"),)
JSON = (("Content-Type", "application/json"),)


@dataclass(frozen=True)
class Peer:
    """A peer.

    Attributes:
        name: Its name.
        package: Package whose version is reported.
        path: Path of the URL.
        launch: Returns the process to launch.
        tuned: Returns the tuned options for a number of threads.
        default: Returns the default options for a number of threads.
        headers: HTTP headers of a request.
        encode: Returns the body of a request for an encoded image.
        decode: Returns labels and scores from the body of a response.
    """

    name: str
    package: str
    path: str
    launch: Callable[[Location, PeerOptions], Launch]
    tuned: Callable[[int], PeerOptions]
    default: Callable[[int], PeerOptions]
    headers: tuple[tuple[str, str], ...] = JPEG
    encode: Callable[[bytes], bytes] = bytes
    decode: Callable[[bytes], dict[str, Any]] = json.loads

    def options(self, configuration: Configuration, threads: int) -> PeerOptions:
        """Return the options of a configuration for a number of threads."""
        return (self.tuned if configuration == "tuned" else self.default)(threads)


def _encode_v2(image: bytes) -> bytes:
    """Encode an image for MLServer, which takes no binary tensors over HTTP: it documents base64 in JSON."""
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1, 1],
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode()


def _decode_v2(body: bytes) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.loads(body)["outputs"][0]["data"][0])
    return result


def _process_per_thread(rationale: str, **options: Any) -> Callable[[int], PeerOptions]:
    """One process per thread, with one computing thread each: the fastest variant of every peer."""
    return lambda threads: PeerOptions(rationale, workers=threads, runtime_threads=1, **options)


def _constant(rationale: str, **options: Any) -> Callable[[int], PeerOptions]:
    return lambda _threads: PeerOptions(rationale, **options)


# The numbers are images/s of MobileNetV2 at concurrency 32 on the 2-core machine, measured for 4 to 5 s some seconds
# apart while other programs used the machine at times: differences below a tenth mean nothing.
_ALL = (
    Peer(
        "litserve",
        "litserve",
        "/predict",
        peer_launch.launch_script,
        _process_per_thread(
            "workers per device and batching, as its documentation advises. Tried: no batching 111, 115 (one API "
            "server 104, fast_queue 95); batches of 8 and 5 ms 111, 121, 10 ms 122, 20 ms 123, 119; of 16 and 50 ms "
            "100, 112; 3 workers and batches of 4 96, 118; one worker with 2 threads and batches of 16 90, 107",
            max_batch=8,
            batch_wait_ms=10,
        ),
        _constant("LitServer(api): one worker, no batching"),
    ),
    Peer(
        "bentoml",
        "bentoml",
        "/classify",
        peer_launch.launch_bentoml,
        _process_per_thread(
            "one worker per CPU, as its documentation advises. Tried: 2 workers 103, 118, one worker 51; its "
            "batching (batchable=True, one image per multipart request) 77 with 2 workers, 62 with one of 2 threads"
        ),
        _constant("@bentoml.service: one worker, no batching"),
    ),
    Peer(
        "ray_serve",
        "ray",
        "/classify",
        peer_launch.launch_ray,
        _process_per_thread(
            "RAY_SERVE_ENABLE_HA_PROXY and RAY_SERVE_THROUGHPUT_OPTIMIZED, which its documentation recommends for high "
            "throughput. Tried: both 128, 134, with serve.batch of 8 and 10 ms 103, one replica of 2 threads 81; "
            "HAProxy alone 113, with batches 109; neither 57, 62, with batches 65, 77",
            extra={
                "max_ongoing_requests": 100,
                "environment": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
            },
        ),
        _constant(
            "@serve.deployment: one replica, at most 5 requests in it, no batching. At concurrency 32 it reaches 8 "
            "images/s, and 47 with 100 instead of 5",
            extra={"max_ongoing_requests": 5},
        ),
    ),
    Peer(
        "mlserver",
        "mlserver",
        "/v2/models/classifier/infer",
        peer_launch.launch_mlserver,
        _process_per_thread(
            "parallel_workers. Tried: 2 workers 113, 103, 98; with batches of 4 and 5 ms 107; no workers, 2 threads "
            "and batches of 8 102"
        ),
        _constant("one parallel worker, no batching"),
        JSON,
        _encode_v2,
        _decode_v2,
    ),
    Peer(
        "torchserve",
        "torchserve",
        "/predictions/classifier",
        peer_launch.launch_torchserve,
        _process_per_thread(
            "one worker per CPU and batching. Tried: 2 workers, batches of 8 and 5 ms 112, no batching 101, 97; one "
            "worker of 2 threads with batches of 8 98",
            max_batch=8,
            batch_wait_ms=5,
        ),
        lambda threads: PeerOptions("one worker per CPU, no batching", workers=threads),
    ),
    Peer(
        "fastapi",
        "fastapi",
        "/classify",
        peer_launch.launch_script,
        _process_per_thread(
            "one process per CPU, as its documentation advises. Tried: 2 processes 120, 134, 115, with 2 threads "
            "each 91; one process with one thread of ONNX Runtime and concurrent requests 119, 128, 125"
        ),
        _constant("uvicorn server:app: one process with its thread pool"),
    ),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}
