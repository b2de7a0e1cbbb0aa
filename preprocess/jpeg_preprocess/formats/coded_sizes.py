"""What a bit stream of AV1 or HEVC states about its pictures, whatever the file around it states.

A decoder reserves memory for the size in the bit stream, before anybody compares it with that of the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from jpeg_contract.settings import ImageFormat

from jpeg_preprocess.formats.bits import Bits
from jpeg_preprocess.formats.picture import MOST_PARTS, corrupt, too_many_parts, unsupported

# Open bitstream units (AV1 bitstream specification, 6.2.2) and NAL units (ITU-T H.265, table 7-1).
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_LAST_SLICE, _SPS, _PARAMETER_SETS = 31, 33, (32, 33, 34)
# Of a header; both need far less.
_HEADER_BYTES = 256
_HVCC_BYTES = 23


def av1_pixels(stream: bytes) -> tuple[int, int]:
    """Return the pixels of the largest sequence header of an AV1 stream, and its number of frames. Raises ImageError.

    Both are 0 if there are none.
    """
    pixels = frames = 0
    for kind, body in _units(stream):
        if kind == _SEQUENCE_HEADER:
            pixels = max(pixels, _av1_sequence_pixels(Bits(body[:_HEADER_BYTES])))
        frames += kind in (_FRAME_HEADER, _FRAME)
    return pixels, frames


def _units(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the first bytes of each unit."""
    position = 0
    for _ in range(MOST_PARTS):
        if position >= len(stream):
            return
        head = stream[position]
        position += 1 + (head >> 2 & 1)
        size, shift = len(stream) - position, 0
        if head & 2:
            size = 0
            while True:
                if position >= len(stream) or shift > 56:
                    raise corrupt("avif")
                byte = stream[position]
                position += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    break
        yield head >> 3 & 15, stream[position : position + min(size, _HEADER_BYTES)]
        position += size
    raise too_many_parts()


def _av1_sequence_pixels(bits: Bits) -> int:
    """Read a sequence header up to the largest frame (AV1 bitstream specification, 5.5.1)."""
    bits.take(4)  # seq_profile, still_picture
    if bits.take(1):  # reduced_still_picture_header
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return (bits.take(width_bits) + 1) * (bits.take(height_bits) + 1)


def _skip_operating_points(bits: Bits) -> None:
    has_decoder_model, delay_bits = 0, 0
    if bits.take(1):  # timing_info_present_flag
        bits.take(64)
        if bits.take(1):
            bits.exponential()
        if has_decoder_model := bits.take(1):
            delay_bits = bits.take(5) + 1
            bits.take(42)
    has_display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if has_decoder_model and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_display_delay and bits.take(1):
            bits.take(4)


def hevc_pixels(configuration: bytes) -> tuple[int, int]:
    """Read an `hvcC` box (ISO/IEC 14496-15).

    Returns:
        The pixels of the largest sequence parameter set, twice as many if they have more than 8 bits, 0 if there is
        none; and the bytes of the lengths in front of the units of a picture.

    Raises:
        ImageError: It is cut short.
    """
    if len(configuration) < _HVCC_BYTES:
        raise corrupt("heic")
    pixels, position = 0, _HVCC_BYTES
    for _ in range(configuration[22]):
        count = int.from_bytes(configuration[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            size = int.from_bytes(configuration[position : position + 2], "big")
            unit = configuration[position + 2 : position + 2 + min(size, _HEADER_BYTES)]
            position += 2 + size
            if position > len(configuration):
                raise corrupt("heic")
            # The unit itself decides what it is, not the array that it stands in.
            if unit and unit[0] >> 1 & 63 == _SPS:
                pixels = max(pixels, _hevc_sequence_pixels(unit))
    return pixels, (configuration[21] & 3) + 1


def _hevc_sequence_pixels(unit: bytes) -> int:
    """Read a sequence parameter set up to its size and bits (ITU-T H.265, 7.3.2.2)."""
    bits = Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)  # profile, tier, level
    present = [bits.take(2) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for each in present:
        bits.take(88 * (each >> 1) + 8 * (each & 1))
    bits.exponential()
    if bits.exponential() == 3:  # chroma_format_idc
        bits.take(1)
    pixels = bits.exponential() * bits.exponential()
    if bits.take(1):  # conformance_window_flag
        for _ in range(4):
            bits.exponential()
    is_deep = bits.exponential() > 0 or bits.exponential() > 0
    return pixels * (1 + is_deep)


def hevc_frames(stream: bytes, length_bytes: int) -> int:
    """Return the number of pictures in the data of an item. Raises ImageError for one that states its own size."""
    name: ImageFormat = "heic"
    frames = position = 0
    for _ in range(MOST_PARTS):
        if position + length_bytes >= len(stream):
            return frames
        size = int.from_bytes(stream[position : position + length_bytes], "big")
        position += length_bytes
        kind = stream[position] >> 1 & 63
        if kind in _PARAMETER_SETS:
            raise unsupported(name, "its parameters are inside of the picture's data")
        # first_slice_segment_in_pic_flag
        frames += kind <= _LAST_SLICE and stream[position + 2 : position + 3] >= b"\x80"
        position += size
    raise too_many_parts()
