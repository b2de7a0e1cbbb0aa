import numpy as np
import pytest
from jpeg_preprocess import ImageError, Postprocessor

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
