import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jpeg_contract.image_errors import ImageError
from jpeg_postprocess import Postprocessor, TopKRequest, TopKResponse
from jpeg_runtime.batching import run_batch

LABELS = ["a", "b", "ü"]


def respond(logits, decode_errors, k, threshold=0.0, head="softmax"):
    return Postprocessor(LABELS, head)(TopKRequest(logits, decode_errors, k, threshold))


def test_labels_scores_and_indices_are_best_first():
    response = respond(np.log(np.array([[0.2, 0.5, 0.3]], np.float32)), [b""], 2)
    assert response.labels.tolist() == [[b"b", "ü".encode()]]
    assert np.allclose(response.scores, [[0.5, 0.3]])
    assert response.indices.tolist() == [[1, 2]]
    assert response.errors.tolist() == [[b""]]


def test_a_failed_image_has_no_labels_and_keeps_its_error():
    logits = np.array([[0, 1, 2], [0, 0, 0], [2, 1, 0]], np.float32)
    response = respond(logits, [b"", b"why", b""], 1)
    assert response.labels.tolist() == [["ü".encode()], [b""], [b"a"]]
    assert np.isnan(response.scores[1]).all()
    assert response.indices[1].tolist() == [-1]
    assert response.errors.tolist() == [[b""], [b"why"], [b""]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error_of_that_image(value):
    logits = np.array([[0, 1, 2], [0, value, 0]], np.float32)
    response = respond(logits, [b"", b""], 1)
    assert response.errors[0] == b""
    assert b"not finite" in response.errors[1][0]
    with pytest.raises(ImageError, match="not finite") as caught:
        respond(logits[1:], [b""], 1)
    assert caught.value.reason == "not_finite"


def test_an_image_without_a_label_at_the_threshold_has_no_error():
    logits = np.array([[2, 0, -2], [-3, -4, -5], [9, 9, 9]], np.float32)
    response = respond(logits, [b"", b"", b"why"], 3, 0.5, "sigmoid")
    assert response.labels.tolist() == [[b"a", b"b", b""], [b""] * 3, [b""] * 3]
    assert response.indices.tolist() == [[0, 1, -1], [-1] * 3, [-1] * 3]
    # A failed image has NaN, which JSON cannot hold; what is left out has not.
    expected = np.array([[0.880797, 0.5, 0], [0, 0, 0], [np.nan, np.nan, np.nan]])
    np.testing.assert_allclose(response.scores, expected, rtol=1e-6)
    assert response.errors.ravel().tolist() == [b"", b"", b"why"]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(6)), elements=st.floats(-30, 30, width=32)),
    st.integers(1, 6),
    st.floats(0, 1),
    st.sampled_from(["softmax", "sigmoid"]),
)
def test_a_threshold_leaves_out_what_a_plain_filter_does(logits, k, threshold, head):
    postprocessor = Postprocessor([f"class {number}" for number in range(6)], head)
    none = [b""] * len(logits)
    every = postprocessor(TopKRequest(logits, none, k))
    found = postprocessor(TopKRequest(logits, none, k, threshold))
    for row in range(len(logits)):
        kept = [place for place in range(k) if every.scores[row, place] >= np.float32(threshold)]
        rest = k - len(kept)
        assert found.labels[row].tolist() == [every.labels[row, place] for place in kept] + [b""] * rest
        assert found.scores[row].tolist() == [every.scores[row, place] for place in kept] + [0] * rest
        assert found.indices[row].tolist() == [every.indices[row, place] for place in kept] + [-1] * rest
    assert not any(found.errors.ravel())
    assert found.scores.dtype == np.float32


def test_a_score_passes_itself_as_a_threshold():
    logits = np.array([[0.847298, -1, -2]], np.float32)  # 0.7, which is less in float32
    (score,) = respond(logits, [b""], 1, 0, "sigmoid").scores.ravel().tolist()
    for threshold in (score, round(score, 6)):
        assert respond(logits, [b""], 1, threshold, "sigmoid").labels.tolist() == [[b"a"]]


@given(st.data())
def test_requests_of_a_batch_get_the_responses_that_each_gets_alone(data):
    labels = [f"class {number}" for number in range(6)]
    requests = []
    for _ in range(data.draw(st.integers(0, 5))):
        images = data.draw(st.integers(1, 3))
        logits = data.draw(
            hnp.arrays(np.float32, (images, 6), elements=st.sampled_from([0.0, 1.0, -2.5, 7.0, float("nan")]))
        )
        errors = data.draw(st.lists(st.sampled_from([b"", b"", b"why"]), min_size=images, max_size=images))
        threshold = data.draw(st.sampled_from([0.0, 0.0, 0.4, 0.9]))
        requests.append(TopKRequest(logits, errors, data.draw(st.integers(1, 6)), threshold))
    head = data.draw(st.sampled_from(["softmax", "sigmoid"]))
    together = Postprocessor(labels, head).run(requests)
    assert len(together) == len(requests)
    for request, found in zip(requests, together, strict=True):
        (alone,) = Postprocessor(labels, head).run([request])
        if not isinstance(alone, TopKResponse):
            assert str(found) == str(alone)
            continue
        assert isinstance(found, TopKResponse)
        assert found.labels.tolist() == alone.labels.tolist()
        assert found.errors.tolist() == alone.errors.tolist()
        assert found.scores.shape == (len(request.decode_errors), request.k)
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-6)
        np.testing.assert_array_equal(found.indices, alone.indices)


def test_an_invalid_request_costs_no_other_its_response():
    unreadable = ValueError("cannot be read")
    right = TopKRequest(np.array([[0, 2, 1]], np.float32), [b""], 1)
    broken = TopKRequest(np.array([["no number"] * 3], object), [b""], 1)
    not_finite = TopKRequest(np.full((1, 3), np.nan, np.float32), [b""], 1)
    requests: list[TopKRequest | Exception] = [right, unreadable, broken, not_finite, right]
    first, second, third, fourth, fifth = run_batch(Postprocessor(LABELS).run, requests)
    assert isinstance(first, TopKResponse)
    assert isinstance(fifth, TopKResponse)
    assert first.labels.tolist() == fifth.labels.tolist() == [[b"b"]]
    assert second is unreadable
    assert isinstance(third, TypeError)
    assert isinstance(fourth, ImageError)
