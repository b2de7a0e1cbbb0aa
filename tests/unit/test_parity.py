import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_build.errors import ParityError
from jpeg_build.parity import check, measure, run_in_batches

REFERENCE = np.random.default_rng(0).normal(0, 5, (6, 50)).astype(np.float32)


def test_equal_logits_pass():
    parity = measure(REFERENCE, REFERENCE.copy(), photos=4, precision="fp32")
    assert (parity.photos, parity.random_images) == (4, 2)
    assert parity.max_abs_difference == 0
    assert parity.top1_agreement == parity.top5_overlap == 1
    check(parity, "fp32")


def test_a_difference_above_the_tolerance_fails_and_says_how_large():
    other = REFERENCE.copy()
    other[5, 7] += np.abs(REFERENCE).max() * 0.01
    with pytest.raises(ParityError, match=r"logits differ by up to 0\.01 of the largest logit, 0\.001 is allowed"):
        check(measure(REFERENCE, other, photos=4, precision="fp32"), "fp32")


def test_a_small_difference_everywhere_fails_by_its_mean():
    other = REFERENCE + np.float32(np.abs(REFERENCE).max() * 5e-4)
    with pytest.raises(ParityError, match=r"differ by 0\.0005 of the largest logit on the mean, 0\.0001 is allowed"):
        check(measure(REFERENCE, other, photos=4, precision="fp32"), "fp32")


def test_another_order_is_counted():
    other = REFERENCE.copy()
    other[0] = np.roll(other[0], 1)
    parity = measure(REFERENCE, other, photos=4, precision="int8")
    assert parity.top1_agreement == 0.75
    assert parity.top5_overlap < 1
    with pytest.raises(ParityError, match=r"top-1 agrees on 75\.0%, \d+\.0% is needed"):
        check(parity, "int8")


def test_classes_that_are_nearly_equal_count_as_equal_in_rank():
    reference = np.zeros((4, 10), np.float32)
    reference[:, 3], reference[:, 4] = 10, 9.995
    other = reference.copy()
    other[0, 3], other[0, 4] = 9.99, 9.995
    assert measure(reference, other, photos=4, precision="fp32").top1_agreement == 1
    reference[0, 4] = 9.98
    assert measure(reference, other, photos=4, precision="fp32").top1_agreement == 0.75


def test_noise_does_not_count_for_calibrated_artefacts():
    other = REFERENCE.copy()
    other[4:] = 0
    parity = measure(REFERENCE, other, photos=4, precision="int8")
    assert (parity.photos, parity.random_images, parity.relative_difference) == (4, 0, 0)
    assert measure(REFERENCE, other, photos=4, precision="fp16").relative_difference > 0.5


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 5), st.integers(0, 49))
def test_not_finite_never_passes(value, row, column):
    other = REFERENCE.copy()
    other[row, column] = value
    with pytest.raises(ParityError):
        check(measure(REFERENCE, other, photos=4, precision="fp32"), "fp32")


def test_another_shape_fails():
    with pytest.raises(ParityError, match="shape"):
        measure(REFERENCE, REFERENCE[:, :-1], photos=4, precision="fp32")


@given(st.integers(1, 70))
def test_every_image_is_run_once_in_batches_of_several_sizes(count):
    sizes = []

    def run(pixels):
        sizes.append(len(pixels))
        return pixels.astype(np.float32)

    pixels = np.arange(count, dtype=np.uint8)[:, None]
    assert np.array_equal(run_in_batches(run, pixels), pixels)
    assert sizes[0] == 1
    assert max(sizes) <= 16
    assert len(set(sizes)) >= 2 or count <= 2
