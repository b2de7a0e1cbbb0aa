"""Target `formats`: any bytes as an image, where the recipe lists every format."""

from __future__ import annotations

import io
import logging
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import Limits, PreprocessSettings
from jpeg_preprocess import Preprocessor
from jpeg_preprocess.formats.opening import OtherDecoders
from PIL import Image
from support import noise

from coverage_fuzz.check import Check, MutateBytes, Target, Violation, require
from coverage_fuzz.decoding import GEOMETRY, Faults, check_refusal

LIMITS = Limits(max_image_bytes=20_000, max_pixels=200_000, max_decode_ms=20, max_decode_mib=8, max_wait_ms=200)
SETTINGS = PreprocessSettings(
    GEOMETRY,
    formats=("jpeg", "png", "webp", "gif", "tiff", "avif", "heic"),
    background=(1, 2, 3),
    limits=LIMITS,
    threads=1,
)
# Of one core. Codecs set up tables and threads for each image, whatever its size; this machine is slow at times.
_CPU_S, _TIMES_THE_ESTIMATE = 0.4, 40
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (0, 1, 2, 4, 8, 16, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)


class FormatsCheck:
    """The rules of the target.

    - Nothing is raised, and no image gets the reason `internal`.
    - A refusal has a reason code of the contract, and a message for clients.
    - An image that is decoded has no more pixels than the limit, and the size that its headers state.
    - It has the same pixels again.
    - Decoding costs no more time of a core than a multiple of the estimate.
    """

    def __init__(self) -> None:
        self._preprocessor = Preprocessor(SETTINGS)
        self._decoders = OtherDecoders(SETTINGS)
        self._faults = Faults()
        logging.getLogger("jpeg_preprocess").addHandler(self._faults)
        logging.getLogger("jpeg_preprocess").propagate = False

    def __call__(self, data: bytes) -> None:
        estimated = self._preprocessor.cost(data).seconds
        begun = time.process_time()
        decoded = self._preprocessor.decode([data])
        spent = time.process_time() - begun
        self._faults.raise_last()
        (error,), pixels = decoded.errors, decoded.pixels[0]
        if spent > _CPU_S + _TIMES_THE_ESTIMATE * estimated:
            raise Violation("decoding takes a multiple of the estimated time")
        if error is not None:
            check_refusal(error)
            require(not pixels.any(), "a refused image has pixels")
            return
        require(estimated > 0, "an image that is decoded costs nothing")
        again = self._preprocessor.decode([data])
        require(again.errors == [None] and np.array_equal(again.pixels[0], pixels), "it has other pixels again")
        self._compare_sizes(data)

    def _compare_sizes(self, data: bytes) -> None:
        name = self._decoders.format_of(data)
        if name is None:
            return
        try:
            width, height = self._decoders.open(data, name).decode().original_size
        except ImageError as error:
            raise Violation("it is refused again") from error
        require(width * height <= LIMITS.max_pixels, "it has more pixels than the limit")


def _make_check(folder: Path) -> Check:
    return FormatsCheck()


def _seeds() -> Iterator[bytes]:
    pillow_heif.register_heif_opener()
    image = noise(32, 24)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        for plugin in ("PNG", "GIF", "WEBP", "TIFF", "AVIF", "HEIF"):
            yield _saved(image.convert(mode), plugin)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield _saved(image, "TIFF", compression=compression)
    yield _saved(image.convert("1"), "TIFF", compression="group4")
    yield _saved(image.convert("CMYK"), "TIFF")
    yield _saved(Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80), "PNG")
    yield _saved(image, "WEBP", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for plugin in ("PNG", "GIF", "WEBP", "TIFF", "AVIF", "HEIF"):
        more = [noise(32, 24, seed) for seed in (1, 2)]
        if plugin != "AVIF":  # a sequence states when it was made
            yield _saved(image, plugin, save_all=True, append_images=more)
        yield _saved(image, plugin, exif=exif)


def _saved(image: Image.Image, plugin: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, plugin, **options)
    return stream.getvalue()


def _mutate(data: bytes, rng: random.Random, mutate_bytes: MutateBytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        # Headers decide more than pixels do.
        at = rng.randrange(len(changed) if rng.random() < 0.3 else min(len(changed), 400))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            width = rng.choice((1, 2, 3, 4))
            number = rng.choice(_NUMBERS) % 256**width
            changed[at : at + width] = number.to_bytes(width, rng.choice(("big", "little")))
        elif kind == 2:
            del changed[at : at + rng.choice((1, 4, 12, 100))]
        elif kind == 3:
            other = rng.randrange(len(changed))
            changed[at:at] = changed[other : other + rng.choice((1, 4, 12, 100))]
        else:
            changed[at] ^= 1 << rng.randrange(8)
        if not changed:
            return b"\0"
    return _with_checksums(bytes(changed))


def _with_checksums(data: bytes) -> bytes:
    """Write the checksums of a PNG's chunks anew: otherwise nothing behind a change is read."""
    if not data.startswith(_PNG):
        return data
    parts, position = [_PNG], len(_PNG)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        parts += [data[position:end], struct.pack(">I", zlib.crc32(data[position + 4 : end]))]
        position = end + 4
    return b"".join([*parts, data[position:]])


# The codecs are C code.
TARGET = Target(_make_check, _seeds, _mutate, LIMITS.max_image_bytes + 100, is_seen=False)
