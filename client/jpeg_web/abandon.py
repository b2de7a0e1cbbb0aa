"""Work that ends when the client of the request leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

_Result = TypeVar("_Result")


async def unless_abandoned(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Do the work for a request whose body is read, and cancel it when its client leaves.

    Tasks of asyncio, not of anyio: gRPC ends a cancelled call with a CancelledError of its own, which anyio does not
    recognise as its cancellation.

    Args:
        request: The request.
        work: The work.

    Returns:
        Its result, or its exception.

    Raises:
        ClientDisconnect: The client left before the work was done.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_until_disconnected(request))
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        unfinished = [each for each in (task, watch) if each.cancel()]
        if unfinished:
            await asyncio.wait(unfinished)


async def _until_disconnected(request: Request) -> None:
    # After the body, the only further event is the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass
