import base64
import gzip
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import Limits
from jpeg_preprocess import resize_and_crop
from jpeg_preprocess.decode import open_jpeg, scale
from jpeg_preprocess.decoded import TRANSPOSE
from PIL import Image, ImageOps
from support import encode, noise, photo

GEOMETRY = Geometry(256, (224, 224))


def pixels(data, *, decoder="full", limits=None, exif_orientation=True, geometry=GEOMETRY):
    decoded = open_jpeg(
        data, geometry=geometry, decoder=decoder, limits=limits or Limits(), exif_orientation=exif_orientation
    ).decode()
    return resize_and_crop(geometry, decoded.image, decoded.original_size, decoded.from_end)


def reason(data, **options):
    with pytest.raises(ImageError) as caught:
        pixels(data, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not re.search(r"\b0x", message)
    assert "/" not in message
    return caught.value.reason


def china():
    return Image.open("photos/china.jpg").convert("RGB")


@pytest.fixture(autouse=True)
def in_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_rows": 1}]
)
def test_baseline_progressive_and_subsampled_images_are_decoded(options):
    data = encode(china(), **options)
    assert np.array_equal(pixels(data), resize_and_crop(GEOMETRY, Image.open(io.BytesIO(data)).convert("RGB")))


def test_gray_has_three_equal_channels():
    found = pixels(encode(china().convert("L")))
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("decoder", ["full", "scaled"])
def test_cmyk_looks_like_its_rgb(decoder):
    big = china().resize((1600, 1068))
    from_rgb = pixels(encode(big), decoder=decoder).astype(int)
    from_cmyk = pixels(encode(big.convert("CMYK")), decoder=decoder).astype(int)
    assert np.abs(from_rgb - from_cmyk).mean() < 3


@pytest.mark.parametrize("decoder", ["full", "scaled"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation, decoder):
    upright = china().resize((1300, 900))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.copy()
    # Turning by 90 degrees one way is undone by turning the other way; all others undo themselves.
    turned.getexif()[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)
    turned = ImageOps.exif_transpose(turned)
    found = pixels(encode(turned, exif=exif), decoder=decoder).astype(int)
    wanted = pixels(encode(upright), decoder=decoder).astype(int)
    assert np.abs(found - wanted).mean() < 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_image_is_the_image_turned(orientation, interpolation):
    """Of this size, the scaled decoder's last column and row stand for less than a whole one."""
    geometry = Geometry((32, 32), (32, 32), interpolation)
    stored = china().resize((513, 385))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(encode(stored, exif=exif), decoder="scaled", geometry=geometry)
    straight = Image.fromarray(pixels(encode(stored), decoder="scaled", geometry=geometry))
    wanted = np.asarray(straight.transpose(TRANSPOSE[orientation]))
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_exif_orientation_can_be_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encode(china(), exif=exif)
    as_stored = pixels(data, exif_orientation=False)
    assert np.array_equal(as_stored, pixels(encode(china())))
    assert not np.array_equal(as_stored, pixels(data))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage-garbage-garbage"])
def test_broken_exif_is_ignored(exif):
    data = encode(china())
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    assert np.array_equal(pixels(data[:2] + segment + data[2:]), pixels(data))


@pytest.mark.parametrize("name", ["chelsea", "china", "coffee", "grace_hopper", "astronaut", "flower", "rocket"])
@pytest.mark.parametrize("enlarged", [1, 2, 3, 5])
def test_scaled_decoding_stays_within_two_counts_of_full(name, enlarged):
    image = Image.open(io.BytesIO(photo(name))).convert("RGB")
    data = encode(image.resize((image.width * enlarged, image.height * enlarged), Image.Resampling.LANCZOS))
    difference = pixels(data, decoder="scaled").astype(int) - pixels(data)
    assert np.abs(difference).mean() < 2


@given(width=st.integers(1, 900), height=st.integers(1, 900), seed=st.integers(0, 3))
def test_scaled_decoding_shows_the_same_part(width, height, seed):
    # A smooth image has the same colours whether or not it was filtered, unless another part is shown.
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    ramp[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    data = encode(Image.fromarray(ramp), quality=100, subsampling=0)
    geometry = Geometry(32, (24, 24))
    difference = pixels(data, decoder="scaled", geometry=geometry).astype(int) - pixels(data, geometry=geometry)
    assert np.abs(difference).max() <= 6


@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    box=st.sampled_from([(32, 32), (24, 48), (48, 24)]),
    orientation=st.sampled_from([1, 3, 6]),
)
def test_scaled_decoding_of_a_letterbox_stays_at_twice_the_size_and_shows_the_same(width, height, box, orientation):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)[None, :]
    ramp[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(ramp), quality=100, subsampling=0, exif=exif)
    if orientation == 6:
        width, height = height, width
    geometry = Geometry(box, box, resize_side="longer", fill=(1, 2, 3))
    opened = open_jpeg(data, geometry=geometry, decoder="scaled", limits=Limits(), exif_orientation=True)
    decoded = opened.decode()
    factor = scale(geometry, "scaled", width, height)
    assert decoded.image.size == (-(-width // factor), -(-height // factor))  # as the estimate of the cost has it
    needed = geometry.resized_size(width, height)
    assert factor == 1 or all(2 * need <= got for need, got in zip(needed, decoded.image.size, strict=True))
    difference = pixels(data, decoder="scaled", geometry=geometry).astype(int) - pixels(data, geometry=geometry)
    # Of few columns, the ramp is steep, and libjpeg fills up the last block.
    assert np.abs(difference).max() <= (6 if min(width, height) >= 64 else 40)


def test_small_images_are_decoded_in_full():
    data = encode(china())
    assert np.array_equal(pixels(data, decoder="scaled"), pixels(data))


def test_each_failure_has_its_reason():
    data = encode(china())
    assert reason(b"") == "empty"
    assert reason(b"no image") == "not_jpeg"
    assert reason(data[:2]) == "not_jpeg"
    assert reason(data[:3]) == "truncated"
    assert reason(data[:400]) == "truncated"
    assert reason(data[: len(data) // 2]) == "truncated"
    assert reason(data, limits=Limits(max_pixels=640 * 427 - 1)) == "too_many_pixels"
    assert reason(data, limits=Limits(max_image_bytes=len(data) - 1)) == "too_many_bytes"
    pixels(data, limits=Limits(max_image_bytes=len(data), max_pixels=640 * 427))


def saved(kind):
    stream = io.BytesIO()
    noise(4, 4).save(stream, kind)
    return stream.getvalue()


JPEG = encode(noise(4, 4))


@pytest.mark.parametrize(
    ("data", "guess"),
    [
        *((saved(kind), kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "WebP", "PDF")),
        (saved("AVIF"), "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "video"),
        (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a", "JPEG XL"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (saved("JPEG2000"), "JPEG 2000"),
        (gzip.compress(JPEG), "gzip"),
        (base64.b64encode(JPEG), "once"),
        (b"data:image/jpeg;base64," + base64.b64encode(JPEG), "once"),
        (b"--a0b1\r\nContent-Disposition: form-data; name=image\r\n\r\n" + JPEG, "multipart"),
        (len(JPEG).to_bytes(4, "little") + JPEG, "length in 4 bytes"),
        (b"\0" + JPEG, "behind 1 other"),
        (JPEG.decode("latin-1").encode(), "as text"),
        (JPEG.decode(errors="replace").encode(), "as text"),
        (b"<!doctype html>", "HTML"),
        (b'{"image": "..."}', "JSON"),
        (b"https://example.com/cat.jpg", "URL"),
        (bytes(100), "zero bytes"),
        (JPEG[4:], "without its beginning"),
    ],
)
def test_the_error_guesses_what_other_data_is(data, guess):
    with pytest.raises(ImageError, match=guess) as caught:
        pixels(data)
    assert caught.value.reason == "not_jpeg"


def test_a_header_with_a_false_size_is_refused_before_decoding():
    data = bytearray(encode(noise(16, 16)))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match=r"65535x65535 is 4294836225, the limit is 120000000") as caught:
        pixels(bytes(data))
    assert caught.value.reason == "too_many_pixels"


def with_scans(count):
    """A progressive JPEG that repeats one scan, as a malicious file does to cost time."""
    data = encode(noise(64, 64).convert("L"), progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    # The last scan refines, and may be repeated without limit.
    last = data.rindex(b"\xff\xda")
    assert second <= last
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def test_a_file_of_many_scans_is_refused():
    pixels(with_scans(10))
    assert reason(with_scans(200)) == "too_many_scans"
    pixels(with_scans(200), limits=Limits(max_scans=300))


def test_scans_are_counted_in_the_image_only():
    data = encode(china(), progressive=True)
    appended = data + b"\xff\xda" * 1000
    comment = data[:2] + b"\xff\xfe" + (2002).to_bytes(2, "big") + b"\xff\xda" * 1000 + data[2:]
    for same in (appended, comment):
        assert np.array_equal(pixels(same), pixels(data))


def test_orientation_comes_from_exif_and_not_from_xmp():
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="3"/></x:xmpmeta>'
    assert np.array_equal(pixels(encode(china(), exif=exif, xmp=xmp)), pixels(encode(china())))


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(cut=st.integers(0, 20_000), progressive=st.booleans(), decoder=st.sampled_from(["full", "scaled"]))
def test_a_truncated_file_is_refused_or_decoded_whole(cut, progressive, decoder):
    data = encode(noise(120, 90), progressive=progressive)
    try:
        found = pixels(data[:cut], decoder=decoder)
    except ImageError as error:
        assert error.reason in ("empty", "not_jpeg", "truncated", "corrupt")
    else:
        # Only the end-of-image marker and what padding stands before it may be missing.
        assert cut >= len(data) - 6
        assert np.array_equal(found, pixels(data, decoder=decoder))


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.data())
def test_damaged_files_are_decoded_or_refused_and_never_crash(data):
    whole = bytearray(encode(noise(48, 40), progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = pixels(bytes(whole), limits=Limits(max_pixels=1_000_000))
    except ImageError:
        return
    assert found.shape == (224, 224, 3)


def without_end(data):
    assert data.endswith(b"\xff\xd9")
    return data[:-2]


WRITERS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
}
# What some cameras and phones write behind an image: text, a video, another JPEG.
TRAILERS = {
    "nothing": b"",
    "Samsung": b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1700000000000SEFHk\0\0\0\x01\0\0\0\0\0\x01\x0aSEFT",
    "motion photo": b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(range(256)) * 8,
    "another JPEG": encode(noise(16, 16, seed=5)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("decoder", ["full", "scaled"])
def test_an_image_that_lacks_only_its_end_marker_is_decoded(options, trailer, decoder):
    data = encode(china(), **options)
    assert np.array_equal(pixels(without_end(data) + trailer, decoder=decoder), pixels(data, decoder=decoder))
    assert np.array_equal(pixels(data + trailer, decoder=decoder), pixels(data, decoder=decoder))


@pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("options", WRITERS.values(), ids=WRITERS)
def test_an_image_that_lacks_more_is_truncated(options, part):
    data = encode(china(), **options)
    assert reason(data[: int(len(data) * part)]) == "truncated"


def with_segment(data, marker, content):
    return data[:2] + bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content + data[2:]


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"),
        (0xE0, b"JFIF"),
        (0xE0, b""),
        (0xE1, b"Exif\0\0"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b""),
        (0xED, b"Photoshop 3.0\0"),
        (0xEE, b"Adobe"),
        (0xEE, b""),
    ],
)
def test_an_empty_segment_of_an_application_costs_nothing(marker, content):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(china(), exif=exif)
    assert np.array_equal(pixels(with_segment(data, marker, content)), pixels(data))


def patched(offset, value, marker=b"\xff\xc0"):
    """Change a byte of a frame's header; the offset counts from the marker."""
    data = bytearray(encode(noise(64, 48), subsampling=0))
    data[data.index(marker) + offset] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "feature"),
    [
        (patched(4, 12), "12 bits"),
        (patched(1, 0xC3), "lossless"),
        (patched(1, 0xC5), "hierarchical"),
        (patched(1, 0xCD), "arithmetically"),
        (patched(9, 2), "2 components"),
        (patched(6, 0), "height"),
    ],
)
def test_what_libjpeg_does_not_decode_is_named(data, feature):
    with pytest.raises(ImageError, match=feature) as caught:
        pixels(data)
    assert caught.value.reason == "unsupported"


def flat(width, height, mode="RGB", **options):
    return encode(Image.new(mode, (width, height)), quality=50, **options)


def test_an_image_that_would_take_too_long_is_refused_although_its_pixels_and_scans_are_allowed():
    data = flat(6000, 6000, progressive=True)
    last = data.rindex(b"\xff\xda")
    many = data[:-2] + data[last:-2] * 50 + b"\xff\xd9"
    assert reason(many, decoder="scaled", limits=Limits(max_decode_ms=500)) == "too_much_work"
    assert reason(flat(7000, 7000), limits=Limits(max_decode_ms=200)) == "too_much_work"


def test_an_image_that_needs_too_much_memory_is_refused():
    data = flat(3000, 3000, mode="CMYK", progressive=True)
    assert reason(data, limits=Limits(max_decode_mib=60)) == "too_much_memory"
    pixels(data, decoder="scaled", limits=Limits(max_decode_mib=100))


def test_scans_behind_an_end_marker_are_not_decoded_uncounted():
    """libjpeg takes a JPEG without an image for tables, and goes on behind it."""
    data = with_scans(200)
    assert reason(b"\xff\xd8\xff\xd9" + data) == "corrupt"
    assert reason(data[:2] + b"\xff\xd9" + data) == "corrupt"
