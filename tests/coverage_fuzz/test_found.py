"""What the fuzzer and its rules have found, fact by fact; `regressions/` has the inputs themselves."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest
from corpus.encoders import segment
from corpus.generated import exif_block
from corpus.surgery import SOF, all_parts, find, insert, patched, with_frame, without
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError
from jpeg_contract.jpeg_segments import MOST_BYTES_BETWEEN, MOST_SEGMENTS, header_segments, read_structure
from jpeg_contract.settings import Limits, PreprocessSettings
from jpeg_preprocess import Preprocessor
from jpeg_preprocess.decode import open_jpeg
from jpeg_preprocess.decode_cost import NOTHING
from jpeg_preprocess.jpeg_header import read_plain
from jpeg_preprocess.repair import without_endless_exif
from support import encode, noise

GOOD = encode(noise(40, 24))
GEOMETRY = Geometry(8, (8, 8))
# Before, the first of them took 31 s of a core, with the interpreter's lock.
SECONDS = 3.0


def reason(data: bytes) -> str | None:
    """Decode, and return the reason code of a refusal."""
    try:
        open_jpeg(data, geometry=GEOMETRY, decoder="full", limits=Limits(), exif_orientation=True).decode()
    except ImageError as error:
        return error.reason
    return None


def flood(piece: bytes, *, at: int = 2) -> bytes:
    """Return an image with so much of a piece inside that it has nearly as many bytes as an image may have."""
    return insert(GOOD, piece * ((Limits().max_image_bytes - len(GOOD)) // len(piece)), at=at)


@pytest.mark.parametrize(
    ("piece", "at"),
    [
        pytest.param(b"\xff\xd8", 2, id="start markers"),
        pytest.param(b"\xff\x01", 2, id="TEM markers"),
        pytest.param(segment(0xFE, b""), 2, id="empty comments"),
        pytest.param(segment(0xC4, b""), 2, id="empty Huffman tables"),
        pytest.param(segment(0xE1, b"Exif\0\0"), 2, id="empty EXIF"),
        pytest.param(segment(0xE1, b"Exif\0\0" + exif_block("<", 1)), 2, id="EXIF"),
        pytest.param(b"\xff", 2, id="fill bytes"),
        pytest.param(b"\xff\0", 20, id="bytes outside of segments"),
        pytest.param(b"\xff\x01", len(GOOD) - 2, id="TEM markers behind the scan"),
        pytest.param(segment(0xFE, b""), len(GOOD), id="empty comments behind the end"),
    ],
)
def test_a_flood_of_segments_is_refused_or_decoded_soon(piece, at):
    data = flood(piece, at=at)
    preprocessor = Preprocessor(PreprocessSettings(GEOMETRY, threads=1))
    begun = time.thread_time()
    preprocessor.cost(data)
    read_plain(data)
    found = reason(data)
    assert time.thread_time() - begun < SECONDS
    assert found in ("too_much_work", None)


def test_no_request_waits_for_the_estimate_of_a_flood():
    preprocessor = Preprocessor(PreprocessSettings(GEOMETRY, threads=1))
    assert preprocessor.admit([[flood(b"\xff\x01")], [GOOD]], lambda: True) == [None, None]
    assert preprocessor.cost(flood(b"\xff\x01")) == NOTHING


def test_scans_behind_too_many_segments_are_not_hidden():
    scans = find(GOOD, 0xDA)
    first = with_frame(GOOD, lambda header: header.__setitem__(1, 0xC2))[:-2]
    hidden = first + segment(0xFE, b"") * MOST_SEGMENTS + GOOD[scans.start : scans.end] * 100 + b"\xff\xd9"
    assert reason(hidden) == "too_much_work"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(insert(GOOD, segment(0xFE, b"") * (MOST_SEGMENTS - 20)), None, id="many segments"),
        pytest.param(insert(GOOD, segment(0xFE, b"") * MOST_SEGMENTS), "too_much_work", id="too many segments"),
        pytest.param(insert(GOOD, b"\xff" * MOST_BYTES_BETWEEN), None, id="many fill bytes"),
        pytest.param(insert(GOOD, b"\xff" * (MOST_BYTES_BETWEEN + 1)), "too_much_work", id="too many fill bytes"),
    ],
)
def test_only_floods_are_refused(data, expected):
    assert reason(data) == expected


def test_a_second_frame_does_not_replace_the_size_of_the_first():
    frame = find(GOOD, SOF)
    large = bytearray(GOOD[frame.start : frame.end])
    large[5:9] = struct.pack(">HH", 9000, 9000)
    assert reason(insert(GOOD, bytes(large), at=frame.end)) == "corrupt"
    # Before the decoder has memory for it: the limit would allow 9000 x 9000 of the second frame.
    with pytest.raises(ImageError):
        open_jpeg(
            insert(GOOD, bytes(large), at=frame.end),
            geometry=GEOMETRY,
            decoder="full",
            limits=Limits(max_decode_mib=1),
            exif_orientation=True,
        )


def test_an_end_marker_inside_of_a_thumbnail_is_not_the_end_of_the_image():
    cut = insert(GOOD, segment(0xE2, b"FPXR\0" + GOOD))[:-2]
    structure = read_structure(cut)
    assert structure is not None
    assert not structure.has_end


def endless_exif(entries: int, size: int) -> bytes:
    """Return EXIF data whose entries all have the same value of this size."""
    directory = b"".join(struct.pack("<HHII", 0x9000 + number, 7, size, 8) for number in range(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + directory + bytes(4 + size)


def in_segments(exif: bytes) -> bytes:
    """Return the image with EXIF data in as many segments as that needs, and without what states its resolution."""
    pieces = (exif[at : at + 60_000] for at in range(0, len(exif), 60_000))
    return insert(without(GOOD, 0xE0), *(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces))


@pytest.mark.parametrize(("entries", "size"), [(3000, 20_000), (300, 200_000), (5, 3_000_000)])
def test_exif_values_that_share_their_bytes_cost_no_memory(entries, size):
    data = in_segments(endless_exif(entries, size))
    assert without_endless_exif(data, header_segments(data)) == without(GOOD, 0xE0)
    tracemalloc.start()
    try:
        assert reason(data) is None
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data) + 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("marker", [0xC8, 0xF0, 0xFD])
def test_exif_segments_inside_of_others_are_not_hidden(marker):
    # Pillow looks for segments inside of these.
    pieces = in_segments(endless_exif(300, 200_000))[2 : -len(without(GOOD, 0xE0)) + 2]
    hidden = b"".join(segment(marker, pieces[at : at + 60_014]) for at in range(0, len(pieces), 60_014))
    tracemalloc.start()
    try:
        assert reason(insert(without(GOOD, 0xE0), hidden)) == "corrupt"
        assert tracemalloc.get_traced_memory()[1] < 3 * len(hidden) + 2**20
    finally:
        tracemalloc.stop()


def test_many_exif_segments_are_removed_soon():
    pieces = segment(0xE1, b"Exif\0\0" + endless_exif(900, 30_000)) + segment(0xE1, b"Exif\0\0") * (MOST_SEGMENTS - 50)
    begun = time.thread_time()
    assert reason(insert(without(GOOD, 0xE0), pieces)) is None
    assert time.thread_time() - begun < SECONDS


def test_exif_data_of_several_segments_with_values_of_their_own_stays():
    data = in_segments(endless_exif(1, 200_000))
    assert without_endless_exif(data, header_segments(data)) is data
    turned = insert(GOOD, segment(0xE1, b"Exif\0\0" + exif_block(">", 6, first=4000)))
    assert without_endless_exif(turned, header_segments(turned)) is turned


def test_two_exif_segments_are_left_to_the_decoder():
    turned = insert(GOOD, *(segment(0xE1, b"Exif\0\0" + exif_block("<", value)) for value in (6, 3)))
    assert read_plain(turned) is None


@pytest.mark.parametrize("marker", [0x01, 0xD0, 0xD7, 0xD8])
def test_a_marker_without_a_length_does_not_hide_what_follows_it(marker):
    # Its "length" would lead to a second frame, behind the one that a decoder reads.
    frame = find(GOOD, SOF)
    other = patched(GOOD[frame.start : frame.end], 5, struct.pack(">HH", 16, 16))
    hidden = insert(GOOD, bytes((0xFF, marker)), segment(0xFE, b"\xff" * 8), other, at=frame.start)
    assert read_plain(hidden) is None


@pytest.mark.parametrize("marker", [0xC0, 0xDA])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_header_of_the_wrong_length_is_left_to_the_decoder(marker, change):
    part = next(part for part in all_parts(GOOD) if part.marker == marker)
    length = part.end - part.start - 2 + change
    assert read_plain(GOOD) is not None
    assert read_plain(patched(GOOD, part.start + 2, struct.pack(">H", length))) is None
