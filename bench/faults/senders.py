"""The process that sends traffic: plain clients on one event loop, and this project's client on threads."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from jpeg_client import Client, JpegClientError, ServerTimeout
from jpeg_contract.tensors import ENSEMBLE

from faults.answers import Judgement, Outcome, Verdict
from faults.samples import Sample
from faults.wire import HttpConnection, grpc_message, http_request, open_channel, send_grpc

_REPORT_S = 0.1
_RATE_CHANNELS = 8
# Kept HTTP connections of a schedule; more are opened while they are needed.
_MOST_IDLE = 8
# Time to wait after an error, so that a server that is away is not asked thousands of times a second.
_AFTER_ERROR_S = 0.05


@dataclass(frozen=True)
class Load:
    """What is sent at the same time.

    Attributes:
        grpc: Requests of one image over gRPC, each after the other.
        http: The same over HTTP, each on its own kept connection.
        grpc_batches: Requests of several images over gRPC.
        http_batches: The same over HTTP.
        batch_size: Their images.
        clients: Instances of this project's client, for each protocol.
        pause_s: Time between an answer and the next request of the same sender.
        rate: Requests per second of single images sent on a schedule, whatever the answers do, half over each protocol;
            0 for none.
        limit_s: A request without an answer for so long is lost.
        timeout_us: Triton's own time limit for a request in the queues; None for none.
    """

    grpc: int = 4
    http: int = 4
    grpc_batches: int = 1
    http_batches: int = 1
    batch_size: int = 6
    clients: int = 1
    pause_s: float = 0.02
    rate: float = 0.0
    limit_s: float = 20.0
    timeout_us: int | None = None


@dataclass(frozen=True)
class Target:
    """Where to send.

    Attributes:
        grpc: HOST:PORT.
        http: HOST:PORT.
        model: Name of the ensemble.
    """

    grpc: str
    http: str
    model: str = ENSEMBLE


def run_senders(target: Target, samples: Sequence[Sample], load: Load, control: Connection) -> None:
    """Send until the other end of `control` says so, and report outcomes through it: lists, then None.

    Args:
        target: Where to send.
        samples: Sent in a random order that is the same each time.
        load: What to send.
        control: Sends lists of outcomes; receives anything once sending has to stop.
    """
    _Senders(target, samples, load, control).run()


class GrpcSender:
    """A gRPC channel with one connection of its own.

    Args:
        target: Where to send.
    """

    protocol = "grpc"

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel = open_channel(target.grpc)

    def serialise(self, samples: Sequence[Sample], timeout_us: int | None) -> bytes:
        """Serialise a request; see `Load.timeout_us`."""
        return grpc_message(samples, model=self._target.model, timeout_us=timeout_us)

    async def send(self, message: bytes, samples: Sequence[Sample]) -> Judgement:
        """Send a serialised request of these samples, and judge its answer."""
        return await send_grpc(self._channel, message, samples)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


class HttpSender:
    """A kept HTTP connection; one request at a time.

    Args:
        target: Where to send.
    """

    protocol = "http"

    def __init__(self, target: Target) -> None:
        self._target = target
        self._connection = HttpConnection(target.http)

    def serialise(self, samples: Sequence[Sample], timeout_us: int | None) -> bytes:
        """Serialise a request; see `Load.timeout_us`."""
        return http_request(self._target.http, samples, model=self._target.model, timeout_us=timeout_us)

    async def send(self, message: bytes, samples: Sequence[Sample]) -> Judgement:
        """Send a serialised request of these samples, and judge its answer."""
        return await self._connection.send(message, samples)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


Sender = GrpcSender | HttpSender
"""One connection of a plain client, which repeats nothing."""


class _Senders:
    def __init__(self, target: Target, samples: Sequence[Sample], load: Load, control: Connection) -> None:
        self._target, self._samples, self._load, self._control = target, samples, load, control
        self._outcomes: list[Outcome] = []
        self._stopping = threading.Event()
        self._singles: dict[tuple[str, int], bytes] = {}

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._send_with_client, args=(scheme, index), name=f"{scheme}-{index}")
            for scheme in ("grpc", "http")
            for index in range(self._load.clients)
        ]
        for thread in threads:
            thread.start()
        try:
            asyncio.run(self._run_plain())
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        self._report()
        self._control.send(None)

    def _report(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        if outcomes:
            self._control.send(outcomes)

    async def _run_plain(self) -> None:
        load, target = self._load, self._target
        senders: list[Sender] = []
        work: list[Awaitable[None]] = [self._watch()]
        for kind, singles, batches in (
            (GrpcSender, load.grpc, load.grpc_batches),
            (HttpSender, load.http, load.http_batches),
        ):
            for index in range(singles + batches):
                images = 1 if index < singles else load.batch_size
                senders.append(kind(target))
                work.append(self._repeat(senders[-1], images, f"{kind.protocol} {index}"))
        if load.rate:
            channels = [GrpcSender(target) for _ in range(_RATE_CHANNELS)]
            senders += channels
            work.append(self._send_at_rate(channels))
        try:
            await asyncio.gather(*work)
        finally:
            for sender in senders:
                await sender.close()

    async def _watch(self) -> None:
        """Report outcomes, and notice the order to stop."""
        while not self._stopping.is_set():
            await asyncio.sleep(_REPORT_S)
            self._report()
            if self._control.poll():
                self._stopping.set()

    async def _repeat(self, sender: Sender, images: int, seed: str) -> None:
        """Send one request after the other."""
        order = random.Random(seed)  # noqa: S311  # the same each time
        while not self._stopping.is_set():
            verdict = await self._observe(sender, order.sample(range(len(self._samples)), images))
            await asyncio.sleep(self._load.pause_s if verdict is Verdict.RIGHT else _AFTER_ERROR_S)

    async def _send_at_rate(self, channels: Sequence[GrpcSender]) -> None:
        """Send requests on a schedule: a late answer delays no other request."""
        order = random.Random("rate")  # noqa: S311  # the same each time
        idle: list[HttpSender] = []
        tasks: set[asyncio.Future[Verdict | None]] = set()

        async def send_over_http(chosen: list[int]) -> None:
            sender = idle.pop() if idle else HttpSender(self._target)
            await self._observe(sender, chosen)
            if len(idle) < _MOST_IDLE:
                idle.append(sender)
            else:
                await sender.close()

        begin, count = time.monotonic(), 0
        while not self._stopping.is_set():
            due = int((time.monotonic() - begin) * self._load.rate)
            for number in range(count, due):
                chosen = [order.randrange(len(self._samples))]
                send = (
                    self._observe(channels[number // 2 % len(channels)], chosen)
                    if number % 2
                    else send_over_http(chosen)
                )
                task = asyncio.ensure_future(send)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            count = due
            await asyncio.sleep(max(0.002, begin + (count + 1) / self._load.rate - time.monotonic()))
        await asyncio.gather(*tasks)
        for sender in idle:
            await sender.close()

    async def _observe(self, sender: Sender, chosen: Sequence[int]) -> Verdict:
        """Send a request of these samples, and keep what it came to."""
        samples = [self._samples[index] for index in chosen]
        message = self._message(sender, chosen, samples)
        sent = time.monotonic()
        try:
            judgement = await asyncio.wait_for(sender.send(message, samples), self._load.limit_s)
        except asyncio.TimeoutError:
            judgement = (Verdict.LOST, "", "no_answer", "")
        self._outcomes.append(Outcome(sender.protocol, len(samples), sent, time.monotonic(), *judgement))
        return judgement[0]

    def _message(self, sender: Sender, chosen: Sequence[int], samples: Sequence[Sample]) -> bytes:
        """Serialise a request; those of one image are kept."""
        if len(chosen) > 1:
            return sender.serialise(samples, self._load.timeout_us)
        key = sender.protocol, chosen[0]
        if key not in self._singles:
            self._singles[key] = sender.serialise(samples, self._load.timeout_us)
        return self._singles[key]

    def _send_with_client(self, scheme: str, index: int) -> None:
        """Send with this project's client until it has to stop."""
        order = random.Random(f"client {scheme} {index}")  # noqa: S311  # the same each time
        address = self._target.grpc if scheme == "grpc" else self._target.http
        with Client(f"{scheme}://{address}", timeout_s=self._load.limit_s, model=self._target.model) as client:
            while not self._stopping.is_set():
                samples = order.sample(self._samples, order.choice((1, 1, 2, 5)))
                sent = time.monotonic()
                judgement = _classify(client, samples)
                self._outcomes.append(Outcome(f"client-{scheme}", len(samples), sent, time.monotonic(), *judgement))
                self._stopping.wait(self._load.pause_s if judgement[0] is Verdict.RIGHT else _AFTER_ERROR_S)


def _classify(client: Client, samples: Sequence[Sample]) -> Judgement:
    """Classify with this project's client, and judge its predictions."""
    try:
        predictions = client.classify([sample.data for sample in samples])
    except ServerTimeout as error:
        return Verdict.LOST, type(error).__name__, error.reason, ""
    except JpegClientError as error:
        return Verdict.REFUSED, type(error).__name__, error.reason or "", ""
    for sample, prediction in zip(samples, predictions, strict=True):
        cause = prediction.error or ""
        right = cause.startswith(sample.error) if sample.error else prediction.labels[:1] == (sample.label,)
        if not right:
            return Verdict.LIE, "", "mixed_up", f"{sample.name}: labels {prediction.labels[:2]}, error {cause!r}"
    return Verdict.RIGHT, "", "", ""
