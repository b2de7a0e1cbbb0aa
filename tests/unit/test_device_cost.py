"""What decoding on a GPU costs, and groups of a batch. The GPU itself: tests/gpu/test_gpu_decode.py."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.settings import Limits
from jpeg_preprocess.admission import LARGE_S, admit
from jpeg_preprocess.decode_cost import MIB
from jpeg_preprocess.device_cost import device_cost, groups
from jpeg_preprocess.jpeg_header import PlainJpeg

LIMITS = Limits()
MEMORY = LIMITS.max_decode_mib * MIB
THREADS = 16
SIZES = st.lists(st.integers(0, 50), max_size=40)


@given(SIZES, st.integers(1, 60))
def test_groups_hold_each_place_once_in_order_and_stay_in_the_limit(sizes, limit):
    found = groups(sizes, limit)
    assert [place for group in found for place in group] == list(range(len(sizes)))
    assert all(sum(sizes[place] for place in group) <= limit or len(group) == 1 for group in found)
    assert all(len(group) for group in found)


@given(SIZES, st.integers(1, 60))
def test_a_group_ends_only_where_the_next_image_does_not_fit(sizes, limit):
    found = groups(sizes, limit)
    for group, following in itertools.pairwise(found):
        assert sum(sizes[place] for place in group) + sizes[following[0]] > limit


def request(width: int, height: int, images: int):
    return [device_cost(PlainJpeg(width, height, 3, 1), THREADS, MEMORY)] * images


def verdict(*requests) -> list[str | None]:
    return [None if each is None else each.reason for each in admit(requests, LIMITS, THREADS, lambda: True)]


def test_a_request_of_the_largest_images_is_refused_and_a_photo_is_not():
    assert verdict(request(12_000, 10_000, 1)) == [None]
    assert verdict(request(12_000, 10_000, 64)) == ["request_too_long"]
    assert verdict(request(4000, 3000, 1), request(12_000, 10_000, 64)) == [None, "request_too_long"]


def test_a_full_request_of_usual_photos_is_not_a_large_one():
    assert sum(cost.seconds for cost in request(500, 375, 64)) < LARGE_S
    assert sum(cost.seconds for cost in request(4000, 3000, 1)) < LARGE_S


def test_what_does_not_fit_side_by_side_takes_longer():
    small, large = (request(width, 10_000, 1)[0] for width in (1000, 12_000))
    assert large.seconds > 12 * small.seconds * 2
    assert large.memory_bytes == 12 * small.memory_bytes > MEMORY
