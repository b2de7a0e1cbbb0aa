"""The plan of requests: what is sent how often, whatever fails."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_client.errors import RequestLost, RequestRefused, ServerTimeout, ServerUnavailable
from jpeg_client.gates import AsyncGate, Gate
from jpeg_client.prediction import Classified, Prediction
from jpeg_client.requests import Request, classification, send_plan, send_plan_async
from jpeg_client.responses import EnsembleOutputs
from jpeg_client.retries import SETTLE_S
from jpeg_client.streams import Results

numbers = st.lists(st.integers(0, 40), unique=True, max_size=40)


def outputs(images: list[bytes]) -> EnsembleOutputs:
    """Outputs whose label is the image."""
    shape = (len(images), 1)
    return EnsembleOutputs(
        np.array([[image] for image in images], dtype=object),
        np.ones(shape, np.float32),
        np.zeros(shape, np.int32),
        np.full(shape, b"", object),
    )


class Fragile:
    """A server that ends with the request that holds one of some images; it knows how often each image was sent."""

    def __init__(self, deadly: set[bytes]) -> None:
        self.deadly, self.sent, self.sizes = deadly, Counter[bytes](), list[int]()

    def __call__(self, request: Request) -> EnsembleOutputs:
        self.sizes.append(len(request.images))
        for _ in range(request.max_lost):  # as call_with_retries does
            self.sent.update(request.images)
            if not self.deadly.intersection(request.images):
                return outputs(request.images)
        raise RequestLost("gone")


@given(numbers, st.integers(1, 64), st.sets(st.integers(0, 40), max_size=4))
def test_an_image_that_ends_servers_costs_a_stream_no_other(found: list[int], limit: int, deadly: set[int]) -> None:
    images = [b"%d" % number for number in found]
    server = Fragile({b"%d" % number for number in deadly})
    predictions = send_plan(classification(images, limit, is_stream=True), server)
    for number, image, prediction in zip(found, images, predictions, strict=True):
        if number in deadly:
            assert prediction.reason == "request_lost"
        else:
            assert prediction.labels == (image.decode(),)
    assert all(count <= 2 for count in server.sent.values())
    assert max(server.sizes, default=1) <= limit


@given(numbers, st.integers(1, 8), st.sets(st.integers(0, 40)))
def test_images_that_cannot_be_read_keep_their_place(found: list[int], limit: int, unreadable: set[int]) -> None:
    images = [Prediction.failed("no", "file_missing") if number in unreadable else b"%d" % number for number in found]
    server = Fragile(set())
    predictions = send_plan(classification(images, limit), server)
    async_predictions = asyncio.run(send_plan_async(classification(images, limit), as_async(Fragile(set()))))
    assert predictions == async_predictions
    for number, prediction in zip(found, predictions, strict=True):
        assert prediction.reason == ("file_missing" if number in unreadable else None)
        assert prediction.labels == (() if number in unreadable else (str(number),))
    assert sum(server.sizes) == sum(number not in unreadable for number in found)


def as_async(server: Fragile):
    async def send(request: Request) -> EnsembleOutputs:
        return server(request)

    return send


def test_a_list_is_lost_as_a_whole() -> None:
    with pytest.raises(RequestLost):
        send_plan(classification([b"1", b"2"], 8), Fragile({b"1"}))


@pytest.mark.parametrize("reason", ["request_too_long", "request_too_large"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_that_is_too_much_is_divided(reason: str, is_stream: bool) -> None:
    sizes = []

    def send(request: Request) -> EnsembleOutputs:
        sizes.append(len(request.images))
        if len(request.images) > 2:
            raise RequestRefused("too much", "413", reason=reason)
        return outputs(request.images)

    found = send_plan(classification([b"%d" % number for number in range(8)], 64, is_stream=is_stream), send)
    assert [each.labels[0] for each in found] == [str(number) for number in range(8)]
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_a_single_image_that_is_too_large_costs_a_stream_no_other() -> None:
    def send(request: Request) -> EnsembleOutputs:
        if b"large" in request.images:
            raise RequestRefused("too much", "413", reason="request_too_large")
        return outputs(request.images)

    found = send_plan(classification([b"1", b"large", b"2"], 64, is_stream=True), send)
    assert [each.reason for each in found] == [None, "request_too_large", None]
    with pytest.raises(RequestRefused):
        send_plan(classification([b"1", b"large", b"2"], 64), send)


@pytest.mark.parametrize(("error", "ends"), [(ServerTimeout("late"), False), (ServerUnavailable("gone"), True)])
def test_what_ends_a_stream(error: Exception, ends: bool) -> None:
    def send(request: Request) -> EnsembleOutputs:
        raise error

    plan = classification([b"1", b"2"], 64, is_stream=True)
    if ends:
        with pytest.raises(ServerUnavailable):
            send_plan(plan, send)
    else:
        assert [each.reason for each in send_plan(plan, send)] == ["server_timeout"] * 2


@given(st.permutations(range(12)), st.integers(1, 5))
def test_results_come_in_order_whatever_the_order_of_the_answers(order: list[int], size: int) -> None:
    results = Results("input", 3)
    found: list[Classified] = []
    done = Prediction(("x",), (1.0,), (0,))
    for start in range(0, 12, size):
        part = order[start : start + size]
        found += results.add([(index, f"image {index}") for index in part], [done] * len(part))
    assert [(each.index, each.image) for each in found] == [(index, f"image {index}") for index in range(12)]
    assert results.rest() == []


def test_a_stream_ends_after_many_failures_in_a_row() -> None:
    results = Results("completion", 2)
    late, done = Prediction.failed("late", "server_timeout"), Prediction(("x",), (1.0,), (0,))
    missing = Prediction.failed("no", "file_missing")
    for predictions in ([late], [late, late], [late, done], [late], [missing], [late]):
        results.add([(0, "")] * len(predictions), predictions)
    with pytest.raises(ServerUnavailable) as ended:
        results.add([(0, "")], [late])
    assert ended.value.reason == "server_timeout"


def test_a_suspect_is_sent_alone() -> None:
    """Eight threads, and one image that ends the server with everything that it has open."""
    lock, numbered, opened, lost = threading.Lock(), count(), set[int](), Counter[int]()
    gate = Gate()
    deadly = b"7"

    def attempt(request: Request) -> EnsembleOutputs:
        number = next(numbered)
        with lock:
            opened.add(number)
        time.sleep(0.002)
        with lock:
            if deadly in request.images:
                lost.update(opened)
                opened.clear()
            opened.discard(number)
            if lost[number]:
                raise RequestLost("gone")
        return outputs(request.images)

    def send(request: Request) -> EnsembleOutputs:
        with gate.alone() if request.is_suspect else gate.together():
            return attempt(request)

    def classify(start: int) -> list[Prediction]:
        images = [b"%d" % number for number in range(start, start + 5)]
        return send_plan(classification(images, 5, is_stream=True), send)

    with ThreadPoolExecutor(8) as threads:
        found = [each for part in threads.map(classify, range(0, 200, 5)) for each in part]
    assert [number for number, each in enumerate(found) if each.error] == [7]


def lose() -> None:
    raise RequestLost("gone")


def test_a_suspect_waits_until_a_server_that_ended_is_gone() -> None:
    """The port of a server that ends accepts requests for moments, and loses them."""
    gate = Gate()
    with gate.alone():
        pass  # nothing was lost yet
    for pass_gate in (gate.together, gate.alone):
        with pytest.raises(RequestLost), pass_gate():
            lose()
        lost_at = time.monotonic()
        with gate.alone():
            assert time.monotonic() - lost_at > SETTLE_S - 0.1


def test_a_suspect_of_asyncio_waits_as_well() -> None:
    async def waited_s() -> float:
        gate = AsyncGate()
        with pytest.raises(RequestLost):
            async with gate.together():
                lose()
        lost_at = time.monotonic()
        async with gate.alone():
            return time.monotonic() - lost_at

    assert asyncio.run(waited_s()) > SETTLE_S - 0.1
