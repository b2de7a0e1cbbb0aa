"""A batch of images to one array of pixels, decoded in parallel."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jpeg_contract.allocator import give_large_blocks_back
from jpeg_contract.cpus import usable_cpus
from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import DEFAULT_FORMATS, PreprocessSettings
from numpy.typing import NDArray

from jpeg_preprocess.admission import DecodeLater, MemoryBudget, RequestTooLong, admit
from jpeg_preprocess.base64_text import Unwrapped, unwrap
from jpeg_preprocess.decode import OpenedJpeg, open_jpeg, scale
from jpeg_preprocess.decode_cost import MIB, NOTHING, DecodeCost, decode_cost, refusal
from jpeg_preprocess.pixel_memory import PixelMemory
from jpeg_preprocess.resize import resize_and_crop

if TYPE_CHECKING:
    from jpeg_preprocess.formats.opening import OpenedPicture, OtherDecoders

log = logging.getLogger(__name__)

# A thread that helps costs some 40 us, and both wait for the interpreter's lock: not for less than 0.4 ms of decoding.
_BYTES_PER_THREAD = 2**15


@dataclass(frozen=True)
class Decoded:
    """A batch of N images.

    pixels: NHWC uint8, RGB, [0, 255]. errors: for each image None, or why it could not be decoded; its pixels are then
    all zero. seconds: how long each image took, by the clock on the wall.
    """

    pixels: NDArray[np.uint8]
    errors: list[ImageError | None]
    seconds: list[float]


class Preprocessor:
    """Decodes, resizes and crops batches of images with a pool of threads that lives as long as it does.

    Threads and not processes: Pillow gives up the interpreter's lock while it decodes and resizes.

    Attributes:
        settings: As given.
        threads: Number of images that are decoded at once.

    Raises:
        SettingsError: A decoder of a format is not installed.
    """

    def __init__(self, settings: PreprocessSettings) -> None:
        self.settings = settings
        self.threads = settings.threads or usable_cpus()
        self._others = _other_decoders(settings)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="jpeg-decode")
        give_large_blocks_back()
        self._pixels = PixelMemory()
        self._memory = MemoryBudget(settings.limits.max_decode_mib * MIB)

    def __call__(self, images: Sequence[bytes]) -> tuple[NDArray[np.uint8], list[ImageError | None]]:
        """Decode `images`, whatever their sizes, to the pixels and errors of `Decoded`. Never raises for an image."""
        settings = self.settings
        decoded = self.decode([unwrap(image, settings.limits, settings.formats) for image in images])
        return decoded.pixels, decoded.errors

    def admit(
        self, requests: Sequence[Sequence[Unwrapped]], may_be_large: Callable[[], bool]
    ) -> list[RequestTooLong | DecodeLater | None]:
        """Choose the requests of a batch that are decoded now: see `admission.admit`."""
        costs = [[self.cost(data) for data in images] for images in requests]
        return admit(costs, self.settings.limits, self.threads, may_be_large)

    def cost(self, data: Unwrapped) -> DecodeCost:
        """Estimate what it costs to decode an image: nothing, if it is refused before."""
        if isinstance(data, ImageError):
            return NOTHING
        settings = self.settings
        if self._others is not None and (name := self._others.format_of(data)) is not None:
            return self._others.cost(data, name)
        cost = decode_cost(data, self._least_scale)
        return cost if refusal(cost, settings.limits) is None else NOTHING

    def _least_scale(self, width: int, height: int) -> int:
        """Return the n of `scale` for an image that is stored in this size, upright or on its side."""
        geometry, decoder = self.settings.geometry, self.settings.decoder
        return min(scale(geometry, decoder, width, height), scale(geometry, decoder, height, width))

    def decode(self, images: Sequence[Unwrapped]) -> Decoded:
        """Decode `images`, whatever their sizes, and say how long each took. Never raises for an image.

        An image that is an error already keeps it.
        """
        height, width = self.settings.geometry.crop_size
        pixels = self._pixels.take((len(images), height, width, 3))
        seconds = [0.0] * len(images)
        errors: list[ImageError | None] = [None] * len(images)
        # All threads take from it; the interpreter's lock makes each step one.
        places = iter(range(len(images)))

        def fill() -> None:
            for place in places:
                begun = time.perf_counter()
                errors[place] = self._decode_into(pixels[place], images[place])
                if errors[place] is not None:
                    pixels[place] = 0  # not those of an image of another batch
                seconds[place] = time.perf_counter() - begun

        helpers = [self._pool.submit(fill) for _ in range(self._helpers(images))]
        fill()
        for helper in helpers:
            helper.result()
        return Decoded(pixels, errors, seconds)

    def for_requests(self, pixels: NDArray[np.uint8], sizes: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the pixels of each request.

        Args:
            pixels: Of `decode`.
            sizes: Images of each request, in order; together all of them.
        """
        ends = itertools.accumulate(sizes)
        return [pixels[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def close(self) -> None:
        """Wait for what is being decoded, and end the threads."""
        self._pool.shutdown()

    def _helpers(self, images: Sequence[Unwrapped]) -> int:
        """Return how many threads help the calling one with a batch."""
        size = sum(len(data) for data in images if isinstance(data, bytes))
        return max(0, min(self.threads, len(images), size // _BYTES_PER_THREAD) - 1)

    def _decode_into(self, pixels: NDArray[np.uint8], data: Unwrapped) -> ImageError | None:
        if isinstance(data, ImageError):
            return data
        settings = self.settings
        try:
            opened = self._open(data)
            with self._memory.taken(opened.cost.memory_bytes):
                decoded = opened.decode()
                pixels[:] = resize_and_crop(settings.geometry, decoded.image, decoded.original_size, decoded.from_end)
                del opened, decoded  # before others take the memory
        except ImageError as error:
            return error
        except Exception:
            # A fault of ours or a lack of memory must not cost the other images of the batch their answers.
            log.exception("an image of %d bytes could not be decoded", len(data))
            return ImageError("internal", "the image could not be decoded; the server's log says why")
        return None

    def _open(self, data: bytes) -> OpenedJpeg | OpenedPicture:
        settings = self.settings
        if self._others is not None and (name := self._others.format_of(data)) is not None:
            return self._others.open(data, name)
        return open_jpeg(
            data,
            geometry=settings.geometry,
            decoder=settings.decoder,
            limits=settings.limits,
            exif_orientation=settings.exif_orientation,
            formats=settings.formats,
        )


def _other_decoders(settings: PreprocessSettings) -> OtherDecoders | None:
    """Return the decoders of the formats beside JPEG; None if there are none. Raises SettingsError."""
    if settings.formats == DEFAULT_FORMATS:
        return None
    from jpeg_preprocess.formats.opening import OtherDecoders

    return OtherDecoders(settings)
