"""A stream of images through the tasks of an event loop: N requests at a time, bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

from jpeg_client.images import Image
from jpeg_client.prediction import Classified, Prediction
from jpeg_client.shrink import Shrinker
from jpeg_client.streams import Results, read_parts, taken_images

_Item = tuple[int, Any]
_Answered = tuple[list[_Item], list[Prediction]]


class TaskStream:
    """Classify the images of an iterable; see `ThreadStream`, with tasks in place of threads.

    Args:
        classify: Sends the encoded images of one request, and returns their predictions.
        images: See `AsyncClient.classify_stream`.
        results: Puts them in order.
        concurrency: Requests at a time.
        batch_size: Images per request.
        shrinker: Returns what makes photos smaller, before each request.
    """

    def __init__(
        self,
        classify: Callable[[Sequence[bytes | Prediction]], Awaitable[list[Prediction]]],
        images: Iterable[Image] | AsyncIterable[Image],
        results: Results,
        concurrency: int,
        batch_size: int,
        *,
        shrinker: Callable[[], Awaitable[Shrinker | None]],
    ) -> None:
        self._classify, self._images, self._results = classify, images, results
        self._concurrency, self._batch_size, self._shrinker = concurrency, batch_size, shrinker
        self._free = asyncio.Semaphore(taken_images(concurrency, batch_size))
        self._source: asyncio.Queue[_Item | None] = asyncio.Queue()  # None is the end
        self._answered: asyncio.Queue[_Answered | BaseException | None] = asyncio.Queue()  # None is a task's end
        self._stopped = False

    async def __aiter__(self) -> AsyncIterator[Classified]:
        tasks = [asyncio.create_task(self._take())]
        tasks += [asyncio.create_task(self._send()) for _ in range(self._concurrency)]
        first: BaseException | None = None
        running = len(tasks)
        try:
            while running:
                outcome = await self._answered.get()
                if outcome is None:
                    running -= 1
                elif isinstance(outcome, BaseException):
                    first = first or outcome
                    self._stop()
                else:
                    for classified in self._results.add(*outcome):
                        yield classified
                        self._free.release()
            for classified in self._results.rest():
                yield classified
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if first is not None:
            raise first

    def _stop(self) -> None:
        self._stopped = True
        self._free.release()
        self._source.put_nowait(None)

    async def _take(self) -> None:
        try:
            index = 0
            async for image in _async_iterator(self._images):
                await self._free.acquire()
                if self._stopped:
                    break
                self._source.put_nowait((index, image))
                index += 1
        except Exception as error:  # whatever the iterable raises belongs to the task that wants its images
            self._answered.put_nowait(error)
        self._source.put_nowait(None)
        self._answered.put_nowait(None)

    async def _send(self) -> None:
        try:
            while items := await self._next_items():
                parts = read_parts(items, await self._shrinker())
                while (part := await asyncio.to_thread(next, parts, None)) is not None:
                    self._answered.put_nowait((part[0], await self._classify(part[1])))
        except Exception as error:
            self._answered.put_nowait(error)
        self._answered.put_nowait(None)

    async def _next_items(self) -> list[_Item]:
        """Wait for an image, and take those that are there; none at the end."""
        items: list[_Item] = []
        while len(items) < self._batch_size and not self._stopped and not (items and self._source.empty()):
            item = await self._source.get()
            if item is None:
                self._source.put_nowait(None)  # for the other tasks
                break
            items.append(item)
        return items


async def _async_iterator(images: Iterable[Image] | AsyncIterable[Image]) -> AsyncIterator[Image]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
        return
    # In a thread: a generator may wait for a disk or a camera. A list around each image: None is the end.
    lists = ([image] for image in images)
    while (item := await asyncio.to_thread(next, lists, None)) is not None:
        yield item[0]
