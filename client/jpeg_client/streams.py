"""What the streams of both kinds of clients share: the order of results, and the end after failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jpeg_client.errors import InvalidArgument, ServerUnavailable
from jpeg_client.images import read_image
from jpeg_client.prediction import Classified, Prediction
from jpeg_client.requests import MAX_REQUEST_BYTES
from jpeg_client.shrink import Shrinker

Order = Literal["input", "completion"]

# Reason codes of images that were not sent, and of requests that failed as a whole (jpeg_client.requests).
_UNREADABLE = ("file_missing", "file_unreadable", "not_a_file", "invalid_array", "invalid_image")
_FAILED_REQUEST = (
    "server_timeout",
    "request_lost",
    "worker_died",
    "invalid_response",
    "wrong_checksum",
    "too_many_requests",
)


def checked_number(name: str, value: int) -> int:
    """Return a number that must be above 0. Raises InvalidArgument."""
    if value < 1:
        raise InvalidArgument(f"{name} must be at least 1, but is {value}", reason=f"invalid_{name}")
    return value


def taken_images(concurrency: int, batch_size: int) -> int:
    """Return how many images may be taken and not yet yielded: the other requests go on while one is late."""
    return 4 * concurrency * batch_size


def read_parts(
    items: Sequence[tuple[int, Any]], shrinker: Shrinker | None = None
) -> Iterator[tuple[list[tuple[int, Any]], list[bytes | Prediction]]]:
    """Read the images of a request, in parts that fit into one, so that large images do not fill the memory.

    Args:
        items: Index and image of each.
        shrinker: See `read_image`.
    """
    part: list[tuple[int, Any]] = []
    encoded: list[bytes | Prediction] = []
    size = 0
    for item in items:
        part.append(item)
        encoded.append(image := read_image(item[1], shrinker))
        size += len(image) if isinstance(image, bytes) else 0
        if size > MAX_REQUEST_BYTES // 2:
            yield part, encoded
            part, encoded, size = [], [], 0
    if part:
        yield part, encoded


class Results:
    """Put results in the order of the input, and count failures.

    Args:
        order: "input" yields in the order of the images; "completion" as they come.
        max_failures: Requests that may fail in a row.
    """

    def __init__(self, order: Order, max_failures: int) -> None:
        if order not in ("input", "completion"):
            raise InvalidArgument(f"order must be 'input' or 'completion', but is {order!r}", reason="invalid_order")
        self._order, self._max_failures = order, max_failures
        self._waiting: dict[int, Classified] = {}
        self._next = 0
        self._failures = 0

    def add(self, items: Sequence[tuple[int, Any]], predictions: Sequence[Prediction]) -> list[Classified]:
        """Add the predictions of one request, and return those whose turn it is.

        Args:
            items: Index and image of each.
            predictions: Of them.

        Raises:
            ServerUnavailable: So many requests failed in a row that the next one will, too.
        """
        found = [
            Classified(index, image, prediction) for (index, image), prediction in zip(items, predictions, strict=True)
        ]
        self._count(predictions)
        if self._order == "completion":
            return found
        self._waiting.update((each.index, each) for each in found)
        ready = []
        while (each := self._waiting.pop(self._next, None)) is not None:
            ready.append(each)
            self._next += 1
        return ready

    def rest(self) -> list[Classified]:
        """Return the results behind one that did not come."""
        return [self._waiting[index] for index in sorted(self._waiting)]

    def _count(self, predictions: Sequence[Prediction]) -> None:
        sent = [each for each in predictions if each.reason not in _UNREADABLE]
        if not sent:
            return
        is_failure = all(each.reason in _FAILED_REQUEST for each in sent)
        self._failures = self._failures + 1 if is_failure else 0
        if self._failures > self._max_failures:
            raise ServerUnavailable(
                f"{self._failures} requests in a row failed, the last one: {sent[-1].error}", reason=sent[-1].reason
            )
