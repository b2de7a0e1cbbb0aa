"""A stream of images through threads: N requests at a time, bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from jpeg_client.images import Image
from jpeg_client.prediction import Classified, Prediction
from jpeg_client.shrink import Shrinker
from jpeg_client.streams import Results, read_parts, taken_images

_Item = tuple[int, Any]
_Answered = tuple[list[_Item], list[Prediction]]


class ThreadStream:
    """Classify the images of an iterable.

    One thread takes images from the iterable, others read and send them. A request holds the images that are there when
    it begins, at most `batch_size`: a slow source gets its answers at once, a quick one gets large requests.

    Args:
        classify: Sends the encoded images of one request, and returns their predictions.
        images: See `Client.classify_stream`.
        results: Puts them in order.
        concurrency: Requests at a time.
        batch_size: Images per request.
        shrinker: Returns what makes photos smaller, before each request.
    """

    def __init__(
        self,
        classify: Callable[[Sequence[bytes | Prediction]], list[Prediction]],
        images: Iterable[Image],
        results: Results,
        concurrency: int,
        batch_size: int,
        *,
        shrinker: Callable[[], Shrinker | None],
    ) -> None:
        self._classify, self._images, self._results = classify, images, results
        self._concurrency, self._batch_size, self._shrinker = concurrency, batch_size, shrinker
        self._free = threading.Semaphore(taken_images(concurrency, batch_size))
        self._source: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()  # None is the end
        self._answered: queue.SimpleQueue[_Answered | BaseException | None] = (
            queue.SimpleQueue()
        )  # None is a thread's end
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Classified]:
        threads = [threading.Thread(target=self._take, name="jpeg-client-source", daemon=True)]
        threads += [
            threading.Thread(target=self._send, name=f"jpeg-client-{number}", daemon=True)
            for number in range(self._concurrency)
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._yield_all(len(threads))
        finally:
            self._stop()

    def _yield_all(self, running: int) -> Iterator[Classified]:
        """Yield the results until all threads have ended, then raise the first error."""
        first: BaseException | None = None
        while running:
            outcome = self._answered.get()
            if outcome is None:
                running -= 1
            elif isinstance(outcome, BaseException):
                first = first or outcome
                self._stop()
            else:
                for classified in self._results.add(*outcome):
                    yield classified
                    self._free.release()
        yield from self._results.rest()
        if first is not None:
            raise first

    def _stop(self) -> None:
        self._stopped.set()
        self._free.release()  # the thread that waits to take an image
        self._source.put(None)  # those that wait for one

    def _take(self) -> None:
        try:
            for item in enumerate(self._images):
                self._free.acquire()
                if self._stopped.is_set():
                    break
                self._source.put(item)
        except BaseException as error:  # whatever the iterable raises belongs to the thread that wants its images
            self._answered.put(error)
        self._source.put(None)
        self._answered.put(None)

    def _send(self) -> None:
        try:
            while items := self._next_items():
                for part, encoded in read_parts(items, self._shrinker()):
                    self._answered.put((part, self._classify(encoded)))
        except BaseException as error:
            self._answered.put(error)
        self._answered.put(None)

    def _next_items(self) -> list[_Item]:
        """Wait for an image, and take those that are there; none at the end."""
        items: list[_Item] = []
        while len(items) < self._batch_size and not self._stopped.is_set():
            try:
                item = self._source.get(block=not items)
            except queue.Empty:
                break
            if item is None:
                self._source.put(None)  # for the other threads
                break
            items.append(item)
        return items
