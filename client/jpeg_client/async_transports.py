"""Transports for the tasks of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tritonclient.grpc
import tritonclient.grpc.aio

from jpeg_client.address import Address
from jpeg_client.connections import ConnectionPool
from jpeg_client.credentials import Credentials
from jpeg_client.grpc_transport import GrpcErrors, connection_options
from jpeg_client.responses import EnsembleOutputs
from jpeg_client.top_k import TopK
from jpeg_client.transport import Transport

MAX_HTTP_CONNECTIONS = 64
"""Concurrent requests over HTTP; more wait for one of them."""


class AsyncGrpcTransport(GrpcErrors):
    """gRPC for the tasks of one event loop: an `AsyncTransport`.

    Args:
        address: Address of the server.
        credentials: For it.
    """

    def __init__(self, address: Address, credentials: Credentials) -> None:
        options = connection_options(address, credentials)
        self._closing: set[asyncio.Task[None]] = set()
        pool = ConnectionPool(
            lambda: tritonclient.grpc.aio.InferenceServerClient(**options), self._disconnect, multiplexed=True
        )
        super().__init__(tritonclient.grpc, pool, address, credentials)

    async def infer(self, model: str, images: Sequence[bytes], top_k: TopK, timeout_s: float) -> EnsembleOutputs:
        """See Transport."""
        options = self._options(images, top_k, timeout_s)
        with self._attempt(timeout_s) as connection:
            response = await connection.infer(model, **options, client_timeout=timeout_s, headers=dict(self._headers))
            return self._outputs(response, images, top_k.k)

    async def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        with self._attempt(timeout_s) as connection:
            response = await connection.get_model_config(
                model, as_json=True, client_timeout=timeout_s, headers=dict(self._headers)
            )
            return dict(response["config"])

    async def metadata(self, model: str | None, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        options = {"as_json": True, "client_timeout": timeout_s, "headers": dict(self._headers)}
        with self._attempt(timeout_s) as connection:
            if model is None:
                return dict(await connection.get_server_metadata(**options))
            return dict(await connection.get_model_metadata(model, **options))

    async def close(self) -> None:
        """See Transport."""
        self._connections.close()
        await asyncio.gather(*self._closing)

    def _disconnect(self, connection: Any) -> None:
        # gRPC closes a channel in a task, and the pool does not wait.
        task = asyncio.get_running_loop().create_task(connection.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class ThreadedTransport:
    """Any `Transport` as an `AsyncTransport`: each request runs in a thread, so that HTTP has one implementation.

    A task that is cancelled does not wait; its request ends by itself.

    Args:
        transport: Safe to share between threads.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._threads = ThreadPoolExecutor(MAX_HTTP_CONNECTIONS, thread_name_prefix="jpeg-client")

    @property
    def sends_deadline(self) -> bool:
        """See Transport."""
        return self._transport.sends_deadline

    @sends_deadline.setter
    def sends_deadline(self, value: bool) -> None:
        self._transport.sends_deadline = value

    async def infer(self, model: str, images: Sequence[bytes], top_k: TopK, timeout_s: float) -> EnsembleOutputs:
        """See Transport."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._transport.infer, model, images, top_k, timeout_s)

    async def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._transport.config, model, timeout_s)

    async def metadata(self, model: str | None, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._transport.metadata, model, timeout_s)

    async def close(self) -> None:
        """See Transport."""
        self._transport.close()
        self._threads.shutdown(wait=False)
