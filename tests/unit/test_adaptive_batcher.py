import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_runtime.adaptive_batcher import AdaptiveBatcher


@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 5))
def test_a_batch_is_shared_or_split_and_comes_back_in_order(images, threads, piece):
    runs = []

    def run(how):
        def noted(pixels):
            runs.append((how, len(pixels)))
            return pixels * 2.0

        return noted

    pixels = np.arange(images, dtype=np.float32).reshape(-1, 1)
    batcher = AdaptiveBatcher(run("shared"), [run("alone")] * threads, piece)
    np.testing.assert_array_equal(batcher(pixels), pixels * 2)
    assert sum(size for _, size in runs) == images
    if images < threads:
        assert runs == [("shared", images)]
    else:
        assert {how for how, _ in runs} == {"alone"}
        assert max(size for _, size in runs) <= piece
        # Every thread gets a piece.
        assert len(runs) >= threads


class Alone:
    """A function of one thread: it notes the threads that call it, and fails if two do at once."""

    def __init__(self):
        self.threads = set()
        self._used = threading.Lock()

    def __call__(self, pixels):
        assert self._used.acquire(blocking=False), "two threads run it at the same time"
        self.threads.add(threading.get_ident())
        time.sleep(0.0005)
        self._used.release()
        return pixels + 1.0


@settings(max_examples=30)
@given(st.integers(1, 8), st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 3))
def test_no_two_threads_ever_share_a_function(threads, sizes, piece, callers):
    alone = [Alone() for _ in range(threads)]
    batcher = AdaptiveBatcher(lambda pixels: pixels + 1.0, list(alone), piece)
    batches = [np.full((size, 1), number, np.float32) for number, size in enumerate(sizes)]
    with ThreadPoolExecutor(callers) as pool:
        for pixels, logits in zip(batches, pool.map(batcher, batches), strict=True):
            np.testing.assert_array_equal(logits, pixels + 1)
    assert all(len(each.threads) <= 1 for each in alone)
    used = [each.threads for each in alone if each.threads]
    assert len(set.union(set(), *used)) == len(used), "a thread has one function of its own"


def test_a_failure_in_one_piece_is_raised_and_the_next_batch_runs():
    def run(pixels):
        if (pixels < 0).any():
            raise RuntimeError("negative")
        return pixels * 1.0

    batcher = AdaptiveBatcher(run, [run, run], 1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="negative"):
            batcher(np.array([[1], [-1], [1], [1]]))
    assert batcher(np.array([[1], [2], [3]])).tolist() == [[1], [2], [3]]
