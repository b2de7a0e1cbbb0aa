import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jpeg_postprocess import InvalidTopK, read_k, request_k, softmax, top_k

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
    with pytest.raises(InvalidTopK, match=r"from 1 to 10, but it is") as caught:
        read_k({"k": value}, default=5, classes=10)
    assert caught.value.reason == "bad_k"
    assert len(str(caught.value)) < 120


def test_k_is_read_from_the_parameters_of_a_request():
    assert request_k(lambda: "", default=5, classes=10) == 5
    assert request_k(lambda: '{"k": 3, "other": "x"}', default=5, classes=10) == 3
    assert request_k(lambda: '{"K": "7"}', default=5, classes=10) == 7


def not_utf8():
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


@pytest.mark.parametrize("parameters", [not_utf8, lambda: "{", lambda: '{"k": 0}'])
def test_parameters_that_cannot_be_read_are_an_invalid_k(parameters):
    with pytest.raises(InvalidTopK) as caught:
        request_k(parameters, default=5, classes=10)
    assert caught.value.reason == "bad_k"
