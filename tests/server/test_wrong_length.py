"""A request whose BYTES do not fit their length, beside a valid one.

Of a length beyond the end, Triton's Python backend refuses the whole batch, before any code of this project runs. The
client knows that its own request is not the reason, and sends it again. Other wrong lengths cost their request only.
"""

from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx2
import pytest
from conftest import serve
from gateway_support import infer_request, stub, tiny_jpeg
from jpeg_client import Client, ServerUnavailable
from jpeg_serve import TritonServer
from support import edit, wait_for_batches

JPEG = tiny_jpeg()
BEYOND = struct.pack("<I", len(JPEG) + 4) + JPEG
ALONE = {
    "less than a length": JPEG[:2],
    "bytes behind the image": struct.pack("<I", len(JPEG)) + JPEG + b"more",
    "two images": (struct.pack("<I", len(JPEG)) + JPEG) * 2,
    "nothing": b"",
}
WAIT_S = 2

protocols = pytest.mark.parametrize("protocol", ["grpc", "http"])


@pytest.fixture(scope="module")
def server(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """`preprocess` waits for two requests, so that they share a batch."""
    folder = tmp_path_factory.mktemp("waiting")
    repository = folder / "model_repository"
    shutil.copytree(small_repository, repository)
    edit(repository / "preprocess" / "config.pbtxt", "count: 2", "count: 1")
    wait_for_batches(repository / "preprocess", 2, seconds=WAIT_S)
    yield from serve(repository, folder / "triton.log")


def send_wrong(server: TritonServer, protocol: str, raw: bytes) -> str:
    """Send one image with these bytes; return the error."""
    if protocol == "grpc":
        request = infer_request(JPEG)
        request.raw_input_contents[0] = raw
        with grpc.insecure_channel(server.grpc_address) as channel, pytest.raises(grpc.RpcError) as refused:
            stub(channel).ModelInfer(request)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        return str(refused.value.details())
    image = {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [image]}).encode()
    response = httpx2.post(
        f"http://{server.http_address}/v2/models/jpeg_classifier/infer",
        content=head + raw,
        headers={"Inference-Header-Content-Length": str(len(head))},
        timeout=30,
    )
    assert response.status_code == 400
    return str(response.json()["error"])


@contextmanager
def together(server: TritonServer, protocol: str, raw: bytes) -> Iterator[Future[str]]:
    """Send these bytes while the block runs, which sends a valid request; yield the error that they get."""
    barrier = threading.Barrier(2)

    def wrong() -> str:
        barrier.wait()
        return send_wrong(server, protocol, raw)

    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(wrong)
        barrier.wait()
        yield refused


def url_of(server: TritonServer, protocol: str) -> str:
    return f"{protocol}://{getattr(server, f'{protocol}_address')}"


@protocols
def test_a_length_beyond_the_end_costs_the_batch_and_the_client_sends_again(
    server: TritonServer, protocol: str
) -> None:
    with Client(url_of(server, protocol), retry=False) as client:
        expected = client.classify(JPEG)
        with together(server, protocol, BEYOND) as refused, pytest.raises(ServerUnavailable) as other:
            client.classify(JPEG)
    assert "incomplete string" in refused.result()
    assert other.value.reason == "refused_with_batch"
    with Client(url_of(server, protocol)) as client, together(server, protocol, BEYOND) as refused:
        assert client.classify(JPEG) == expected
    assert "incomplete string" in refused.result()


@protocols
@pytest.mark.parametrize("raw", ALONE.values(), ids=ALONE)
def test_other_wrong_lengths_cost_their_request_only(server: TritonServer, protocol: str, raw: bytes) -> None:
    with Client(url_of(server, protocol), retry=False) as client, together(server, protocol, raw) as refused:
        assert len(client.classify(JPEG).labels) == 3
    assert refused.result()
