"""What decoding a JPEG costs, estimated from its header, before anything is spent on it.

The number of pixels alone says little: a progressive file of 590 kB keeps a core busy for a second, since each of its
scans goes over all coefficients. The factors were measured with libjpeg-turbo 3 on one core of an AMD EPYC (2.x GHz)
and are those of the slower files of each kind; docs/preprocessing.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jpeg_contract.image_errors import ImageError
from jpeg_contract.jpeg_segments import Structure, read_structure
from jpeg_contract.settings import Limits

_S_PER_BYTE = 12e-9
_S_PER_BYTE_PROGRESSIVE = 45e-9
_S_PER_SAMPLE_AND_SCAN = 0.2e-9
_S_PER_STORED_PIXEL = 0.3e-9
_S_PER_DECODED_PIXEL = 5e-9
# libjpeg keeps 16 bits of each coefficient of a file with several scans; Pillow keeps 4 bytes of a pixel.
_BYTES_PER_COEFFICIENT = 2
_BYTES_PER_PIXEL = 4
# A file without an end marker may be decoded three times (repair.ended).
_DECODED_WITHOUT_END = 3


@dataclass(frozen=True)
class DecodeCost:
    """An estimate.

    Attributes:
        seconds: On one core, or on a GPU.
        memory_bytes: At most at once, without the encoded image.
        threads: How many of a worker's threads it keeps busy: all of them while a GPU decodes.
    """

    seconds: float
    memory_bytes: int
    threads: int = 1

    @property
    def work(self) -> float:
        """Seconds of a worker's threads, all together."""
        return self.seconds * self.threads


MIB = 2**20
NOTHING = DecodeCost(0.0, 0)


def decode_cost(data: bytes, scale: Callable[[int, int], int]) -> DecodeCost:
    """Estimate what it costs to decode an image; what is no JPEG, or is refused for its header, costs nothing.

    Args:
        data: The encoded image.
        scale: Takes width and height in pixels, and returns n: it is decoded at 1/n of them.
    """
    try:
        structure = read_structure(data)
    except ImageError:
        return NOTHING
    return NOTHING if structure is None else estimate(structure, len(data), scale)


def estimate(
    structure: Structure, size: int, scale: Callable[[int, int], int], *, is_turned: bool = False
) -> DecodeCost:
    """Estimate what it costs to decode an image.

    Args:
        structure: Of the image.
        size: Number of its bytes.
        scale: See `decode_cost`.
        is_turned: By its EXIF orientation.
    """
    frame = structure.frame
    stored = frame.width * frame.height
    decoded = stored // scale(frame.width, frame.height) ** 2
    seconds = stored * _S_PER_STORED_PIXEL + decoded * _S_PER_DECODED_PIXEL
    # With four components there are CMYK and RGB at once.
    memory = decoded * _BYTES_PER_PIXEL * (1 + (len(frame.factors) > 3) + is_turned)
    if structure.has_several:
        seconds += size * _S_PER_BYTE_PROGRESSIVE + frame.samples * structure.scans * _S_PER_SAMPLE_AND_SCAN
        memory += frame.samples * _BYTES_PER_COEFFICIENT
    else:
        seconds += size * _S_PER_BYTE
    times = 1 if structure.has_end else _DECODED_WITHOUT_END
    return DecodeCost(seconds * times, memory * times)


def refusal(cost: DecodeCost, limits: Limits) -> ImageError | None:
    """Return why an image is not decoded at all, or None."""
    if cost.seconds * 1000 > limits.max_decode_ms:
        return ImageError(
            "too_much_work",
            f"too much work: decoding takes an estimated {cost.seconds:.1f} s, the limit is "
            f"{limits.max_decode_ms / 1000:.1f} s: send it smaller, or not progressive",
        )
    if cost.memory_bytes > limits.max_decode_mib * MIB:
        return ImageError(
            "too_much_memory",
            f"too much memory: decoding takes {cost.memory_bytes // MIB} MiB, the limit is {limits.max_decode_mib} "
            "MiB: send it smaller, or not progressive",
        )
    return None
