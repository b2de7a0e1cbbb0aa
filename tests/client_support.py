"""Both kinds of clients behind the same calls, for tests that hold for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from jpeg_client import AsyncClient, Classified, Client, Prediction

KINDS = ("sync", "async")


def classified(kind: str, url: str, images: Any, k: int | None = None, **options: Any) -> Any:
    """What `classify` returns. options: of the client."""
    if kind == "sync":
        with Client(url, **options) as client:
            return client.classify(images, k)

    async def classify() -> Any:
        async with AsyncClient(url, **options) as client:
            return await client.classify(images, k)

    return asyncio.run(classify())


def streamed(
    kind: str,
    url: str,
    images: Iterable[Any],
    *,
    timeout_s: float = 30,
    see: Callable[[Classified], None] = lambda _: None,
    client_options: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> list[Classified]:
    """What `classify_stream` yields.

    Args:
        kind: Of the client.
        url: Of the server.
        images: To classify.
        timeout_s: Of the client.
        see: Gets each result when it comes.
        client_options: Of the client.
        options: Of `classify_stream`.
    """
    results = []

    def keep(each: Classified) -> None:
        see(each)
        results.append(each)

    if kind == "sync":
        with Client(url, timeout_s=timeout_s, **client_options) as client:
            for each in client.classify_stream(images, **options):
                keep(each)
        return results

    async def collect() -> None:
        async with AsyncClient(url, timeout_s=timeout_s, **client_options) as client:
            async for each in client.classify_stream(images, **options):
                keep(each)

    asyncio.run(collect())
    return results


def top(prediction: Prediction) -> str:
    """The best label; the image must have one."""
    assert prediction.error is None, prediction.error
    return prediction.labels[0]
