"""Measures what `jpeg-web` costs: the same photo through it, and directly over gRPC and HTTP, in turn in one run.

All three need a running server: `jpeg-serve --web`, or `make serve`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jpeg_contract.command_line import (
    FAILED,
    OK,
    Parameter,
    PositiveInteger,
    PositiveSeconds,
    make_app,
    note,
    print_json,
    run_app,
)
from jpeg_contract.errors import ReasonedError

COMMAND = "web_cost.py"
PHOTO = Path(__file__).resolve().parents[1] / "photos" / "coffee.jpg"
CONCURRENCIES = (1, 32)
_WARM_UP = 20

app = make_app(
    COMMAND,
    "Measure what jpeg-web costs, beside direct requests to the same server over gRPC and HTTP.",
    "The ratios are medians over the rounds; within a round, the ways take turns.",
)
app.usage = f"Usage: {COMMAND} [OPTIONS]"

Send = Callable[[], Awaitable[None]]
"""Classifies the photo once."""


class WayFailed(ReasonedError):
    """A request fails, so that its time means nothing."""

    reason = "request_failed"


@dataclass(frozen=True)
class Measured:
    """One way at one concurrency in one round.

    Attributes:
        latency_ms: Median latency of a request.
        images_per_s: Throughput.
    """

    latency_ms: float
    images_per_s: float


def main() -> int:
    """Run the command and return its exit status."""
    return run_app(app, None, extra="web", statuses={ReasonedError: FAILED})


@app.default
def measure_all(
    *,
    web: str = "http://127.0.0.1:8080",
    grpc: str = "grpc://127.0.0.1:8001",
    http: str = "http://127.0.0.1:8000",
    photo: Path = PHOTO,
    rounds: PositiveInteger = 7,
    seconds: PositiveSeconds = 3.0,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Measure all ways, print a table to stdout, and return the exit status.

    Args:
        web: Address of jpeg-web.
        grpc: Address of the server for gRPC.
        http: Address of the server for HTTP.
        photo: JPEG to classify.
        rounds: Measurements of each way at each concurrency.
        seconds: Length of each, in seconds.
        as_json: Print JSON instead of text.
    """
    image = photo.read_bytes()
    found = asyncio.run(_measure({"web": web, "grpc": grpc, "http": http}, image, rounds, seconds))
    rows = [_row(concurrency, by_way) for concurrency, by_way in found.items()]
    if as_json:
        print_json({"photo_bytes": len(image), "rounds": rounds, "seconds": seconds, "results": rows})
        return OK
    print(f"{photo.name}, {len(image)} bytes, {rounds} rounds of {seconds:g} s; medians")
    for row in rows:
        print(f"concurrency {row['concurrency']}")
        for way in ("grpc", "http", "web"):
            print(f"  {way:5} {row[f'{way}_latency_ms']:8.2f} ms {row[f'{way}_images_per_s']:8.1f} images/s")
        for way in ("grpc", "http"):
            latency, rate = row[f"web_to_{way}_latency"], row[f"web_to_{way}_images_per_s"]
            print(f"  web to {way}: latency {latency:.2f}, images/s {rate:.2f}")
    return OK


async def _measure(
    addresses: dict[str, str], image: bytes, rounds: int, seconds: float
) -> dict[int, dict[str, list[Measured]]]:
    found: dict[int, dict[str, list[Measured]]] = {each: {way: [] for way in addresses} for each in CONCURRENCIES}
    async with AsyncExitStack() as stack:
        ways: dict[str, Send] = {
            "grpc": await stack.enter_async_context(_grpc(addresses["grpc"], image)),
            "http": await stack.enter_async_context(
                _http(
                    f"{addresses['http']}/v2/models/jpeg_classifier/infer",
                    image,
                    # The body is the image, without Triton's JSON.
                    {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"},
                )
            ),
            "web": await stack.enter_async_context(
                _http(f"{addresses['web']}/classify", image, {"Content-Type": "image/jpeg"})
            ),
        }
        for send in ways.values():
            for _ in range(_WARM_UP):
                await send()
        for number in range(rounds):
            for concurrency in CONCURRENCIES:
                # Each way comes first as often as the others.
                for place in range(len(ways)):
                    way = list(ways)[(number + place) % len(ways)]
                    found[concurrency][way].append(await _load(ways[way], concurrency, seconds))
            note(COMMAND, f"round {number + 1} of {rounds}")
    return found


async def _load(send: Send, concurrency: int, seconds: float) -> Measured:
    """Keep `concurrency` requests open for some seconds."""
    latencies: list[float] = []
    begun = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() < begun + seconds:
            sent = time.perf_counter()
            await send()
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    elapsed = time.perf_counter() - begun
    return Measured(statistics.median(latencies) * 1000, len(latencies) / elapsed)


@asynccontextmanager
async def _grpc(url: str, image: bytes) -> AsyncIterator[Send]:
    from jpeg_client import AsyncClient

    async with AsyncClient(url, retry=False) as client:

        async def send() -> None:
            prediction = await client.classify(image)
            if prediction.error is not None:
                raise WayFailed(f"{url}: {prediction.error}")

        yield send


@asynccontextmanager
async def _http(url: str, image: bytes, headers: dict[str, str]) -> AsyncIterator[Send]:
    import aiohttp

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(60), headers=headers
    ) as session:

        async def send() -> None:
            try:
                async with session.post(url, data=image) as response:
                    body = await response.read()
            except aiohttp.ClientError as error:
                raise WayFailed(f"{url}: {error}: start the server with jpeg-serve --web") from error
            if response.status != 200:
                raise WayFailed(f"{url}: status {response.status}: {body[:200]!r}")

        yield send


def _row(concurrency: int, by_way: dict[str, list[Measured]]) -> dict[str, float]:
    row: dict[str, float] = {"concurrency": concurrency}
    for way, rounds in by_way.items():
        row[f"{way}_latency_ms"] = round(statistics.median(each.latency_ms for each in rounds), 2)
        row[f"{way}_images_per_s"] = round(statistics.median(each.images_per_s for each in rounds), 1)
    for way in ("grpc", "http"):
        pairs = list(zip(by_way["web"], by_way[way], strict=True))
        row[f"web_to_{way}_latency"] = round(
            statistics.median(web.latency_ms / other.latency_ms for web, other in pairs), 2
        )
        row[f"web_to_{way}_images_per_s"] = round(
            statistics.median(web.images_per_s / other.images_per_s for web, other in pairs), 2
        )
    return row


if __name__ == "__main__":
    raise SystemExit(main())
