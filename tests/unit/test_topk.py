import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jpeg_postprocess import (
    InvalidK,
    InvalidParameter,
    InvalidThreshold,
    best,
    read_k,
    read_threshold,
    read_wanted,
    sigmoid,
    softmax,
    top_k,
)

LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 40)),
    elements=st.one_of(st.floats(-1e4, 1e4, width=32), st.sampled_from([0.0, 1.0])),
)


@given(LOGITS)
def test_softmax_is_a_distribution_in_the_order_of_the_logits(logits):
    found = softmax(logits)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    assert np.allclose(found, exact / exact.sum(axis=1, keepdims=True), atol=1e-5)


@given(LOGITS)
def test_sigmoid_is_that_of_float64(logits):
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        found = sigmoid(logits)
    assert found.dtype == np.float32
    assert found.shape == logits.shape
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-logits.astype(np.float64)))
    # Small scores, too, down to the smallest normal number of float32.
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1.2e-38)
    assert ((found >= 0) & (found <= 1)).all()


@given(LOGITS, st.data())
def test_the_best_of_a_sigmoid_are_ranked_by_their_logits(logits, data):
    k = data.draw(st.integers(1, logits.shape[1]))
    indices, scores = best(logits, k, "sigmoid")
    assert np.array_equal(indices, np.argsort(-logits, axis=1, kind="stable")[:, :k])
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.take_along_axis(sigmoid(logits), indices.astype(int), axis=1), rtol=1e-6)


@given(LOGITS, st.data())
def test_top_k_is_the_head_of_a_full_sort(logits, data):
    k = data.draw(st.integers(1, logits.shape[1]))
    indices, scores = top_k(logits, k)
    assert indices.shape == scores.shape == (len(logits), k)
    assert indices.dtype == np.int32
    assert np.array_equal(scores, -np.sort(-logits, axis=1)[:, :k])
    assert np.array_equal(np.take_along_axis(logits, indices.astype(int), axis=1), scores)
    assert np.array_equal(indices, np.argsort(-logits, axis=1, kind="stable")[:, :k])


def test_ties_go_to_the_first_classes():
    indices, _ = top_k(np.full((2, 20), 0.05, np.float32), 5)
    assert indices.tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize(("value", "k"), [(1, 1), (10, 10), ("3", 3), (" 7 ", 7)])
def test_k_is_an_integer_or_a_text_of_one(value, k):
    assert read_k({"k": value}, default=5, classes=10) == k
    assert read_k({"K": value}, default=5, classes=10) == k


def test_k_defaults_within_the_classes():
    assert read_k({}, default=5, classes=10) == 5
    assert read_k({"other": 1}, default=5, classes=3) == 3


@pytest.mark.parametrize("value", [0, -1, 11, "0", "11", "-3", "2.0", 2.0, True, "five", "", "٣", "9" * 50, [1]])
def test_any_other_k_is_refused_with_the_range(value):
    with pytest.raises(InvalidK, match=r"from 1 to 10, but it is") as caught:
        read_k({"k": value}, default=5, classes=10)
    assert caught.value.with_code().endswith(" [invalid_k]")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("value", "threshold"),
    [(0, 0), (1, 1), (0.25, 0.25), ("0.3", 0.3), (" 1 ", 1), (".5", 0.5), ("0.", 0), ("5e-05", 5e-5), ("1E-3", 1e-3)],
)
def test_a_threshold_is_a_number_or_a_text_of_one(value, threshold):
    for name in ("threshold", "Threshold", "THRESHOLD"):
        assert read_threshold({"k": 1, name: value}, default=0.5) == threshold
    assert read_threshold({"other": value}, default=0.5) == 0.5


@pytest.mark.parametrize(
    "value",
    [-0.1, 1.0000001, "1.1", "-0", "nan", "inf", float("nan"), float("inf"), True, "", " ", ".", "0_1", "٣", "0,5",
     "0x0", "high", "0." + "3" * 50, 10**400, [0.5]],
)  # fmt: skip
def test_any_other_threshold_is_refused_with_the_range(value):
    with pytest.raises(InvalidThreshold, match="from 0 to 1, but it is") as caught:
        read_threshold({"threshold": value}, default=0)
    assert caught.value.with_code().endswith(" [invalid_threshold]")
    assert len(str(caught.value)) < 120


def wanted(parameters):
    return read_wanted(parameters, k=5, threshold=0.25, classes=10)


def test_k_and_threshold_are_read_from_the_parameters_of_a_request():
    assert wanted(lambda: "") == (5, 0.25)
    assert wanted(lambda: '{"k": 3, "other": "x"}') == (3, 0.25)
    assert wanted(lambda: '{"K": "7", "Threshold": "0.5"}') == (7, 0.5)
    assert wanted(lambda: '{"threshold": 0}') == (5, 0)


def not_utf8():
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (not_utf8, "invalid_parameters"),
        (lambda: "{", "invalid_parameters"),
        (lambda: '{"k": 0}', "invalid_k"),
        (lambda: '{"threshold": NaN}', "invalid_threshold"),
    ],
)
def test_parameters_that_cannot_be_served_have_a_reason(parameters, reason):
    with pytest.raises(InvalidParameter) as caught:
        wanted(parameters)
    assert caught.value.reason == reason
