import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_runtime.batching import concatenated, run_batch, split_rows


def double(pixels):
    return pixels.astype(np.float32) * 2


@given(st.lists(st.integers(1, 5), max_size=8))
def test_each_request_gets_its_own_rows_of_one_run(sizes):
    calls = []

    def run(pixels):
        calls.append(len(pixels))
        return double(pixels)

    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 100, (size, 2, 3)) for size in sizes]
    outcomes = run_batch(concatenated(run), inputs)
    assert calls == ([sum(sizes)] if sizes else [])
    assert len(outcomes) == len(inputs)
    for request, outcome in zip(inputs, outcomes, strict=True):
        assert not isinstance(outcome, Exception)
        assert np.array_equal(outcome, double(request))


def test_a_single_request_is_not_copied():
    pixels = np.zeros((2, 3))
    seen = []

    def run(given_pixels):
        seen.append(given_pixels)
        return given_pixels

    run_batch(concatenated(run), [pixels])
    assert seen[0] is pixels


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_request_that_cannot_be_run_costs_no_other_its_output(good):
    def run(pixels):
        if (pixels < 0).any():
            raise RuntimeError("negative")
        return double(pixels)

    inputs = [np.full((2, 1), 1 if ok else -1) for ok in good]
    outcomes = run_batch(concatenated(run), inputs)
    assert [not isinstance(outcome, Exception) for outcome in outcomes] == good


@given(st.lists(st.sampled_from(["good", "fails", "exception"]), max_size=8))
def test_an_exception_in_place_of_a_request_is_returned_and_never_run(kinds):
    batches = []

    def run(inputs):
        batches.append(list(inputs))
        if any(kind == "fails" for _, kind in inputs):
            raise RuntimeError("fails")
        return [place for place, _ in inputs]

    inputs = [ValueError(place) if kind == "exception" else (place, kind) for place, kind in enumerate(kinds)]
    outcomes = run_batch(run, inputs)
    for place, (kind, outcome) in enumerate(zip(kinds, outcomes, strict=True)):
        if kind == "exception":
            assert outcome is inputs[place]
        elif kind == "fails":
            assert isinstance(outcome, RuntimeError)
        else:
            assert outcome == place
    runnable = [request for request in inputs if not isinstance(request, Exception)]
    # All together first; each alone only if that failed.
    retries = [[request] for request in runnable] if "fails" in kinds and len(runnable) > 1 else []
    assert batches == ([runnable] if runnable else []) + retries


def test_a_batch_that_fails_is_logged_before_its_requests_are_retried(caplog):
    def run(inputs):
        raise RuntimeError("out of memory")

    assert [str(outcome) for outcome in run_batch(run, ["a", "b"])] == ["out of memory"] * 2
    (record,) = caplog.records
    assert "2 requests" in record.message
    assert "out of memory" in caplog.text


def test_a_network_that_loses_rows_is_an_error_and_not_a_shifted_output():
    outcomes = run_batch(concatenated(lambda pixels: pixels[:1]), [np.zeros((2, 1)), np.zeros((1, 1))])
    assert isinstance(outcomes[0], RuntimeError)
    assert not isinstance(outcomes[1], Exception)
    assert np.array_equal(outcomes[1], np.zeros((1, 1)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_rows_are_split_into_parts_of_the_given_sizes(sizes):
    rows = np.arange(sum(sizes))
    parts = split_rows(rows, sizes)
    assert [len(part) for part in parts] == sizes
    assert np.array_equal(np.concatenate(parts), rows)
    with pytest.raises(RuntimeError, match=f"{len(rows)} rows for {len(rows) + 1} images"):
        split_rows(rows, [*sizes, 1])
