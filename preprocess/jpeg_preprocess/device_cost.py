"""What decoding JPEGs on a GPU costs, and how a batch is cut into groups that fit into an amount of its memory."""

from __future__ import annotations

from collections.abc import Sequence

from jpeg_preprocess.decode_cost import DecodeCost
from jpeg_preprocess.jpeg_header import PlainJpeg

# What one JPEG engine of an H100 decodes of detailed 4:4:4 images, and how many work on a group at least
# (docs/preprocessing.md has the measurements).
_PIXELS_PER_S, _ENGINES = 0.8e9, 4
# RGB, beside the planes of YCbCr that the engine writes.
_BYTES_PER_PIXEL = 6


def device_cost(header: PlainJpeg, threads: int, limit: int) -> DecodeCost:
    """Estimate what it costs to decode a plain JPEG on a GPU, in the memory of the GPU.

    Args:
        header: Of the image.
        threads: Of the worker that waits for the GPU.
        limit: Of a group, in bytes: what fits is decoded side by side.
    """
    pixels = header.width * header.height
    size = pixels * _BYTES_PER_PIXEL
    side_by_side = max(1, min(_ENGINES, limit // size))
    return DecodeCost(pixels / (_PIXELS_PER_S * side_by_side), size, threads)


def groups(sizes: Sequence[int], limit: int) -> list[range]:
    """Cut a batch into groups of neighbours with a size of at most `limit`; one that is larger is alone.

    Args:
        sizes: Of each image, in bytes.
        limit: Of a group, in bytes.

    Returns:
        The places of the images of each group, in order; none is empty.
    """
    begins, taken = [0], 0
    for place, size in enumerate(sizes):
        if taken + size > limit and place > begins[-1]:
            begins.append(place)
            taken = 0
        taken += size
    return [range(begin, end) for begin, end in zip(begins, [*begins[1:], len(sizes)], strict=True) if end > begin]
