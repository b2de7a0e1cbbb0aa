"""The header of a JPEG without a decoder, compared with Pillow's reading."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_preprocess.jpeg_header import PlainJpeg, read_plain
from PIL import Image
from support import PHOTOS, encode, noise, photo


@pytest.mark.parametrize("file", sorted(PHOTOS.rglob("*.jpg")), ids=lambda file: file.stem)
def test_photos_are_plain_and_have_the_size_that_pillow_reads(file):
    data = file.read_bytes()
    assert read_plain(data) == PlainJpeg(*Image.open(io.BytesIO(data)).size, components=3, orientation=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_in_both_byte_orders(orientation):
    image = noise(40, 24)
    for endian in ("<", ">"):
        exif = Image.Exif()
        exif.endian = endian
        exif[0x010F], exif[0x0112] = "a camera", orientation
        found = read_plain(encode(image, exif=exif))
        assert found is not None
        assert found.orientation == orientation


def test_gray_is_plain():
    found = read_plain(encode(noise(33, 17).convert("L")))
    assert found == PlainJpeg(33, 17, components=1, orientation=1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode(noise(40, 24), progressive=True), id="progressive"),
        pytest.param(encode(noise(40, 24).convert("CMYK")), id="CMYK"),
        pytest.param(encode(noise(40, 24), keep_rgb=True), id="RGB without a transformation"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xd8\xff", id="only a start"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(40), id="PNG"),
        pytest.param(b"\xff\xd8\xff\xe0\x00\x01" + bytes(40), id="a segment shorter than its length"),
    ],
)
def test_unusual_data_is_left_to_the_decoder(data):
    assert read_plain(data) is None


@pytest.mark.parametrize("value", [0, 9, 700])
def test_an_invalid_orientation_is_left_to_the_decoder(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert read_plain(encode(noise(40, 24), exif=exif)) is None


def test_a_second_frame_is_left_to_the_decoder():
    data = encode(noise(40, 24))
    start = data.index(b"\xff\xc0")
    frame = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    assert read_plain(data[:start] + frame + data[start:]) is None


@given(st.integers(0, len(photo("grace_hopper")) - 1))
def test_a_truncated_image_is_never_plain(length):
    assert read_plain(photo("grace_hopper")[:length]) is None


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_read_without_an_exception(data, like_a_jpeg):
    found = read_plain((b"\xff\xd8\xff" if like_a_jpeg else b"") + data)
    assert found is None or found.width > 0


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_header_is_read_without_an_exception(changes):
    data = bytearray(photo("grace_hopper"))
    for position, value in changes:
        data[position] = value
    read_plain(bytes(data))
