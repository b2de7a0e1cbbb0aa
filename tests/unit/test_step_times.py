import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_runtime.step_times import read_stamps, stamp

MS = 1_000_000
HOUR_MS = 3_600_000
CLOCK_MS = st.integers(0, 10 * 365 * 24 * HOUR_MS)


def times_of(images, begun_ms, elapsed_ms):
    """What is read of a request whose steps take `elapsed_ms`, which begins at `begun_ms` of the clock."""
    ends = begun_ms + np.cumsum([0, *elapsed_ms])
    begun, ended, answer_begun, answer_ended = (int(end) * MS for end in ends)
    checksums = np.arange(images, dtype=np.uint32)[:, None]
    (read,) = read_stamps([stamp(checksums, begun, ended)], answer_begun, answer_ended)
    return read


@given(st.integers(0, 64), CLOCK_MS, st.lists(st.integers(0, HOUR_MS // 3), min_size=3, max_size=3))
def test_times_are_those_of_the_steps_wherever_the_clock_stands(images, begun_ms, elapsed_ms):
    read = times_of(images, begun_ms, elapsed_ms)
    assert read.checksums.ravel().tolist() == list(range(images))
    assert (read.times.shape, read.times.dtype) == ((images, 3), np.float32)
    assert read.times.tolist() == [[pytest.approx(each, rel=1e-6) for each in elapsed_ms]] * images
    assert read.seconds == [pytest.approx(sum(elapsed_ms) / 1000)] * images


def test_the_clock_wraps_within_any_step():
    """A reading is 32 bits of microseconds."""
    wrap_ms = 2**32 / 1000
    for before_ms in (1, 11, 31, 36):
        read = times_of(2, int(wrap_ms) - before_ms, [10, 20, 5])
        assert read.times.tolist() == [[10, 20, 5]] * 2
        assert read.seconds == [0.035] * 2


@given(
    st.lists(st.tuples(st.integers(0, 5), CLOCK_MS, CLOCK_MS), min_size=1),
    st.integers(0, 2**63),
    st.integers(0, 2**63),
)
def test_requests_of_a_batch_are_read_as_each_alone(requests, begun_ns, ended_ns):
    stamps = [
        stamp(np.arange(images, dtype=np.uint32)[:, None], begun_ms * MS, ended_ms * MS)
        for images, begun_ms, ended_ms in requests
    ]
    together = read_stamps(stamps, begun_ns, ended_ns)
    alone = [read for each in stamps for read in read_stamps([each], begun_ns, ended_ns)]
    assert len(together) == len(alone) == len(requests)
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.checksums, other.checksums)
        assert np.array_equal(one.times, other.times)
        assert one.seconds == other.seconds
        # As Triton's tensors need them.
        assert one.checksums.flags.c_contiguous
        assert one.times.flags.c_contiguous


def test_microseconds_count():
    (read,) = read_stamps([stamp(np.zeros((1, 1), np.uint32), 5_000, 12_000)], 1_012_000, 1_013_999)
    assert read.times.tolist() == [[pytest.approx(0.007), pytest.approx(1.0), pytest.approx(0.001)]]
    assert read.seconds == [pytest.approx(0.001008)]


def test_any_stamp_gives_finite_times():
    """Who sends requests to `postprocess` alone chooses the stamp."""
    (read,) = read_stamps([np.array([[0, 2**32 - 1, 0]], np.uint32)], 0, 2**70)
    assert np.isfinite(read.times).all()
    assert (read.times >= 0).all()
    assert 0 <= read.seconds[0] < 2**32 / 1e6
