"""A batch of JPEGs to one array of pixels, decoded in parallel."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from jpeg_preprocess.decode import decode
from jpeg_preprocess.errors import ImageError
from jpeg_preprocess.settings import PreprocessSettings

log = logging.getLogger(__name__)


class Preprocessor:
    """Decodes, resizes and crops batches of JPEGs with a pool of threads that lives as long as it does.

    Threads and not processes: Pillow gives up the interpreter's lock while it decodes and resizes.
    """

    def __init__(self, settings: PreprocessSettings) -> None:
        self.settings = settings
        self._pool = ThreadPoolExecutor(
            settings.threads or len(os.sched_getaffinity(0)), thread_name_prefix="jpeg-decode"
        )

    def __call__(self, images: Sequence[bytes]) -> tuple[NDArray[np.uint8], list[ImageError | None]]:
        """Decode `images`, whatever their sizes.

        Returns (pixels, errors): pixels is NHWC uint8, RGB, [0, 255], N = len(images); errors[i] is None or
        says why image i could not be decoded, and pixels[i] is then all zero. Never raises for an image.
        """
        height, width = self.settings.geometry.crop_size
        pixels = np.zeros((len(images), height, width, 3), np.uint8)

        def fill(index: int) -> ImageError | None:
            return self._decode_into(pixels[index], images[index])

        if len(images) == 1:
            return pixels, [fill(0)]
        return pixels, list(self._pool.map(fill, range(len(images))))

    def close(self) -> None:
        """Wait for what is being decoded, and end the threads."""
        self._pool.shutdown()

    def _decode_into(self, pixels: NDArray[np.uint8], data: bytes) -> ImageError | None:
        settings = self.settings
        try:
            decoded = decode(
                data,
                geometry=settings.geometry,
                decoder=settings.decoder,
                limits=settings.limits,
                exif_orientation=settings.exif_orientation,
            )
            pixels[:] = settings.geometry.apply(decoded.image, decoded.original_size)
        except ImageError as error:
            return error
        except Exception:
            # A fault of ours or a lack of memory must not cost the other images of the batch their answers.
            log.exception("an image of %d bytes could not be decoded", len(data))
            return ImageError("internal", "the image could not be decoded; the server's log says why")
        return None
