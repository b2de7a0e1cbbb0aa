"""Requests that were recorded, sent again."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from fuzz.serving import Death, ServerUnderTest
from fuzz.wire import Request, request_from_json

T = TypeVar("T")
# A race that ends a server within a minute is seen again in this time by most attempts.
TOGETHER_S = 25.0


def read_requests(finding: Path) -> list[Request]:
    """Read the requests of a finding's file."""
    return [request_from_json(described) for described in json.loads(finding.read_text())["requests"]]


def death_by(server: ServerUnderTest, requests: Sequence[Request], *, seconds: float = 0.0) -> Death | None:
    """Send requests together, and return what they ended; None if the server survives.

    Args:
        server: Running.
        requests: Sent concurrently, in any order.
        seconds: They are repeated for so long; 0 sends them once.
    """
    shuffled, limit = list(requests), time.monotonic() + seconds
    while True:
        server.sender.send_all(shuffled)
        last = time.monotonic() >= limit
        death = server.death(wait=last)
        if death is not None or last:
            return death
        random.shuffle(shuffled)


def reduced(
    server: ServerUnderTest,
    requests: Sequence[T],
    to_request: Callable[[T], Request],
    *,
    seconds: float,
    limit_s: float,
) -> list[T]:
    """Leave out requests without which the others still end the server, by halves, quarters and so on.

    Args:
        server: Started again after each death.
        requests: That end it together.
        to_request: What is sent of each.
        seconds: How long each attempt lasts that ends nothing.
        limit_s: No attempt begins later than this.
    """
    left, limit = list(requests), time.monotonic() + limit_s
    size = len(left) // 2
    while size >= 1 and len(left) > 1:
        for start in range(0, len(left), size):
            fewer = left[:start] + left[start + size :]
            if time.monotonic() > limit:
                return left
            if fewer and death_by(server, [to_request(each) for each in fewer], seconds=seconds) is not None:
                server.restart()
                left = fewer
                break
        else:
            size //= 2
        size = min(size, len(left) // 2)
    return left


def replay(server: ServerUnderTest, requests: Sequence[Request]) -> tuple[list[str], bool]:
    """Send requests each alone, and then all together; a server that dies is started again.

    Returns:
        A line for each, and whether the server died.
    """
    lines, died = [], False
    for number, request in enumerate(requests):
        outcome = server.sender.send(request)
        death = server.death(wait=True)
        lines.append(
            f"request {number}: {outcome.kind} {outcome.code} {outcome.text[:300]}"
            + (f"; {death.who} ended: {death.how}" if death else "")
        )
        if death:
            died = True
            server.restart()
    if len(requests) > 1:
        death = death_by(server, requests, seconds=TOGETHER_S)
        lines.append(f"together: {f'{death.who} ended: {death.how}' if death else 'survived'}")
        died |= death is not None
    return lines, died
