"""Which requests of a batch are decoded, and in how much memory."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.settings import Limits
from jpeg_preprocess.admission import DecodeLater, MemoryBudget, RequestTooLong, admit, batch_seconds
from jpeg_preprocess.decode_cost import NOTHING, DecodeCost, decode_cost
from PIL import Image
from support import encode, noise, photo

LIMITS = Limits(max_decode_ms=1000, max_wait_ms=2000)


def costs(*seconds):
    return [DecodeCost(each, 0) for each in seconds]


@given(
    requests=st.lists(st.lists(st.floats(0, 1.0), max_size=6), max_size=20),
    threads=st.integers(1, 8),
)
def test_what_is_admitted_stays_in_the_limit_and_nothing_is_refused_without_need(requests, threads):
    verdicts = admit([costs(*request) for request in requests], LIMITS, threads, lambda: True)
    most = batch_seconds(LIMITS, threads)
    admitted = [sum(request) for request, verdict in zip(requests, verdicts, strict=True) if verdict is None]
    assert sum(admitted) <= most + 1e-9
    for request, verdict in zip(requests, verdicts, strict=True):
        if isinstance(verdict, RequestTooLong):
            assert sum(request) > most
        if isinstance(verdict, DecodeLater):
            # Sent alone, it is admitted; and nothing dearer took its place.
            assert admit([costs(*request)], LIMITS, threads, lambda: True) == [None]
            assert all(each <= sum(request) for each in admitted)
            assert sum(admitted) + sum(request) > most
    if requests and min(map(sum, requests)) <= most:
        assert None in verdicts


@pytest.mark.parametrize(("threads", "seconds"), [(1, 2.0), (2, 3.0), (16, 17.0)])
def test_the_work_of_a_batch_is_done_in_the_limit_in_any_order(threads, seconds):
    assert batch_seconds(LIMITS, threads) == pytest.approx(seconds)
    # The worst order: the longest image begins when all other threads run out of work.
    longest = LIMITS.max_decode_ms / 1000
    assert (seconds - longest) / threads + longest == pytest.approx(LIMITS.max_wait_ms / 1000)


def test_small_requests_are_decoded_before_large_ones():
    large, small = costs(*[0.9] * 3), costs(0.01)
    verdicts = admit([large, small, large, small], LIMITS, 2, lambda: True)
    assert [verdict is None for verdict in verdicts].count(False) == 1
    assert verdicts[1] is verdicts[3] is None


def test_large_requests_are_left_to_others_where_these_take_them():
    large, small = costs(0.5), costs(*[0.02] * 4)
    verdicts = admit([small, large, small], LIMITS, 2, lambda: False)
    assert verdicts[0] is verdicts[2] is None
    assert isinstance(verdicts[1], DecodeLater)
    assert admit([small, large, small], LIMITS, 2, lambda: True) == [None] * 3


def test_the_lane_is_not_entered_without_need():
    def enter() -> bool:
        raise AssertionError("nothing is large")

    assert admit([costs(0.02)] * 8, LIMITS, 2, enter) == [None] * 8


def flat(width, height, mode="RGB", **options):
    return encode(Image.new(mode, (width, height)), quality=50, **options)


def repeated(data, scans):
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def full(_width, _height):
    return 1


def test_cost_grows_with_pixels_scans_and_components():
    small, large = decode_cost(flat(500, 500), full), decode_cost(flat(4000, 4000), full)
    assert large.seconds > 30 * small.seconds
    assert large.memory_bytes == 64 * small.memory_bytes
    progressive = flat(2000, 2000, progressive=True)
    assert decode_cost(progressive, full).seconds > decode_cost(flat(2000, 2000), full).seconds
    assert decode_cost(progressive, full).memory_bytes > decode_cost(flat(2000, 2000), full).memory_bytes
    assert decode_cost(repeated(progressive, 100), full).seconds > 4 * decode_cost(progressive, full).seconds
    assert (
        decode_cost(flat(2000, 2000, "CMYK"), full).memory_bytes == 2 * decode_cost(flat(2000, 2000), full).memory_bytes
    )


def test_what_is_decoded_smaller_costs_less():
    data = photo("china")
    eighth = decode_cost(data, lambda width, height: 8)
    assert eighth.seconds < decode_cost(data, full).seconds
    assert eighth.memory_bytes < decode_cost(data, full).memory_bytes / 60


def test_an_image_without_an_end_counts_as_often_as_it_may_be_decoded():
    data = encode(noise(64, 64))
    assert decode_cost(data[:-2], full).seconds == pytest.approx(3 * decode_cost(data, full).seconds, rel=0.01)
    # An end marker in a thumbnail or a comment is none.
    hidden = data[:2] + b"\xff\xfe\x00\x04\xff\xd9" + data[2:-2]
    assert decode_cost(hidden, full).seconds > 2.9 * decode_cost(data, full).seconds


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", photo("china")[:100]])
def test_what_is_no_jpeg_costs_nothing(data):
    assert decode_cost(data, full) == NOTHING


def test_threads_wait_for_memory():
    budget = MemoryBudget(100 * 2**20)
    now = most = 0
    lock = threading.Lock()

    def work(size):
        nonlocal now, most
        with budget.taken(size * 2**20):
            with lock:
                now += size
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= size

    threads = [threading.Thread(target=work, args=(size,)) for size in (60, 40, 60, 30, 90, 10, 200, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
    # One that is larger than the budget runs alone.
    assert most == 200
