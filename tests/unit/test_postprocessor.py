import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jpeg_contract.image_errors import ImageError
from jpeg_postprocess import Postprocessor, TopKRequest, TopKResponse
from jpeg_runtime.batching import run_batch

LABELS = ["a", "b", "ü"]


def respond(logits, decode_errors, k):
    return Postprocessor(LABELS)(TopKRequest(logits, decode_errors, k))


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
        requests.append(TopKRequest(logits, errors, data.draw(st.integers(1, 6))))
    together = Postprocessor(labels).run(requests)
    assert len(together) == len(requests)
    for request, found in zip(requests, together, strict=True):
        (alone,) = Postprocessor(labels).run([request])
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
