import base64
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError, describe_failures
from jpeg_contract.settings import Limits, PreprocessSettings
from jpeg_preprocess import Preprocessed, Preprocessor, Refused, preprocess_requests, unwrap
from PIL import Image
from support import encode, noise

SETTINGS = PreprocessSettings(Geometry(32, (24, 24)), threads=3)


@pytest.fixture(scope="module")
def preprocess():
    preprocessor = Preprocessor(SETTINGS)
    yield preprocessor
    preprocessor.close()


@given(kinds=st.lists(st.sampled_from(["small", "wide", "tall", "broken", "empty"]), max_size=12))
def test_every_image_of_a_batch_is_the_same_alone(preprocess, kinds):
    made = {
        "small": encode(noise(20, 30)),
        "wide": encode(noise(300, 40)),
        "tall": encode(noise(40, 300)),
        "broken": encode(noise(64, 64))[:200],
        "empty": b"",
    }
    pixels, errors = preprocess([made[kind] for kind in kinds])
    assert pixels.shape == (len(kinds), 24, 24, 3)
    assert pixels.dtype == np.uint8
    for kind, image, error in zip(kinds, pixels, errors, strict=True):
        (alone,), (alone_error,) = preprocess([made[kind]])
        assert np.array_equal(image, alone)
        assert str(error) == str(alone_error)
        assert (error is None) == (kind not in ("broken", "empty"))
        assert error is None or not image.any()


@pytest.mark.parametrize(("side", "helped"), [(20, False), (600, True)])
def test_several_threads_share_a_batch_that_is_worth_it(side, helped, preprocess, monkeypatch):
    threads = set()
    decode_into = Preprocessor._decode_into

    def watched(self, pixels, data):
        threads.add(threading.current_thread())
        return decode_into(self, pixels, data)

    monkeypatch.setattr(Preprocessor, "_decode_into", watched)
    pixels, errors = preprocess([encode(noise(side, side))] * 6)
    assert errors == [None] * 6
    assert all(image.any() for image in pixels)
    assert threading.current_thread() in threads
    assert (len(threads) > 1) == helped


def test_an_internal_fault_costs_one_image_and_is_hidden_from_the_client(preprocess, monkeypatch, caplog):
    good = encode(noise(20, 30))
    monkeypatch.setattr("jpeg_preprocess.preprocessor.open_jpeg", lambda data, **_: 1 / 0 if data == b"x" else None)
    _, errors = preprocess([b"x"])
    assert errors[0] is not None
    assert errors[0].reason == "internal"
    assert "division" not in str(errors[0])
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    _, errors = preprocess([good])
    assert errors == [None]


def test_failures_are_listed_by_image_up_to_a_limit(preprocess):
    _, errors = preprocess([b""] * 18)
    lines = describe_failures([error for error in errors if error]).splitlines()
    assert lines[0] == "image 0: empty: no bytes were sent [empty]"
    assert lines[15].startswith("image 15: ")
    assert lines[16:] == ["and 2 more images"]


def test_each_request_of_a_batch_has_its_own_outcome(preprocess):
    good, bad = encode(noise(20, 30)), b"no image"
    late = Refused("too late", "UNAVAILABLE", "late")
    batch = preprocess_requests(preprocess, [[good, bad], late, [bad], [good]], lambda: True)
    assert batch.images == [good, bad, bad, good]
    mixed, refused, broken, alone = batch.outcomes
    assert isinstance(mixed, Preprocessed)
    assert mixed.checksums.ravel().tolist() == [zlib.crc32(good), zlib.crc32(bad)]
    assert mixed.errors[0, 0] == b""
    assert mixed.errors[1, 0].endswith(b"[not_jpeg]")
    assert refused is late
    assert isinstance(broken, Refused)
    assert (broken.status, broken.reason) == ("INVALID_ARG", "no_usable_image")
    assert isinstance(alone, Preprocessed)
    assert np.array_equal(alone.pixels[0], mixed.pixels[0])


def test_text_is_decoded_between_bytes_and_keeps_its_own_checksum_and_error(preprocess):
    good = encode(noise(20, 30))
    text, broken = base64.encodebytes(good), b"/9j/*"
    (outcome,) = preprocess_requests(preprocess, [[good, text, broken]], lambda: True).outcomes
    assert isinstance(outcome, Preprocessed)
    assert outcome.checksums.ravel().tolist() == [zlib.crc32(image) for image in (good, text, broken)]
    assert np.array_equal(outcome.pixels[0], outcome.pixels[1])
    assert outcome.errors[:2].tolist() == [[b""], [b""]]
    assert outcome.errors[2, 0].endswith(b"[invalid_base64]")


def test_the_limit_on_bytes_holds_for_what_text_decodes_to():
    good = encode(noise(20, 30))
    text = base64.b64encode(good)

    def reason(data, max_image_bytes):
        unwrapped = unwrap(data, Limits(max_image_bytes=max_image_bytes))
        return unwrapped.reason if isinstance(unwrapped, ImageError) else len(unwrapped)

    assert reason(text, len(good)) == len(good)
    # No text that is as long is decoded at all.
    assert reason(text + b" " * len(text), len(good)) == "too_many_bytes"
    preprocess = Preprocessor(PreprocessSettings(Geometry(32, (24, 24)), limits=Limits(max_image_bytes=len(good) - 1)))
    _, (error,) = preprocess([text])
    preprocess.close()
    assert error is not None
    assert error.reason == "too_many_bytes"


def test_requests_that_are_too_long_or_come_again_are_refused():
    limits = Limits(max_decode_ms=100, max_wait_ms=100)
    large = encode(Image.new("RGB", (3300, 3300)), quality=50)
    preprocess = Preprocessor(PreprocessSettings(Geometry(32, (24, 24)), decoder="full", limits=limits, threads=1))
    outcomes = preprocess_requests(preprocess, [[large] * 3, [large], [large]], lambda: True).outcomes
    preprocess.close()
    assert [outcome.reason if isinstance(outcome, Refused) else "" for outcome in outcomes] == ["too_long", "", "busy"]
