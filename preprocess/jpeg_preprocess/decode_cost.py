"""What decoding a JPEG costs, estimated from its header, before anything is spent on it.

The number of pixels alone says little: a progressive file of 590 kB keeps a core busy for a second, since each of its
scans goes over all coefficients. The factors were measured with libjpeg-turbo 3 on one core of an AMD EPYC (2.x GHz)
and are those of the slower files of each kind; docs/preprocessing.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import Limits

from jpeg_preprocess.jpeg_segments import END_OF_IMAGE, START_OF_SCAN, has_several_scans, read_headers, segments

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
        seconds: On one core.
        memory_bytes: At most at once, without the encoded image.
    """

    seconds: float
    memory_bytes: int


_END = bytes((0xFF, END_OF_IMAGE))
_NEAR_THE_END = 4096

MIB = 2**20
NOTHING = DecodeCost(0.0, 0)


def decode_cost(data: bytes, scale: Callable[[int, int], int], *, is_turned: bool = False) -> DecodeCost:
    """Estimate what it costs to decode an image; what is no JPEG costs nothing.

    Args:
        data: The encoded image.
        scale: Takes width and height in pixels, and returns n: it is decoded at 1/n of them.
        is_turned: By its EXIF orientation.
    """
    frame, first_scan = read_headers(data)
    if frame is None or first_scan is None:
        return NOTHING
    several = has_several_scans(frame, first_scan)
    scans, has_end = _walk(data) if several or not _has_end(data) else (1, True)
    stored = frame.width * frame.height
    decoded = stored // scale(frame.width, frame.height) ** 2
    seconds = stored * _S_PER_STORED_PIXEL + decoded * _S_PER_DECODED_PIXEL
    # With four components there are CMYK and RGB at once.
    memory = decoded * _BYTES_PER_PIXEL * (1 + (len(frame.factors) > 3) + is_turned)
    if several:
        seconds += len(data) * _S_PER_BYTE_PROGRESSIVE + frame.samples * scans * _S_PER_SAMPLE_AND_SCAN
        memory += frame.samples * _BYTES_PER_COEFFICIENT
    else:
        seconds += len(data) * _S_PER_BYTE
    times = 1 if has_end else _DECODED_WITHOUT_END
    return DecodeCost(seconds * times, memory * times)


def is_allowed(cost: DecodeCost, limits: Limits) -> bool:
    """Whether an image is decoded at all."""
    return cost.seconds * 1000 <= limits.max_decode_ms and cost.memory_bytes <= limits.max_decode_mib * MIB


def check(cost: DecodeCost, limits: Limits) -> None:
    """Refuse an image that costs too much. Raises ImageError."""
    if cost.seconds * 1000 > limits.max_decode_ms:
        raise ImageError(
            "too_much_work",
            f"too much work: decoding takes an estimated {cost.seconds:.1f} s, the limit is "
            f"{limits.max_decode_ms / 1000:.1f} s: send it smaller, or not progressive",
        )
    if cost.memory_bytes > limits.max_decode_mib * MIB:
        raise ImageError(
            "too_much_memory",
            f"too much memory: decoding takes {cost.memory_bytes // MIB} MiB, the limit is {limits.max_decode_mib} "
            "MiB: send it smaller, or not progressive",
        )


def _has_end(data: bytes) -> bool:
    # Where it nearly always is, since looking through all of the data takes a tenth of the time of decoding it.
    return data.find(_END, len(data) - _NEAR_THE_END) >= 0


def _walk(data: bytes) -> tuple[int, bool]:
    """Return the number of scans, and whether the image has an end marker."""
    scans, marker = 0, 0
    for segment in segments(data):
        marker = segment.marker
        scans += marker == START_OF_SCAN
    return scans, marker == END_OF_IMAGE
