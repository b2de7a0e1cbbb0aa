"""Target `decode`: any bytes as an image, through the whole preprocessing as the model `preprocess` calls it."""

from __future__ import annotations

import base64
import io
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from jpeg_contract.checksum import checksum
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError, Reason
from jpeg_contract.jpeg_segments import START
from jpeg_contract.settings import Decoder, Limits, PreprocessSettings
from jpeg_preprocess import Preprocessed, Preprocessor, Refused, preprocess_requests, resize_and_crop, unwrap
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from coverage_fuzz import jpeg_mutator, jpeg_seeds
from coverage_fuzz.check import Check, Target, Violation, require

Pixels = NDArray[np.uint8]

# Small, so that one input takes about a millisecond, and that inputs beyond each limit are found.
LIMITS = Limits(
    max_image_bytes=40_000,
    max_pixels=400_000,
    max_scans=12,
    max_decode_ms=8,
    max_decode_mib=4,
    max_wait_ms=200,
)
GEOMETRY = Geometry(9, (8, 8))
DECODERS: tuple[Decoder, ...] = ("full", "scaled")
REASONS = frozenset(get_args(Reason)) - {"internal", "not_finite"}
# As clients send JPEGs in JSON.
_TEXTS: tuple[Callable[[bytes], bytes], ...] = (
    base64.b64encode,
    base64.encodebytes,
    lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
    lambda data: b'"data:image/jpeg;base64,' + base64.b64encode(data) + b'"',
)
# Of one core. Python that is instrumented is slow, and so is this machine at times.
_CPU_S, _TIMES_THE_ESTIMATE = 0.4, 40
_NOT_FOR_CLIENTS = re.compile(r"\b0x|/(?!form-data)|Traceback|PIL|object at")


class DecodeCheck:
    """The rules of the target.

    - Nothing is raised, and no image gets the reason `internal`.
    - A refusal has a reason code of the contract, and a message for clients.
    - An image has the same outcome alone and between others, and these have their own pixels.
    - `full` has the pixels that Pillow alone makes of the bytes, if it makes any; `scaled` decodes what `full` does.
    - The base64 of a JPEG, and a data: URL with it, have the outcome of the JPEG.
    - Decoding costs no more time of a core than a multiple of the estimate.
    """

    def __init__(self) -> None:
        self._preprocessors = {
            decoder: Preprocessor(PreprocessSettings(GEOMETRY, decoder=decoder, limits=LIMITS, threads=1))
            for decoder in DECODERS
        }
        self._neighbours = jpeg_seeds.neighbours()
        self._pixels: dict[Decoder, Pixels] = {}
        for decoder, preprocessor in self._preprocessors.items():
            decoded = preprocessor.decode(self._neighbours)
            assert decoded.errors == [None] * len(self._neighbours)
            self._pixels[decoder] = decoded.pixels
        self._faults = Faults()
        logging.getLogger("jpeg_preprocess").addHandler(self._faults)
        logging.getLogger("jpeg_preprocess").propagate = False

    def __call__(self, data: bytes) -> None:
        full = self._decode(data, "full")
        self._compare_as_text(data, full)
        scaled = self._decode(data, "scaled")
        if isinstance(full, ImageError):
            return
        require(not isinstance(scaled, ImageError), f"scaled refuses what full decodes: {scaled}")
        image = unwrap(data, LIMITS)
        assert isinstance(image, bytes), "what is decoded is no error"
        _compare_with_pillow(image, full)

    def _compare_as_text(self, data: bytes, full: Pixels | ImageError) -> None:
        """Compare with the outcome as base64, in the form that the data chooses."""
        if not data.startswith(START):
            return
        form = _TEXTS[checksum(data) % len(_TEXTS)]
        decoded = self._preprocessors["full"].decode([unwrap(form(data), LIMITS)])
        (error,), pixels = decoded.errors, decoded.pixels[0]
        self._faults.raise_last()
        if isinstance(full, ImageError):
            require(error is not None and error.reason == full.reason, f"as text, {full.reason} is {error}")
        else:
            require(error is None and np.array_equal(pixels, full), f"as text it has other pixels: {error}")

    def _decode(self, data: bytes, decoder: Decoder) -> Pixels | ImageError:
        """Decode alone and with others, compare both, and return the pixels or the refusal."""
        preprocessor = self._preprocessors[decoder]
        image = unwrap(data, LIMITS)
        estimated = preprocessor.cost(image).seconds
        begun = time.thread_time()
        decoded = preprocessor.decode([image])
        spent = time.thread_time() - begun
        self._faults.raise_last()
        (error,), pixels = decoded.errors, decoded.pixels[0]
        if spent > _CPU_S + _TIMES_THE_ESTIMATE * estimated:
            raise Violation(f"{decoder} takes a multiple of the estimated time")
        if error is not None:
            check_refusal(error)
            require(not pixels.any(), "a refused image has pixels")
        # One decoder for each input, since it takes most of the time.
        if decoder == DECODERS[checksum(data) % len(DECODERS)]:
            self._compare_in_batch(preprocessor, data, decoder, error, pixels)
        return pixels if error is None else error

    def _compare_in_batch(
        self, preprocessor: Preprocessor, data: bytes, decoder: Decoder, error: ImageError | None, pixels: Pixels
    ) -> None:
        first, second = self._neighbours
        requests: list[list[bytes] | Refused] = [[data], [first, data, second]]
        alone, mixed = preprocess_requests(preprocessor, requests, lambda: True).outcomes
        self._faults.raise_last()
        assert isinstance(mixed, Preprocessed), f"the request with good images is refused: {mixed}"
        others = mixed.pixels[[0, 2]]
        require(np.array_equal(others, self._pixels[decoder]), "another image of the request has other pixels")
        require(np.array_equal(mixed.pixels[1], pixels), "the image has other pixels between others")
        stated = b"" if error is None else error.with_code().encode()
        require(mixed.errors.tolist() == [[b""], [stated], [b""]], "the errors of the request")
        if error is None:
            assert isinstance(alone, Preprocessed), f"the request with one image is refused: {alone}"
            require(np.array_equal(alone.pixels[0], pixels), "the image has other pixels alone")
        else:
            refused = isinstance(alone, Refused) and (alone.status, alone.reason)
            require(refused == ("INVALID_ARG", "no_usable_image"), f"a refused image is not a client's error: {alone}")


def check_refusal(error: ImageError) -> None:
    message = str(error)
    require(error.reason in REASONS, f"the reason code is {error.reason}: {message}")
    require(0 < len(message) < 200 and message.isprintable(), "the message is empty, long or not printable")
    require(not _NOT_FOR_CLIENTS.search(message), f"the message is not for clients: {message}")


def _compare_with_pillow(data: bytes, pixels: Pixels) -> None:
    """Compare with the pixels of Pillow alone; what it does not open, the repair may have decoded."""
    try:
        image: Image.Image = JpegImageFile(io.BytesIO(data))
        # Pillow looks for an orientation in XMP, too, and at EXIF data that it can only read in part.
        if "exif" in image.info or "xmp" in image.info:
            return
        image = image.convert("RGB")
    except Exception:
        return
    require(np.array_equal(resize_and_crop(GEOMETRY, image), pixels), "full has other pixels than Pillow")


class Faults(logging.Handler):
    """Keeps the exception that the preprocessing logs where it answers `internal`."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._last: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._last = record.exc_info[1] if record.exc_info else Violation(record.getMessage())

    def raise_last(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            raise Violation(f"internal: {type(last).__name__}") from last


def _make_check(folder: Path) -> Check:
    return DecodeCheck()


def _seeds() -> Iterator[bytes]:
    yield from jpeg_seeds.images(LIMITS.max_image_bytes)


TARGET = Target(_make_check, _seeds, jpeg_mutator.mutate, LIMITS.max_image_bytes + 100)
