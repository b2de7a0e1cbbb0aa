"""The clients from their documentation: kinds of images, streams, descriptions; both kinds, both protocols."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from client_support import KINDS, classified, streamed, top
from jpeg_client import AsyncClient, Classified, Client, InvalidArgument, JpegClientError, RequestRefused
from jpeg_serve import TritonServer
from PIL import Image
from support import PHOTOS, photo

kinds = pytest.mark.parametrize("kind", KINDS)
COFFEE = PHOTOS / "coffee.jpg"


@kinds
def test_one_image_has_one_prediction_and_a_list_has_a_list(kind: str, url: str) -> None:
    alone = classified(kind, url, COFFEE, 3)
    assert (alone.labels[0], len(alone.labels), alone.error, alone.reason) == ("espresso", 3, None, None)
    assert classified(kind, url, [COFFEE], 3)[0].labels == alone.labels
    assert classified(kind, url, []) == []
    assert alone.times is not None
    assert min(alone.times.preprocess_ms, alone.times.classify_ms, alone.times.postprocess_ms) > 0


@kinds
def test_every_kind_of_image_has_the_same_label(kind: str, url: str) -> None:
    pixels = np.asarray(Image.open(COFFEE).convert("RGB"))
    with COFFEE.open("rb") as stream, Image.open(COFFEE) as opened:
        images = [
            COFFEE,
            str(COFFEE),
            f"file://{COFFEE}",
            photo("coffee"),
            bytearray(photo("coffee")),
            memoryview(photo("coffee")),
            stream,
            io.BytesIO(photo("coffee")),
            pixels,
            pixels[:, ::-1],  # not contiguous
            opened,
            opened.convert("L"),
        ]
        found = classified(kind, url, images)
    assert [top(each) for each in found[:-1]] == ["espresso"] * (len(images) - 1)
    assert found[-1].error is None


def test_an_image_of_pillow_is_turned_as_the_server_turns_its_file(url: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.open(COFFEE).transpose(Image.Transpose.ROTATE_90).save(stream, "JPEG", exif=exif, quality=95)
    with Client(url) as client:
        by_server, by_client = client.classify([stream.getvalue(), Image.open(stream)])
    assert top(by_server) == top(by_client)
    assert abs(by_server.scores[0] - by_client.scores[0]) < 0.05


@kinds
def test_an_image_that_cannot_be_read_is_its_own_error(kind: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(photo("coffee")[:5000])
    images = [
        tmp_path / "gone.jpg",
        COFFEE,
        tmp_path,
        "zero\0byte",
        "unknown-store://bucket/key",
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        Image.new("RGB", (70_000, 1)),
        tmp_path / "cut.jpg",
        b"",
    ]
    reasons = [each.reason for each in classified(kind, url, images)]
    assert reasons == [
        "file_missing",
        None,
        "not_a_file",
        "file_missing",
        "file_missing",
        "invalid_array",
        "invalid_array",
        "invalid_image",
        "truncated",
        "empty",
    ]
    alone = classified(kind, url, tmp_path / "gone.jpg")
    assert (alone.labels, alone.reason) == ((), "file_missing")


@kinds
def test_a_request_for_an_unknown_model_or_a_wrong_k_is_refused(kind: str, url: str) -> None:
    for refused_call, reason in (({"k": 1001}, "invalid_k"), ({"model": "nothing"}, "unknown_model")):
        with pytest.raises(RequestRefused) as refused:
            classified(kind, url, COFFEE, **refused_call)
        assert refused.value.reason == reason
    with pytest.raises(InvalidArgument):
        classified(kind, url, COFFEE, timeout_s=0)


@kinds
def test_a_model_is_described(kind: str, url: str) -> None:
    if kind == "sync":
        with Client(url) as client:
            found = client.describe()
            with pytest.raises(JpegClientError) as other:
                client.describe(model="preprocess")
    else:

        async def describe() -> Any:
            async with AsyncClient(url) as client:
                with pytest.raises(JpegClientError) as other:
                    await client.describe(model="preprocess")
                return await client.describe(), other

        found, other = asyncio.run(describe())
    assert (found.name, found.classifier, found.backend) == ("jpeg_classifier", "classifier_onnx", "onnxruntime")
    assert found.precision == "fp32"
    assert (found.max_batch_size, found.classes) == (64, 1000)
    assert other.value.reason == "not_an_ensemble"


def mixed(count: int) -> list[Any]:
    """Photos, with a broken and a missing one among them."""
    images: list[Any] = [photo(("coffee", "chelsea", "china")[number % 3]) for number in range(count)]
    images[5], images[17] = b"broken", Path("gone.jpg")
    return images


@kinds
@pytest.mark.parametrize("order", ["input", "completion"])
def test_a_stream_has_every_image_once(kind: str, url: str, order: str) -> None:
    images = mixed(60)
    results = streamed(kind, url, images, k=1, order=order, concurrency=3, batch_size=4)
    if order == "input":
        assert [each.index for each in results] == list(range(60))
    by_index = {each.index: each for each in results}
    assert sorted(by_index) == list(range(60))
    for index, image in enumerate(images):
        assert by_index[index].image is image
        reason = {5: "not_jpeg", 17: "file_missing"}.get(index)
        assert by_index[index].prediction.reason == reason
        if reason is None:
            assert top(by_index[index].prediction) == ("espresso", "Egyptian cat", "palace")[index % 3]


@kinds
def test_a_slow_source_gets_its_answers_before_its_next_image(kind: str, url: str) -> None:
    answered = threading.Event()

    def camera() -> Iterator[Path]:
        for _ in range(3):
            yield COFFEE
            assert answered.wait(20), "the stream waits for a full request"
            answered.clear()

    results = streamed(kind, url, camera(), see=lambda _: answered.set())
    assert len(results) == 3


@kinds
def test_a_stream_takes_few_images_ahead_of_its_results(kind: str, url: str) -> None:
    taken = seen = most = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(300):
            taken += 1
            yield b"broken"

    def see(_: Classified) -> None:
        nonlocal seen, most
        seen += 1
        most = max(most, taken - seen)

    streamed(kind, url, source(), see=see, concurrency=2, batch_size=4)
    assert seen == 300
    assert most <= 4 * 2 * 4 + 1


@kinds
def test_an_error_of_the_source_comes_after_the_results(kind: str, url: str) -> None:
    seen: list[int] = []

    def source() -> Iterator[Path]:
        yield from [COFFEE] * 5
        raise LookupError("the disk is gone")

    with pytest.raises(LookupError):
        streamed(kind, url, source(), see=lambda each: seen.append(each.index))
    assert seen == [0, 1, 2, 3, 4]


@kinds
def test_a_stream_ends_when_the_whole_request_is_refused(kind: str, url: str) -> None:
    with pytest.raises(RequestRefused):
        streamed(kind, url, [COFFEE] * 5, k=1001)


@kinds
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"concurrency": 0}, "invalid_concurrency"),
        ({"batch_size": 0}, "invalid_batch_size"),
        ({"order": "random"}, "invalid_order"),
    ],
)
def test_options_of_a_stream_are_checked_before_it_begins(kind: str, option: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        streamed(kind, "grpc://localhost:1", [COFFEE], **option)
    assert refused.value.reason == reason


def test_a_stream_that_is_left_ends_its_threads(url: str) -> None:
    before = threading.active_count()
    with Client(url) as client:
        stream = client.classify_stream([COFFEE] * 500)
        assert next(stream).index == 0
        stream.close()  # type: ignore[attr-defined]  # a generator
        limit = time.monotonic() + 20
        while any(thread.name.startswith("jpeg-client") for thread in threading.enumerate()):
            assert time.monotonic() < limit, threading.enumerate()
            time.sleep(0.01)
    assert threading.active_count() <= before + 1


def test_an_asynchronous_source(url: str) -> None:
    async def source() -> AsyncIterator[Path]:
        for _ in range(4):
            await asyncio.sleep(0)
            yield COFFEE

    assert [top(each.prediction) for each in streamed("async", url, source())] == ["espresso"] * 4  # type: ignore[arg-type]


def test_tasks_share_a_client_and_a_cancelled_one_leaves_it_usable(server: TritonServer, url: str) -> None:
    async def run() -> None:
        async with AsyncClient(url) as client:
            tasks = [asyncio.create_task(client.classify(COFFEE, k=1)) for _ in range(48)]
            await asyncio.sleep(0)
            for task in tasks[:16]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in results[:16])
            assert [top(each) for each in results[16:] if not isinstance(each, BaseException)] == ["espresso"] * 32
            assert top(await client.classify(COFFEE)) == "espresso"

    asyncio.run(run())


def test_headers_are_sent_and_checked(url: str) -> None:
    """The header k is the parameter k: Triton passes it to the models."""
    assert len(classified("sync", url, COFFEE, headers={"K": "2"}).labels) == 2
    assert len(classified("async", url, COFFEE, headers={"k": "2"}).labels) == 2
    for headers in ({"a b": "x"}, {"x": "a\r\nb: c"}):
        with pytest.raises(InvalidArgument) as refused:
            Client(url, headers=headers)
        assert refused.value.reason == "invalid_header"


def test_a_closed_client_leaves_no_connection(server: TritonServer) -> None:
    """A refused request, too: the exception that the caller keeps holds no call."""
    kept = []
    for kind in KINDS:
        with pytest.raises(RequestRefused) as refused:
            streamed(kind, f"grpc://{server.grpc_address}", [COFFEE] * 3, k=1001)
        kept.append(refused)
        streamed(kind, f"grpc://{server.grpc_address}", [b"broken"] * 40)
    limit = time.monotonic() + 10
    while connections := [
        each
        for each in psutil.Process().net_connections("tcp")
        if each.status == psutil.CONN_ESTABLISHED and each.raddr and each.raddr.port == server.options.grpc_port
    ]:
        assert time.monotonic() < limit, connections
        time.sleep(0.05)
