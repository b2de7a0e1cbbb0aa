"""Many clients that send one request after another: none waits while those that came later are answered."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import serve
from jpeg_serve.server import TritonServer
from support import edit, photo

CLIENTS = 256
SECONDS = 10.0


@pytest.fixture
def server(built_repository: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """Three workers of `preprocess` wait for one classifier, most of the time."""
    repository = Path(shutil.copytree(built_repository, tmp_path / "model_repository"))
    edit(repository / "preprocess" / "config.pbtxt", "count: 2", "count: 3")
    yield from serve(repository, tmp_path / "triton.log", max_waiting=2 * CLIENTS)


async def classify_again_and_again(address: str, until: float, waits: list[float]) -> None:
    host, _, port = address.partition(":")
    data = photo("coffee")
    head = (
        f"POST /v2/models/jpeg_classifier/infer HTTP/1.1\r\nHost: {address}\r\n"
        "Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: 0\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        while time.monotonic() < until:
            begun = time.monotonic()
            writer.write(head.encode() + data)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)\r\ncontent-length: (\d+)", answer)
            assert length is not None
            body = await reader.readexactly(int(length[1]))
            assert answer.startswith("HTTP/1.1 200 "), body
            waits.append(time.monotonic() - begun)
    finally:
        writer.close()


async def apply_load(address: str) -> list[float]:
    waits: list[float] = []
    until = time.monotonic() + SECONDS
    await asyncio.gather(*(classify_again_and_again(address, until, waits) for _ in range(CLIENTS)))
    return waits


def test_no_client_waits_while_later_ones_are_answered(server: TritonServer) -> None:
    waits = asyncio.run(apply_load(server.http_address))
    assert len(waits) > 4 * CLIENTS
    assert max(waits) < 4 * statistics.median(waits)
