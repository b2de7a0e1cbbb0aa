"""`Client(shrink=True)` and `jpeg-classify --shrink` against a real server: the labels and the reasons stay."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from client_support import KINDS, classified, streamed, top
from jpeg_client import Client, JpegClientError
from jpeg_contract.exif import orientation_segment
from jpeg_serve import TritonServer
from PIL import Image
from support import encode, photo, run, run_module

kinds = pytest.mark.parametrize("kind", KINDS)
NAMES = ("chelsea", "china", "coffee", "grace_hopper")


def large(name: str, turn: Image.Transpose | None = None, **options: Any) -> bytes:
    """A photo of 4 to 6 megapixels."""
    with Image.open(io.BytesIO(photo(name))) as opened:
        image = opened.convert("RGB").resize((4 * opened.width, 4 * opened.height), Image.Resampling.BICUBIC)
    return encode(image if turn is None else image.transpose(turn), **options)


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    return [large(name) for name in NAMES]


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert top(one) == top(other)
        assert abs(one.scores[0] - other.scores[0]) < 0.1


@kinds
def test_the_labels_are_those_of_the_whole_photos(kind: str, url: str, photos: list[bytes]) -> None:
    images = [*photos, photo("coffee"), large("china", progressive=True), large("china").replace(b"JFIF", b"jfif")]
    expected = classified(kind, url, images, 1)
    assert_same(classified(kind, url, images, 1, shrink=True), expected)
    assert top(classified(kind, url, photos[2], 1, shrink=True)) == "espresso"
    results = streamed(kind, url, images, k=1, batch_size=3, client_options={"shrink": True})
    assert_same([each.prediction for each in results], expected)
    assert [each.image for each in results] == images, "the images of the results are those of the caller"


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_90),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_a_turned_photo_is_classified_upright(url: str, orientation: int, stored: Image.Transpose) -> None:
    data = large("grace_hopper", stored, exif=orientation_segment(orientation))
    with Client(url) as whole, Client(url, shrink=True) as small:
        upright = whole.classify(large("grace_hopper"))
        assert_same([small.classify(data)], [upright])
        assert_same([small.classify(data)], [whole.classify(data)])


@kinds
def test_broken_images_keep_their_reasons(kind: str, url: str, photos: list[bytes], tmp_path: Path) -> None:
    whole = photos[2]
    frame = whole.index(b"\xff\xc0")
    images = [
        b"",
        b"text" * 30_000,
        whole[:100_000],
        whole[: frame + 1] + b"\xc3" + whole[frame + 2 :],
        whole[: frame + 5] + b"\xff\xf0\xff\xf0" + whole[frame + 9 :],
        whole[:frame] + b"\xff\xfe\0\2" * 20_000 + whole[frame:],
        whole[:-2],  # without its end: decoded
        tmp_path / "gone.jpg",
        whole,
    ]
    expected = [each.reason for each in classified(kind, url, images, 1)]
    assert expected == [
        "empty",
        "not_jpeg",
        "truncated",
        "unsupported",
        "too_many_pixels",
        "too_much_work",
        None,
        "file_missing",
        None,
    ]
    assert [each.reason for each in classified(kind, url, images, 1, shrink=True)] == expected
    results = streamed(kind, url, images, k=1, client_options={"shrink": True})
    assert [each.prediction.reason for each in results] == expected


def test_few_bytes_are_sent_and_the_checksum_is_theirs(
    url: str, photos: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[bytes]] = []
    with Client(url, shrink=True) as client:
        infer = client._transport.infer

        def record(model: str, images: list[bytes], *rest: Any) -> Any:
            sent.append(images)
            return infer(model, images, *rest)

        monkeypatch.setattr(client._transport, "infer", record)
        assert [top(each) for each in client.classify(photos, 1)] == ["Egyptian cat", "palace", "espresso", "bow tie"]
    ((*images,),) = sent
    assert sum(map(len, images)) * 5 < sum(map(len, photos))
    assert {min(Image.open(io.BytesIO(image)).size) for image in images} == {512}


def test_a_photo_with_more_bytes_than_the_server_takes_has_labels(url: str, photos: list[bytes]) -> None:
    profile = b"\xff\xe2\xff\xff" + bytes(65_533)
    data = photos[2][:2] + 320 * profile + photos[2][2:]
    assert classified("sync", url, data).reason == "too_many_bytes"
    assert top(classified("sync", url, data, shrink=True)) == "espresso"


@kinds
def test_a_model_that_is_no_ensemble_and_a_server_that_is_gone_are_errors(kind: str, url: str) -> None:
    for address, options, reason in (
        (url, {"model": "preprocess"}, "not_an_ensemble"),
        (url, {"model": "nothing"}, "unknown_model"),
        ("grpc://127.0.0.1:1", {"retry": False}, "server_unavailable"),
    ):
        with pytest.raises(JpegClientError) as raised:
            classified(kind, address, photo("coffee"), shrink=True, **options)
        assert raised.value.reason == reason


def test_the_command_shrinks(server: TritonServer, photos: list[bytes], tmp_path: Path) -> None:
    for name, data in zip(NAMES, photos, strict=True):
        (tmp_path / f"{name}.jpg").write_bytes(data)
    (tmp_path / "broken.jpg").write_bytes(photos[0][:100_000])
    url = f"grpc://{server.grpc_address}"
    rows = []
    for options in ((), ("--shrink",)):
        done = run_module("jpeg_client", "--url", url, tmp_path, "-k", "1", "--json", *options, timeout=100)
        assert done.returncode == 1, done.stderr
        rows.append([json.loads(line) for line in done.stdout.splitlines()])
    for whole, small in zip(*rows, strict=True):
        assert (whole["image"], whole["labels"], whole["reason"]) == (small["image"], small["labels"], small["reason"])
    assert rows[0] != rows[1], "the scores differ a little"


def test_the_command_names_the_package_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo("coffee"))
    program = f"""
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "PIL" else find(name, *rest)
sys.argv = ["jpeg_client", "--url", "grpc://127.0.0.1:1", {str(tmp_path)!r}, "--shrink"]
runpy.run_module("jpeg_client", run_name="__main__")
"""
    done = run(sys.executable, "-c", program)
    assert done.returncode == 2, done.stderr
    assert "triton-jpeg-classifier[images]" in done.stderr
