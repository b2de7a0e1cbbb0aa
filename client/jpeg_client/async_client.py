"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, overload

from jpeg_client.address import Address
from jpeg_client.client import open_transport
from jpeg_client.credentials import Credentials
from jpeg_client.defaults import DEFAULT_BATCH_SIZE, DEFAULT_CONCURRENCY
from jpeg_client.description import (
    ModelDescription,
    answering_name,
    classifier_name,
    describe,
    max_batch_size,
    postprocess_name,
    preprocess_name,
)
from jpeg_client.gates import AsyncGate
from jpeg_client.images import Image, is_image, read_images
from jpeg_client.prediction import Classified, Prediction
from jpeg_client.requests import Request, classification, needs_batch_limit, send_plan_async
from jpeg_client.responses import EnsembleOutputs
from jpeg_client.retries import MAX_LOST, call_with_retries_async
from jpeg_client.settings import ClientSettings
from jpeg_client.shrink import Shrinker
from jpeg_client.streams import Order, Results, checked_number
from jpeg_client.task_stream import TaskStream
from jpeg_client.top_k import TopK
from jpeg_client.transport import AsyncTransport

_Response = TypeVar("_Response")
_Image = TypeVar("_Image", bound=Image)


class AsyncClient(ClientSettings):
    """`Client` for asyncio: the same arguments, methods, retries and errors, with `await` and `async with`.

    The tasks of one event loop can share a client: over gRPC they share one connection, over HTTP each concurrent
    request has its own, 64 at most. A cancelled task does not wait for its response.
    """

    def _open(self, address: Address, credentials: Credentials) -> None:
        self._transport = _open_transport(address, credentials)
        self._transport.sends_deadline = self._sends_deadline

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, those with open requests after the responses. A stopping server waits for them."""
        await self._transport.close()

    @overload
    async def classify(
        self,
        images: Image,
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> Prediction: ...

    @overload
    async def classify(
        self,
        images: list[Image] | tuple[Image, ...],
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> list[Prediction]: ...

    @overload
    async def classify(
        self,
        images: list[_Image],
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> list[Prediction]: ...

    async def classify(
        self,
        images: Image | list[_Image] | list[Image] | tuple[Image, ...],
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Classify one image, or several: see `Client.classify`."""
        top_k = TopK(k, threshold)
        limit_s = self._timeout(timeout_s)
        name = model or self.model
        # In a thread: it reads files.
        encoded = await asyncio.to_thread(read_images, images, await self.shrinker(timeout_s=limit_s, model=name))
        predictions = await self._send(encoded, top_k, limit_s, name)
        return predictions[0] if is_image(images) else predictions

    def classify_stream(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
        k: int | None = None,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch_size: int = DEFAULT_BATCH_SIZE,
        order: Order = "input",
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> AsyncIterator[Classified]:
        """Classify images as they come: see `Client.classify_stream`.

        Args:
            images: Also an asynchronous iterable. A plain one is advanced in a thread.
            k: See `Client.classify`.
            concurrency: See `Client.classify_stream`, as the others.
            batch_size: Images per request.
            order: "input" or "completion".
            threshold: See `Client.classify`.
            timeout_s: See `Client.classify`.
            model: See `Client.classify`.
        """
        top_k = TopK(k, threshold)
        limit_s, name = self._timeout(timeout_s), model or self.model
        concurrency = checked_number("concurrency", concurrency)
        batch_size = checked_number("batch_size", batch_size)
        results, gate = Results(order, max_failures=2 * concurrency), AsyncGate()

        async def classify(encoded: Sequence[bytes | Prediction]) -> list[Prediction]:
            return await self._send(encoded, top_k, limit_s, name, gate=gate)

        shrinker = partial(self.shrinker, timeout_s=limit_s, model=name)
        return aiter(TaskStream(classify, images, results, concurrency, batch_size, shrinker=shrinker))

    async def describe(self, *, timeout_s: float | None = None, model: str | None = None) -> ModelDescription:
        """Describe an ensemble and its classifier. Raises the errors of `Client.classify`."""
        limit_s, name = self._timeout(timeout_s), model or self.model
        ensemble = await self._config(name, limit_s)
        step = await self._config(classifier_name(ensemble), limit_s)
        return describe(
            ensemble,
            preprocess=await self._config(preprocess_name(ensemble), limit_s),
            step=step,
            classifier=await self._config(answering_name(step), limit_s),
            postprocess=await self._config(postprocess_name(ensemble), limit_s),
            metadata=await self._call(lambda left_s: self._transport.metadata(name, left_s), limit_s),
        )

    async def server_version(self, *, timeout_s: float | None = None) -> str:
        """Return the version of Triton. Raises the errors of `Client.classify`."""
        metadata = await self._call(lambda left_s: self._transport.metadata(None, left_s), self._timeout(timeout_s))
        return str(metadata["version"])

    async def shrinker(self, *, timeout_s: float | None = None, model: str | None = None) -> Shrinker | None:
        """Return what makes photos smaller for an ensemble: see `Client.shrinker`."""
        if not self.shrink:
            return None
        limit_s = self._timeout(timeout_s)
        return await send_plan_async(
            self._shrinkers.plan(model or self.model), lambda name: self._config(name, limit_s)
        )

    async def _send(
        self,
        encoded: Sequence[bytes | Prediction],
        top_k: TopK,
        timeout_s: float,
        model: str,
        *,
        gate: AsyncGate | None = None,
    ) -> list[Prediction]:
        async def attempt(request: Request) -> EnsembleOutputs:
            return await self._call(
                lambda left_s: self._transport.infer(model, request.images, top_k, left_s), timeout_s, request.max_lost
            )

        async def send(request: Request) -> EnsembleOutputs:
            if gate is None:
                return await attempt(request)
            async with gate.alone() if request.is_suspect else gate.together():
                return await attempt(request)

        limit = await self._batch_limit(model, timeout_s) if needs_batch_limit(encoded) else 1
        return await send_plan_async(classification(encoded, limit, is_stream=gate is not None), send)

    async def _batch_limit(self, model: str, timeout_s: float) -> int:
        """Return the images per request of a model, read once."""
        if model not in self._batch_sizes:
            self._batch_sizes[model] = max_batch_size(await self._config(model, timeout_s))
        return self._batch_sizes[model]

    async def _config(self, model: str, timeout_s: float) -> dict[str, Any]:
        return await self._call(lambda left_s: self._transport.config(model, left_s), timeout_s)

    async def _call(
        self, request: Callable[[float], Awaitable[_Response]], timeout_s: float, max_lost: int = MAX_LOST
    ) -> _Response:
        """Send a request, with the retries of `jpeg_client.retries`. request: takes a time limit in seconds."""
        if self.retry:
            return await call_with_retries_async(request, timeout_s, max_lost)
        return await request(timeout_s)


def _open_transport(address: Address, credentials: Credentials) -> AsyncTransport:
    from jpeg_client.async_transports import AsyncGrpcTransport, ThreadedTransport

    if address.scheme in ("grpc", "grpcs"):
        return AsyncGrpcTransport(address, credentials)
    return ThreadedTransport(open_transport(address, credentials))
