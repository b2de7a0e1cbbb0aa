"""Photos that the client makes smaller: how small, which ones, and that the server sees the same picture."""

from __future__ import annotations

import asyncio
import io
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from corpus.generated import cases
from hypothesis import assume, given
from hypothesis import strategies as st
from jpeg_client import AsyncClient, Client, InvalidArgument, JpegClientError
from jpeg_client import shrink as module
from jpeg_client.images import read_image
from jpeg_client.requests import send_plan
from jpeg_client.shrink import Shrinker, Shrinkers
from jpeg_contract.exif import EXIF, orientation_segment, read_orientation
from jpeg_contract.geometry import Geometry
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import Preprocessor
from PIL import Image
from support import encode, noise, photo

PLAIN = Geometry(256, (224, 224))
GEOMETRIES = [
    PLAIN,
    Geometry((96, 160), (96, 160)),
    Geometry((224, 160), (224, 160), resize_side="longer", fill=(9, 9, 9)),
    Geometry((224, 224), (224, 224), resize_side="longer", fill=(0, 0, 0)),
]
# A photo of many colours whose halves differ, so that a turn shows.
PHOTO = Image.open(io.BytesIO(photo("china"))).convert("RGB").resize((1800, 1200), Image.Resampling.BICUBIC)


def shrinker(
    geometry: Geometry = PLAIN, *, exif_orientation: bool = True, max_pixels: int = 120_000_000, max_scans: int = 64
) -> Shrinker:
    return Shrinker(geometry, exif_orientation, max_pixels, max_scans)


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@given(
    geometry=st.sampled_from(GEOMETRIES),
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    orientation=st.integers(1, 8),
    exif_orientation=st.booleans(),
)
def test_the_server_resizes_a_shrunk_photo_to_the_size_of_the_photo(
    geometry: Geometry, width: int, height: int, orientation: int, exif_orientation: bool
) -> None:
    small = shrinker(geometry, exif_orientation=exif_orientation).size(width, height, orientation)
    assume(small is not None)
    assert small is not None
    upright, small_upright = (width, height), small
    if exif_orientation and orientation >= 5:
        upright, small_upright = (height, width), (small[1], small[0])
    assert geometry.resized_size(*small_upright) == geometry.resized_size(*upright)
    assert small[0] <= width and small[1] <= height, "never enlarged"
    assert small[0] * small[1] <= width * height / 2
    needed = geometry.resized_size(*upright)
    assert all(
        2 * need == side or side == full for need, side, full in zip(needed, small_upright, upright, strict=True)
    )


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["shorter", "both", "longer", "letterbox"])
@pytest.mark.parametrize("exif_orientation", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_pixels_of_a_turned_photo_stay(geometry: Geometry, exif_orientation: bool, orientation: int) -> None:
    data = encode(PHOTO, exif=orientation_segment(orientation), quality=90)
    small = shrinker(geometry, exif_orientation=exif_orientation).shrink(data)
    assert len(small) < len(data) / 2
    assert decoded(small).getexif().get(0x0112, 1) == orientation
    preprocess = Preprocessor(PreprocessSettings(geometry, exif_orientation=exif_orientation))
    pixels, small_pixels = (preprocess.decode([each]).pixels[0].astype(int) for each in (data, small))
    assert np.abs(pixels - small_pixels).mean() < 2.5


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"icc_profile": b"p" * 100_000}])
def test_every_kind_of_ordinary_jpeg_shrinks(mode: str, options: dict[str, Any]) -> None:
    data = encode(PHOTO.convert(mode), comment=b"c" * 1000, **options)
    small = shrinker().shrink(data)
    image = decoded(small)
    assert (image.size, image.mode) == ((768, 512), "L" if mode == "L" else "RGB")
    assert not {"icc_profile", "exif", "comment"} & set(image.info)
    preprocess = Preprocessor(PreprocessSettings(PLAIN))
    pixels, small_pixels = (preprocess.decode([each]).pixels[0].astype(int) for each in (data, small))
    assert np.abs(pixels - small_pixels).mean() < 2


@given(size=st.tuples(st.integers(1, 1500), st.integers(1, 1500)), mode=st.sampled_from(["L", "RGB", "CMYK"]))
def test_an_image_of_any_size_and_mode_is_smaller_or_as_it_is(size: tuple[int, int], mode: str) -> None:
    data = encode(Image.effect_noise(size, 80).convert(mode))
    small = shrinker(Geometry(64, (64, 64))).shrink(data)
    assert small == data or len(small) <= len(data) / 2
    decoded(small).load()
    assert len(data) >= 65_536 or small is data


def broken_photos() -> Iterator[tuple[str, bytes]]:
    good = encode(PHOTO)
    frame = good.index(b"\xff\xc0")
    yield "no bytes", b""
    yield "text", b"text" * 50_000
    yield "PNG", _png()
    yield "cut in the header", good[:300] + bytes(70_000)
    yield "cut in the image", good[: len(good) // 2]
    yield "without its end", good[:-2]
    yield "lossless", good[: frame + 1] + b"\xc3" + good[frame + 2 :]
    yield "arithmetic", good[: frame + 1] + b"\xc9" + good[frame + 2 :]
    yield "12 bits", good[: frame + 4] + b"\x0c" + good[frame + 5 :]
    yield "without a height", good[: frame + 5] + b"\0\0" + good[frame + 7 :]
    yield "two frames", good[:frame] + good[frame : frame + 19] + good[frame:]
    yield "a JPG segment", good[:2] + b"\xff\xf0\0\2" + good[2:]
    yield "two orientations", good[:2] + 2 * _segment(orientation_segment(6)) + good[2:]
    yield "broken EXIF", good[:2] + _segment(EXIF + b"MM\0*\0\0\0\x08\xff") + good[2:]
    yield "endless header", good[:2] + b"\xff\xfe\0\2" * 20_000 + good[2:]


def _segment(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def _png() -> bytes:
    stream = io.BytesIO()
    PHOTO.save(stream, "PNG")
    return stream.getvalue()


BROKEN = dict(broken_photos())


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_ordinary_jpeg_is_sent_as_it_is(name: str) -> None:
    assert shrinker().shrink(BROKEN[name]) is BROKEN[name]


# Pillow's, about EXIF data that the server reads; as there, they are nobody's.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_shrinks_is_what_the_server_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MIN_BYTES", 0)
    tiny = Geometry(8, (8, 8))
    preprocess = Preprocessor(PreprocessSettings(tiny))
    count = 0
    for case in cases():
        small = shrinker(tiny).shrink(case.data)
        if small is case.data:
            continue
        decoded_pixels = preprocess.decode([case.data, small])
        assert decoded_pixels.errors == [None, None], case.name
        count += 1
        if case.name != "wrapped-crlf":  # its data is damaged: noise, which no two sizes have in common
            one, other = decoded_pixels.pixels.astype(int)
            assert np.abs(one - other).mean() < 8, case.name
    assert count > 300, "most are small or broken"


def test_what_is_too_large_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data, progressive = encode(PHOTO), encode(PHOTO, progressive=True)
    assert shrinker(max_pixels=1800 * 1200).shrink(data) is not data
    assert shrinker(max_pixels=1800 * 1200 - 1).shrink(data) is data
    assert shrinker(max_scans=3).shrink(progressive) is progressive
    monkeypatch.setattr(module, "_MOST_DECODE_BYTES", 2**20)
    assert shrinker().shrink(progressive) is progressive


def test_a_photo_that_hardly_gets_smaller_is_sent_as_it_is() -> None:
    for image, quality in ((noise(700, 500), 95), (PHOTO.resize((900, 600)), 90), (PHOTO, 5)):
        data = encode(image, quality=quality)
        assert shrinker().shrink(data) is data


@given(data=st.binary(max_size=200))
def test_any_exif_data_has_an_orientation_or_none(data: bytes) -> None:
    for order in (b"", b"II*\0", b"MM\0*"):
        assert read_orientation(order + data) in range(9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_read_back(orientation: int) -> None:
    exif = orientation_segment(orientation)
    assert read_orientation(exif.removeprefix(EXIF)) == orientation
    read = Image.Exif()
    read.load(exif)
    assert dict(read) == {0x0112: orientation}


def test_arrays_and_images_of_pillow_shrink_before_they_are_encoded() -> None:
    for image in (np.asarray(PHOTO), PHOTO, PHOTO.convert("L")):
        data = read_image(image, shrinker())
        assert isinstance(data, bytes)
        assert decoded(data).size == (768, 512)
        assert read_image(image) != data
    small = PHOTO.resize((300, 200))
    assert read_image(small, shrinker()) == read_image(small)


def config(**parameters: str) -> dict[str, Any]:
    """What Triton says about a model `preprocess`."""
    texts = {"resize_size": "256", "crop_size": "224,224", **parameters}
    return {"name": "preprocess", "parameters": {name: {"string_value": text} for name, text in texts.items()}}


ENSEMBLE = {
    "name": "jpeg_classifier",
    "ensemble_scheduling": {"step": [{"model_name": "preprocess", "output_map": {"PIXELS": "pixels"}}]},
}


def test_a_shrinker_is_read_from_the_config() -> None:
    found = Shrinker.from_config(config(exif_orientation="false", max_pixels="99", from_the_future="yes"))
    assert found == shrinker(exif_orientation=False, max_pixels=99)
    assert Shrinker.from_config({"parameters": _committed_parameters()}) == shrinker()
    for unknown in ({}, config(resize_size="large"), config(interpolation="magic")):
        with pytest.raises(JpegClientError) as raised:
            Shrinker.from_config(unknown)
        assert raised.value.reason == "resize_unknown"


def _committed_parameters() -> dict[str, Any]:
    parameters: dict[str, Any] = config(**PreprocessSettings(PLAIN).to_parameters())["parameters"]
    return parameters


def test_the_sizes_are_read_again_since_a_model_may_get_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], list[str]()
    monkeypatch.setattr("jpeg_client.shrink.time.monotonic", lambda: now[0])
    models: dict[str, Mapping[str, Any]] = {"jpeg_classifier": ENSEMBLE, "preprocess": config()}

    def fetch(model: str) -> Mapping[str, Any]:
        asked.append(model)
        if model not in models:
            raise JpegClientError("gone", reason="server_unavailable")
        return models[model]

    shrinkers = Shrinkers()

    def resize_size() -> object:
        return send_plan(shrinkers.plan("jpeg_classifier"), fetch).geometry.resize_size

    assert [resize_size(), resize_size()] == [256, 256]
    assert asked == ["jpeg_classifier", "preprocess"]
    models["preprocess"] = config(resize_size="440")
    now[0] += 11
    assert resize_size() == 440
    # A request meets what is wrong with the server, and reports it.
    del models["preprocess"]
    now[0] += 11
    assert [resize_size(), resize_size()] == [440, 440]
    with pytest.raises(JpegClientError, match="gone"):
        send_plan(Shrinkers().plan("jpeg_classifier"), fetch)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_pillow_is_required_for_shrinking_only(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    made = kind("http://localhost:1")
    if kind is Client:
        made.close()
    else:
        asyncio.run(made.close())
    with pytest.raises(InvalidArgument, match=r"triton-jpeg-classifier\[images\]") as raised:
        kind("http://localhost:1", shrink=True)
    assert raised.value.reason == "package_missing"
    assert "PIL" in sys.modules  # it is there for the tests
