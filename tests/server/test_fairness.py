"""Many clients that send one request after another: none waits while those that came later are answered."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import serve
from jpeg_client import AsyncClient
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


async def apply_load(address: str) -> list[float]:
    """Return how long each request took, in seconds."""
    data, waits = photo("coffee"), list[float]()
    until = time.monotonic() + SECONDS

    async def classify_again_and_again(client: AsyncClient) -> None:
        while (begun := time.monotonic()) < until:
            (prediction,) = await client.classify([data], k=1)
            assert prediction.labels == ("espresso",)
            waits.append(time.monotonic() - begun)

    async with AsyncClient(f"grpc://{address}") as client:
        await asyncio.gather(*(classify_again_and_again(client) for _ in range(CLIENTS)))
    return waits


def test_no_client_waits_while_later_ones_are_answered(server: TritonServer) -> None:
    waits = asyncio.run(apply_load(server.grpc_address))
    assert len(waits) > 4 * CLIENTS
    assert max(waits) < 4 * statistics.median(waits)
