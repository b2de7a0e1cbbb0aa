import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jpeg_preprocess import Answer, ImageError, Postprocessor, Question

LABELS = ["a", "b", "ü"]


def test_labels_scores_and_indices_are_best_first():
    answer = Postprocessor(LABELS)(np.log(np.array([[0.2, 0.5, 0.3]], np.float32)), [b""], 2)
    assert answer.labels.tolist() == [[b"b", "ü".encode()]]
    assert np.allclose(answer.scores, [[0.5, 0.3]])
    assert answer.indices.tolist() == [[1, 2]]
    assert answer.errors.tolist() == [[b""]]


def test_a_failed_image_has_no_labels_and_keeps_its_reason():
    logits = np.array([[0, 1, 2], [0, 0, 0], [2, 1, 0]], np.float32)
    answer = Postprocessor(LABELS)(logits, [b"", b"why", b""], 1)
    assert answer.labels.tolist() == [["ü".encode()], [b""], [b"a"]]
    assert np.isnan(answer.scores[1]).all()
    assert answer.indices[1].tolist() == [-1]
    assert answer.errors.tolist() == [[b""], [b"why"], [b""]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error_of_that_image(value):
    logits = np.array([[0, 1, 2], [0, value, 0]], np.float32)
    answer = Postprocessor(LABELS)(logits, [b"", b""], 1)
    assert answer.errors[0] == b""
    assert b"not finite" in answer.errors[1][0]
    with pytest.raises(ImageError, match="not finite"):
        Postprocessor(LABELS)(logits[1:], [b""], 1)


@given(st.data())
def test_requests_answered_together_get_what_each_gets_alone(data):
    labels = [f"class {number}" for number in range(6)]
    questions = []
    for _ in range(data.draw(st.integers(0, 5))):
        images = data.draw(st.integers(1, 3))
        logits = data.draw(
            hnp.arrays(np.float32, (images, 6), elements=st.sampled_from([0.0, 1.0, -2.5, 7.0, float("nan")]))
        )
        failures = data.draw(st.lists(st.sampled_from([b"", b"", b"why"]), min_size=images, max_size=images))
        questions.append(Question(logits, failures, data.draw(st.integers(1, 6))))
    together = Postprocessor(labels).answer_all(questions)
    assert len(together) == len(questions)
    for question, found in zip(questions, together, strict=True):
        (alone,) = Postprocessor(labels).answer_all([question])
        if not isinstance(alone, Answer):
            assert str(found) == str(alone)
            continue
        assert isinstance(found, Answer)
        assert found.labels.tolist() == alone.labels.tolist()
        assert found.errors.tolist() == alone.errors.tolist()
        assert found.scores.shape == (len(question.failures), question.k)
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-6)
        np.testing.assert_array_equal(found.indices, alone.indices)


def test_what_is_wrong_with_one_request_costs_no_other_its_answer():
    unreadable = ValueError("cannot be read")
    right = Question(np.array([[0, 2, 1]], np.float32), [b""], 1)
    broken = Question(np.array([["no number"] * 3], object), [b""], 1)
    first, second, third, fourth = Postprocessor(LABELS).answer_all([right, unreadable, broken, right])
    assert isinstance(first, Answer)
    assert isinstance(fourth, Answer)
    assert first.labels.tolist() == fourth.labels.tolist() == [[b"b"]]
    assert second is unreadable
    assert isinstance(third, TypeError)
