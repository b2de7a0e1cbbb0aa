"""The requests that classify images, without their sending: the clients of both kinds send them.

A plan is a generator. It yields the next request, gets its outputs or its exception, and returns the predictions.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from jpeg_client.error_responses import split_code
from jpeg_client.errors import (
    InvalidResponse,
    JpegClientError,
    RequestLost,
    RequestRefused,
    ServerTimeout,
    TooManyRequests,
)
from jpeg_client.images import MAX_IMAGE_BYTES
from jpeg_client.prediction import Prediction, StepTimes
from jpeg_client.responses import EnsembleOutputs
from jpeg_client.retries import MAX_LOST

# Some servers stop reading an HTTP body at 64 MiB.
MAX_REQUEST_BYTES = MAX_IMAGE_BYTES

# The reason codes of requests that take too long to decode together, or have too many bytes.
_DIVISIBLE = ("request_too_long", "request_too_large")
# If all images of a request fail, the error has one such line for each (jpeg_contract.image_errors).
_IMAGE_FAILURE = re.compile(r"^image \d+: (.*)$")


@dataclass(frozen=True)
class Request:
    """A request to the ensemble.

    Attributes:
        images: Encoded images, at least one.
        max_lost: How often it may be sent in all, if it is lost.
        is_suspect: Whether it is sent alone: its image was in a request that was lost.
    """

    images: list[bytes]
    max_lost: int = MAX_LOST
    is_suspect: bool = False


Plan = Generator[Request, EnsembleOutputs, list[Prediction]]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Found = TypeVar("_Found")


def needs_batch_limit(images: Sequence[bytes | Prediction]) -> bool:
    """Whether the plan depends on the server's batch limit: one image is one request."""
    return sum(isinstance(image, bytes) for image in images) > 1


def classification(images: Sequence[bytes | Prediction], max_batch_size: int, *, is_stream: bool = False) -> Plan:
    """Plan the classification of images.

    Args:
        images: Encoded images; the prediction of one that cannot be read.
        max_batch_size: Images per request.
        is_stream: Whether a request that fails costs its own images only. A request of several images that is lost is
            then repeated image by image, each alone, so that the image that ends a server costs no other.
    """
    predictions = [image if isinstance(image, Prediction) else None for image in images]
    readable = [number for number, prediction in enumerate(predictions) if prediction is None]
    for numbers in _batches(readable, images, max_batch_size):
        batch = [image for number in numbers if isinstance(image := images[number], bytes)]
        if is_stream:
            found = yield from _isolated(Request(batch, max_lost=1))
        else:
            found = yield from _whole(Request(batch))
        for number, prediction in zip(numbers, found, strict=True):
            predictions[number] = prediction
    return [prediction for prediction in predictions if prediction is not None]


def _batches(numbers: Sequence[int], images: Sequence[bytes | Prediction], max_batch_size: int) -> Iterator[list[int]]:
    """Split images into batches within `max_batch_size` and MAX_REQUEST_BYTES."""
    batch: list[int] = []
    size = 0
    for number in numbers:
        image = images[number]
        length = len(image) if isinstance(image, bytes) else 0
        if batch and (len(batch) == max_batch_size or size + length > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += length
    if batch:
        yield batch


def _whole(request: Request) -> Plan:
    """Classify the images of one request. A failure of the request is raised."""
    images = request.images
    try:
        outputs = yield request
    except RequestRefused as error:
        if len(images) > 1 and _is_divisible(error):
            half = len(images) // 2
            first = yield from _whole(Request(images[:half], request.max_lost))
            second = yield from _whole(Request(images[half:], request.max_lost))
            return [*first, *second]
        failure = _IMAGE_FAILURE.match(str(error).split("\n", 1)[0])
        if failure is None:
            raise
        if len(images) == 1:
            reason = None if error.reason == RequestRefused.reason else error.reason
            return [Prediction.failed(failure[1], reason)]
        # All images failed, but the server lists the first causes only.
        return (yield from _one_by_one(_whole, images, request.max_lost))
    return predictions_of(outputs)


def _isolated(request: Request) -> Plan:
    """Classify the images of one request. A failure that the next request may not have is that of the images."""
    images = request.images
    try:
        return (yield from _whole(request))
    except JpegClientError as error:
        if not _is_of_the_images(error):
            raise
        if isinstance(error, RequestLost) and not request.is_suspect:
            return (yield from _one_by_one(_isolated, images, 1, is_suspect=True))
        if _is_divisible(error) and len(images) > 1:
            return (yield from _one_by_one(_isolated, images, 1))
        return [Prediction.failed(str(error), error.reason)] * len(images)


def _is_of_the_images(error: JpegClientError) -> bool:
    return isinstance(error, (RequestLost, InvalidResponse, ServerTimeout, TooManyRequests)) or _is_divisible(error)


def _is_divisible(error: JpegClientError) -> bool:
    return isinstance(error, RequestRefused) and error.reason in _DIVISIBLE


def _one_by_one(
    classify: Callable[[Request], Plan], images: Sequence[bytes], max_lost: int, *, is_suspect: bool = False
) -> Plan:
    predictions: list[Prediction] = []
    for image in images:
        predictions += yield from classify(Request([image], max_lost, is_suspect))
    return predictions


def predictions_of(outputs: EnsembleOutputs) -> list[Prediction]:
    """Return the predictions of a response, one for each image."""
    predictions = []
    for number, (error,) in enumerate(outputs.errors):
        if error:
            predictions.append(Prediction.failed(*split_code(error.decode())))
            continue
        count = int(np.count_nonzero(outputs.indices[number] >= 0))  # the threshold leaves out the rest
        times = None if outputs.times is None else StepTimes(*map(float, outputs.times[number]))
        predictions.append(
            Prediction(
                tuple(label.decode() for label in outputs.labels[number, :count]),
                tuple(outputs.scores[number, :count].tolist()),
                tuple(outputs.indices[number, :count].tolist()),
                times=times,
            )
        )
    for member, more in outputs.others.items():
        predictions = [
            replace(each, others={**each.others, member: other})
            for each, other in zip(predictions, predictions_of(more), strict=True)
        ]
    return predictions


def send_plan(plan: Generator[_Request, _Response, _Found], send: Callable[[_Request], _Response]) -> _Found:
    """Send the requests of a plan one after the other, and return what it finds, such as predictions."""
    try:
        request = next(plan)
        while True:
            try:
                outputs = send(request)
            except JpegClientError as error:
                request = plan.throw(error)
            else:
                request = plan.send(outputs)
    except StopIteration as done:
        found: _Found = done.value
        return found


async def send_plan_async(
    plan: Generator[_Request, _Response, _Found], send: Callable[[_Request], Awaitable[_Response]]
) -> _Found:
    """Send the requests of a plan one after the other, and return what it finds, such as predictions."""
    try:
        request = next(plan)
        while True:
            try:
                outputs = await send(request)
            except JpegClientError as error:
                request = plan.throw(error)
            else:
                request = plan.send(outputs)
    except StopIteration as done:
        found: _Found = done.value
        return found
