import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_build.errors import ParityError
from jpeg_build.parity import check, measure, run_in_batches

REFERENCE = np.random.default_rng(0).normal(0, 5, (6, 50)).astype(np.float32)


def test_equal_logits_pass():
    parity = measure(REFERENCE, REFERENCE.copy(), photos=4)
    assert (parity.photos, parity.random_images) == (4, 2)
    assert parity.max_abs_difference == 0
    assert parity.top1_agreement == parity.top5_overlap == 1
    check(parity, "fp32")


def test_a_difference_above_the_tolerance_fails_and_says_how_large():
    other = REFERENCE.copy()
    other[5, 7] += np.abs(REFERENCE).max() * 0.01
    with pytest.raises(ParityError, match=r"logits differ by up to 0\.01 of the largest logit, 0\.001 is allowed"):
        check(measure(REFERENCE, other, photos=4), "fp32")


def test_another_order_is_counted():
    other = REFERENCE.copy()
    other[0] = np.roll(other[0], 1)
    parity = measure(REFERENCE, other, photos=4)
    # The tolerance for ties is the largest difference, which is as large as the logits here.
    assert parity.max_abs_difference > 5
    with pytest.raises(ParityError):
        check(parity, "fp32")


def test_swapped_classes_on_one_photo_cost_a_part_of_the_agreement():
    reference = np.zeros((4, 10), np.float32)
    reference[:, 3], reference[:, 4] = 10, 9.99
    other = reference.copy()
    other[0, 3], other[0, 4] = 9.985, 9.99
    parity = measure(reference, other, photos=4)
    assert parity.top1_agreement == 1  # a tie, within the difference
    reference[0, 4] = 5
    other[0, 4] = 10.1
    assert measure(reference, other, photos=4).relative_difference > 0.4


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 5), st.integers(0, 49))
def test_not_finite_never_passes(value, row, column):
    other = REFERENCE.copy()
    other[row, column] = value
    with pytest.raises(ParityError):
        check(measure(REFERENCE, other, photos=4), "fp32")


def test_another_shape_fails():
    with pytest.raises(ParityError, match="shape"):
        measure(REFERENCE, REFERENCE[:, :-1], photos=4)


@given(st.integers(1, 12))
def test_every_image_is_run_once_in_batches_of_several_sizes(count):
    sizes = []

    def run(pixels):
        sizes.append(len(pixels))
        return pixels.astype(np.float32)

    pixels = np.arange(count, dtype=np.uint8)[:, None]
    assert np.array_equal(run_in_batches(run, pixels), pixels)
    assert sizes[0] == 1
    assert len(set(sizes)) == min(3, len(sizes)) or count <= 7
