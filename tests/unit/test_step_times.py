import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_runtime.step_times import read_stamps, stamp

MS = 1_000_000
HOUR_MS = 3_600_000


def times_of(images, begun_ms, elapsed_ms):
    """The checksums and times of a request whose steps take `elapsed_ms`, which begins at `begun_ms` of the clock."""
    ends = begun_ms + np.cumsum([0, *elapsed_ms])
    begun, ended, answer_begun, answer_ended = (int(end) * MS for end in ends)
    checksums = np.arange(images, dtype=np.uint32)[:, None]
    return read_stamps(stamp(checksums, begun, ended), answer_begun, answer_ended)


@given(
    st.integers(0, 64),
    st.integers(0, 10 * 365 * 24 * HOUR_MS),
    st.lists(st.integers(0, HOUR_MS), min_size=3, max_size=3),
)
def test_times_are_those_of_the_steps_wherever_the_clock_stands(images, begun_ms, elapsed_ms):
    checksums, times = times_of(images, begun_ms, elapsed_ms)
    assert checksums.ravel().tolist() == list(range(images))
    assert (times.shape, times.dtype) == ((images, 3), np.float32)
    assert times.tolist() == [[pytest.approx(each, rel=1e-6) for each in elapsed_ms]] * images


def test_microseconds_count():
    _, times = read_stamps(stamp(np.zeros((1, 1), np.uint32), 5_000, 12_000), 1_012_000, 1_013_999)
    assert times.tolist() == [[pytest.approx(0.007), pytest.approx(1.0), pytest.approx(0.001)]]


def test_any_stamp_gives_finite_times():
    """Who sends requests to `postprocess` alone chooses the stamp."""
    _, times = read_stamps(np.array([[0, 2**32 - 1, 0]], np.uint32), 0, 2**70)
    assert np.isfinite(times).all()
    assert (times >= 0).all()
