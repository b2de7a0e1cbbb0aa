"""Thousands of connections at once, one request on each."""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Literal

from faults.answers import Outcome, Record, Verdict
from faults.errors import FaultsError
from faults.samples import Sample
from faults.senders import GrpcSender, HttpSender, Target

_MARGIN_S = 60.0
_FILES_FOR_OTHERS = 200


def crowd(
    target: Target,
    protocol: Literal["grpc", "http"],
    samples: Sequence[Sample],
    *,
    connections: int = 2000,
    limit_s: float = 60.0,
) -> Record:
    """Open connections at the same time, send one request on each, and return what came of them.

    Args:
        target: Where to send.
        protocol: gRPC with a channel for each request, or HTTP.
        samples: Sent in rotation.
        connections: How many.
        limit_s: A request without an answer for so long is lost.
    """
    spawn = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    mine, theirs = spawn.Pipe()
    process = spawn.Process(
        target=_run,
        args=(target, protocol, list(samples), connections, limit_s),
        kwargs={"control": theirs},
        daemon=True,
    )
    process.start()
    theirs.close()
    record = Record()
    try:
        if mine.poll(limit_s + _MARGIN_S):
            record.add(mine.recv())
    except EOFError:
        pass
    finally:
        mine.close()
        process.kill()
        process.join()
        process.close()
    if not record.outcomes:
        raise FaultsError("the process with the connections ended early", reason="senders_ended")
    return record


def _run(
    target: Target, protocol: str, samples: list[Sample], connections: int, limit_s: float, *, control: Connection
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < connections + _FILES_FOR_OTHERS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + _FILES_FOR_OTHERS), hard))
    control.send(asyncio.run(_send_all(target, protocol, samples, connections, limit_s)))


async def _send_all(
    target: Target, protocol: str, samples: list[Sample], connections: int, limit_s: float
) -> list[Outcome]:
    senders = [GrpcSender(target) if protocol == "grpc" else HttpSender(target) for _ in range(connections)]

    async def send(index: int) -> Outcome:
        chosen = [samples[index % len(samples)]]
        message = senders[index].serialise(chosen, None)
        sent = time.monotonic()
        try:
            judgement = await asyncio.wait_for(senders[index].send(message, chosen), limit_s)
        except asyncio.TimeoutError:
            judgement = (Verdict.LOST, "", "no_answer", "")
        return Outcome(protocol, 1, sent, time.monotonic(), *judgement)

    outcomes = await asyncio.gather(*(send(index) for index in range(connections)))
    await asyncio.gather(*(sender.close() for sender in senders))
    return outcomes
