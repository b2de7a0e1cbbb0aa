"""Concurrent requests become batches, and what nobody waits for ends: by a classifier that waits for a full batch."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from conftest import serve
from jpeg_serve import TritonServer
from scrape import sums
from support import photo, wait_for_batches
from web_command import wait_until

SIZE = 4
COFFEE = photo("coffee")
HALF_MIB = 2**19


@pytest.fixture
def waiting_server(repository, tmp_path) -> Iterator[TritonServer]:
    """A server whose classifier waits for SIZE images, for longer than any test."""
    wait_for_batches(repository / "classifier_onnx", SIZE, seconds=600)
    yield from serve(repository, tmp_path / "triton.log")


def test_concurrent_requests_are_one_batch_and_abandoned_ones_end(waiting_server, serve_app):
    def value(name: str) -> float:
        return sums(waiting_server, "model").get(name, 0.0)

    def classify_together(count: int) -> list[int]:
        with ThreadPoolExecutor(count) as threads:
            responses = threads.map(lambda _: httpx2.post(f"{url}/classify", content=COFFEE, timeout=60), range(count))
            return [response.status_code for response in responses]

    batches, images = "nv_inference_exec_count_total{classifier_onnx}", "nv_inference_count_total{classifier_onnx}"
    ensemble, failures = (
        "nv_inference_count_total{jpeg_classifier}",
        "nv_inference_request_failure_total{jpeg_classifier}",
    )
    waiting = "nv_inference_pending_request_count{classifier_onnx}"
    with serve_app(
        url=f"grpc://{waiting_server.grpc_address}", metrics_url="", max_request_mib=1, max_held_mib=1
    ) as url:
        before = {name: value(name) for name in (batches, images)}
        assert classify_together(SIZE) == [200] * SIZE
        assert value(images) - before[images] == SIZE
        assert value(batches) - before[batches] == 1

        # One request waits for too long, and one until its client leaves. Triton ends them at the next step: they
        # complete the batch, and get no labels.
        before = {name: value(name) for name in (ensemble, failures)}
        late = httpx2.post(f"{url}/classify?timeout_s=0.5", content=COFFEE)
        assert (late.status_code, late.json()["error"]["reason"]) == (504, "server_timeout")
        body = COFFEE + bytes(HALF_MIB)
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body)
            wait_until(lambda: value(waiting) == 2)
        # Its bytes are held until its request to Triton is cancelled, so that no other long body has room.
        wait_until(lambda: httpx2.post(f"{url}/classify", content=bytes(HALF_MIB)).status_code == 400)
        assert classify_together(SIZE - 2) == [200] * (SIZE - 2)
        wait_until(lambda: value(failures) > before[failures])
        assert value(ensemble) - before[ensemble] == SIZE - 2
