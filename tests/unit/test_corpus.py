"""Odd and broken files: each is decoded to the pixels that Pillow makes of it, or refused with a reason."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping

import pytest
from corpus.generated import ALL, BROKEN, NOT_JPEG, TRUNCATED, UNSUPPORTED, Case, cases
from corpus.public import libjpeg_turbo_images, pillow_images
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError, Reason
from jpeg_contract.settings import Decoder, Limits
from jpeg_preprocess.base64_text import unwrap
from jpeg_preprocess.decode import open_jpeg
from jpeg_preprocess.decoded import DecodedImage
from PIL import Image, ImageOps

pytestmark = [
    # Pillow's own, about EXIF data, MPO directories and many pixels.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

# So little that `scaled` decodes the generated images at less than their size, too.
GEOMETRY = Geometry(8, (8, 8))
DECODERS: tuple[Decoder, ...] = ("full", "scaled")
# Of one image, on a busy machine.
SECONDS = 20
# Of an image that may be decoded: a header that states a large size may also make it too expensive.
EITHER: frozenset[Reason] = BROKEN | {"too_much_work", "too_much_memory"}


def pixels(data: bytes, decoder: Decoder, geometry: Geometry = GEOMETRY) -> DecodedImage | ImageError:
    """Decode; any other exception than ImageError fails the test, and so does a message that is not for a client."""
    begin = time.monotonic()
    found: DecodedImage | ImageError
    try:
        unwrapped = unwrap(data, Limits())
        if isinstance(unwrapped, ImageError):
            raise unwrapped
        found = open_jpeg(
            unwrapped, geometry=geometry, decoder=decoder, limits=Limits(), exif_orientation=True
        ).decode()
    except ImageError as error:
        found = error
    assert time.monotonic() - begin < SECONDS
    if isinstance(found, ImageError):
        message = str(found)
        assert message
        assert len(message) < 200
        assert message.isprintable()
        assert not re.search(r"\b0x|/(?!form-data)|Traceback|PIL|object at", message), message
        assert found.reason in ALL
    else:
        assert found.image.mode == "RGB"
        if decoder == "full":
            assert found.image.size == found.original_size
        else:
            # Rounded up, as libjpeg does.
            assert all(0 < size <= full for size, full in zip(found.image.size, found.original_size, strict=True))
    return found


def of_pillow(data: bytes) -> Image.Image | None:
    """Decode with Pillow alone, upright; None if it does not."""
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG", "MPO"])
        image.load()
        return ImageOps.exif_transpose(image.convert("RGB"))
    except Exception:
        return None


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_generated(case: Case, decoder: Decoder) -> None:
    found = pixels(case.data, decoder)
    fault = fault_of(case, found, decoder)
    assert not fault, fault


def fault_of(case: Case, found: DecodedImage | ImageError, decoder: Decoder) -> str | None:
    """Return what is wrong with the answer for a case."""
    if isinstance(found, ImageError):
        allowed = EITHER if case.expected == "either" else case.expected
        return None if found.reason in allowed and case.hint in str(found) else f"{found.reason}: {found}"
    if case.reference is not None and case.expected != "decodes":
        wanted = pixels(case.reference, decoder)
        assert isinstance(wanted, DecodedImage)
        if (found.original_size, found.image.tobytes()) != (wanted.original_size, wanted.image.tobytes()):
            return "has other pixels than its reference"
    elif isinstance(case.expected, frozenset):
        return "is decoded"
    return differs_from_pillow(case.data, found) if decoder == "full" else None


def differs_from_pillow(data: bytes, found: DecodedImage) -> str | None:
    """Return how the pixels differ from those that Pillow alone decodes; None if they do not or Pillow decodes none."""
    by_pillow = of_pillow(data)
    if by_pillow is None or (by_pillow.size, by_pillow.tobytes()) == (found.image.size, found.image.tobytes()):
        return None
    return f"has other pixels than in Pillow, of {found.image.size}; Pillow has {by_pillow.size}"


def wrong(images: Mapping[str, bytes], decoder: Decoder, refused: Mapping[str, frozenset[Reason]]) -> dict[str, str]:
    """Return what is wrong with the answers for these images.

    Args:
        refused: Which ones are refused, and the reasons allowed; files that do not begin as a JPEG are refused anyhow.
    """
    found = {}
    for name, data in images.items():
        answer = pixels(data, decoder, Geometry(64, (64, 64)))
        is_jpeg = data.startswith(b"\xff\xd8\xff")
        allowed = refused.get(name, frozenset() if is_jpeg else NOT_JPEG if data else frozenset({"empty"}))
        if isinstance(answer, ImageError):
            if answer.reason not in allowed:
                found[name] = f"{answer.reason}: {answer}"
        elif allowed:
            found[name] = "is decoded"
        elif decoder == "full" and (difference := differs_from_pillow(data, answer)):
            found[name] = difference
    return found


@pytest.mark.parametrize("decoder", DECODERS)
def test_images_of_pillows_tests(decoder: Decoder) -> None:
    images = pillow_images()
    assert sum(data.startswith(b"\xff\xd8\xff") for data in images.values()) > 50
    assert not wrong(images, decoder, {"ultrahdr.jpg": TRUNCATED})


@pytest.mark.parametrize("decoder", DECODERS)
def test_images_of_libjpeg_turbos_tests(decoder: Decoder) -> None:
    images = libjpeg_turbo_images()
    assert not wrong(images, decoder, {"testorig12.jpg": UNSUPPORTED, "testimgari.jpg": UNSUPPORTED})
