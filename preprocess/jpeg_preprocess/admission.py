"""Which requests of a batch are decoded now, so that nobody waits long for the images of others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from jpeg_contract.errors import ReasonedError
from jpeg_contract.settings import Limits

from jpeg_preprocess.decode_cost import DecodeCost

LARGE_S = 0.25
"""A request of more estimated seconds is large. A photo of 12 megapixels takes 0.05, eight in one request take 0.4."""


class RequestTooLong(ReasonedError, ValueError):
    """Decoding the images of one request takes longer than others shall wait."""

    reason = "request_too_long"


class DecodeLater(ReasonedError):
    """Beside the other requests of its batch, a request takes too long; sent again, it has its turn."""

    reason = "queue_full"


def batch_seconds(limits: Limits, threads: int) -> float:
    """Return the seconds of work that threads do within `max_wait_ms`, whatever the order of the images.

    The last image may begin just before the others end, and takes `max_decode_ms` at most.
    """
    last = min(limits.max_decode_ms, limits.max_wait_ms)
    return (last + threads * (limits.max_wait_ms - last)) / 1000


def admit(
    requests: Sequence[Sequence[DecodeCost]], limits: Limits, threads: int, may_be_large: Callable[[], bool]
) -> list[RequestTooLong | DecodeLater | None]:
    """Choose the requests of a batch that are decoded: the cheap ones first, as long as all of them stay in the limit.

    Large ones are left to other workers if those say so: small requests then find a worker that is free of them.

    Args:
        requests: The costs of the images of each request, without those that are refused anyway.
        limits: `max_wait_ms` and `max_decode_ms`.
        threads: Number of images that are decoded at once.
        may_be_large: Called if there is a large request: whether this worker may take it.

    Returns:
        For each request None, or why it is not decoded.
    """
    most = batch_seconds(limits, threads)
    seconds = [sum(cost.seconds for cost in costs) for costs in requests]
    work = [sum(cost.work for cost in costs) for costs in requests]
    has_large = any(each > LARGE_S for each, all_threads in zip(seconds, work, strict=True) if all_threads <= most)
    takes_large = not has_large or may_be_large()
    if takes_large and sum(work) <= most:
        return [None] * len(requests)
    verdicts: list[RequestTooLong | DecodeLater | None] = [None] * len(requests)
    taken = 0.0
    for place in sorted(range(len(requests)), key=work.__getitem__):
        if work[place] > most:
            images = len(requests[place])
            verdicts[place] = RequestTooLong(
                f"decoding these {images} images takes an estimated {work[place]:.1f} s of thread time, the limit of a "
                f"request is {most:.1f} s: send fewer images in one request [{RequestTooLong.reason}]"
            )
        elif (seconds[place] > LARGE_S and not takes_large) or taken + work[place] > most:
            verdicts[place] = DecodeLater(
                f"large images of other requests are decoded first: send the request again later [{DecodeLater.reason}]"
            )
        else:
            taken += work[place]
    return verdicts


class MemoryBudget:
    """Lets as many threads decode at once as fit into an amount of memory.

    Args:
        limit_bytes: The amount.
    """

    # Below, waiting costs more than the memory is worth.
    _SMALL_BYTES = 2**20

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._taken = limit_bytes, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait until an image of this size fits; one that is larger than the limit, until it is alone."""
        if size < self._SMALL_BYTES:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._limit)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
