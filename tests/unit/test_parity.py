import itertools
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_build.checks.parity import TOLERANCES, Outputs, batch_sizes, check, judged_as, measure, run_in_batches
from jpeg_build.checks.probe_classes import known_classes
from jpeg_build.errors import ParityError

REFERENCE = np.random.default_rng(0).normal(0, 5, (6, 50)).astype(np.float32)


def outputs(*logits):
    return Outputs(tuple(range(1, len(logits) + 1)), logits)


def compare(*logits, reference=REFERENCE, precision="fp32"):
    return measure(reference, outputs(*logits), photos=4, precision=precision)


def refusal(parity, *precisions):
    with pytest.raises(ParityError) as caught:
        check(parity, *precisions)
    return caught.value


def test_equal_logits_are_within_the_tolerance():
    parity = compare(REFERENCE.copy(), REFERENCE.copy())
    assert (parity.photos, parity.random_images, parity.batches) == (4, 2, [1, 2])
    assert parity.max_abs_difference == parity.mean_abs_difference == parity.neighbour_difference == 0
    assert parity.top1_agreement == parity.top5_overlap == 1
    assert parity.largest_logit == np.abs(REFERENCE).max()
    check(parity, "fp32")


def test_a_difference_above_the_tolerance_is_refused_with_its_size():
    other = REFERENCE.copy()
    other[5, 7] += np.abs(REFERENCE).max() * 0.01
    error = refusal(compare(other), "fp32")
    assert error.reason == "parity"
    assert "logits differ by up to 0.01 of the largest logit, 0.001 is allowed" in str(error)


def test_a_small_difference_everywhere_is_refused_by_its_mean():
    other = REFERENCE + np.float32(np.abs(REFERENCE).max() * 5e-4)
    error = refusal(compare(other), "fp32")
    assert error.reason == "parity"
    assert "differ by 0.0005 of the largest logit on average, 0.0001 is allowed" in str(error)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_worst_batch_size_counts(place):
    other = REFERENCE.copy()
    other[2] = np.roll(other[2], 1)
    each = [REFERENCE] * 3
    each[place] = other
    parity, alone = compare(*each), compare(other)
    for name in ("max_abs_difference", "mean_abs_difference", "top1_agreement", "top5_overlap"):
        assert getattr(parity, name) == getattr(alone, name)
    assert parity.top1_agreement == 0.75
    assert parity.neighbour_difference == pytest.approx(parity.relative_difference)
    assert alone.neighbour_difference == 0


def test_another_order_is_counted():
    other = REFERENCE.copy()
    other[0] = np.roll(other[0], 1)
    parity = compare(other, precision="int8")
    assert parity.top1_agreement == 0.75
    assert parity.top5_overlap < 1
    error = refusal(parity, "int8")
    assert error.reason == "parity"
    assert "top-1 agrees on 75.0%" in str(error)
    assert "top-5" in str(refusal(compare(other, precision="fp16"), "fp16"))


def test_classes_that_are_nearly_equal_have_the_same_rank():
    reference = np.zeros((4, 10), np.float32)
    reference[:, 3], reference[:, 4] = 10, 9.995
    other = reference.copy()
    other[0, 3], other[0, 4] = 9.99, 9.995
    assert compare(other, reference=reference).top1_agreement == 1
    reference[0, 4] = 9.98
    assert compare(other, reference=reference).top1_agreement == 0.75


def test_noise_does_not_count_for_calibrated_artefacts():
    other = REFERENCE.copy()
    other[4:] = 0
    parity = compare(other, precision="int8")
    assert (parity.photos, parity.random_images, parity.relative_difference) == (4, 0, 0)
    assert compare(other, precision="fp16").relative_difference > 0.5


@given(st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 5), st.integers(0, 49), st.integers(0, 1))
def test_logits_that_are_not_finite_are_never_within_the_tolerance(value, row, column, place):
    other = REFERENCE.copy()
    other[row, column] = value
    each = [REFERENCE, REFERENCE]
    each[place] = other
    assert refusal(compare(*each), "fp32").reason == "parity"


@pytest.mark.parametrize(
    ("photos", "outliers", "size", "fault"),
    [
        (19, 1, 0.2, "up to 0.2 of the largest logit, 0.15"),
        (20, 1, 0.2, ""),
        (39, 2, 0.2, "all photos but the worst 5 %, 0.15"),
        (40, 2, 0.2, ""),
        (40, 1, 0.4, "one photo differ by up to 0.4 of the largest logit, 0.3"),
    ],
)
def test_one_photo_in_twenty_may_be_an_outlier_in_int8_within_a_bound_of_its_own(photos, outliers, size, fault):
    reference = np.zeros((photos, 50), np.float32)
    reference[:, 3] = 10
    other = reference.copy()
    other[:outliers, 7] = 10 * size
    parity = measure(reference, outputs(other), photos=photos, precision="int8")
    assert parity.relative_difference == pytest.approx(size)
    if fault:
        assert fault in str(refusal(parity, "int8"))
    else:
        assert parity.most_photos_difference == 0
        check(parity, "int8")
    # No other precision makes an exception.
    error = refusal(measure(reference, outputs(other), photos=photos, precision="fp16"), "fp16")
    assert "0.02 is allowed" in str(error)


def test_another_shape_is_refused():
    with pytest.raises(ParityError, match="shape") as caught:
        compare(REFERENCE, REFERENCE[:, :-1])
    assert caught.value.reason == "output_shape"


# Batches


@given(st.integers(1, 128), st.integers(1, 64), st.integers(1, 64))
def test_batches_have_the_sizes_that_a_loader_or_an_engine_treats_differently(cpus, opt, largest):
    sizes = batch_sizes(cpus=cpus, opt=opt, largest=largest)
    assert list(sizes) == sorted(set(sizes))
    assert {1, largest} <= set(sizes)
    assert max(sizes) == largest
    assert {size for size in (2, 3, cpus, 2 * cpus + 1, opt) if size <= largest} <= set(sizes)


def images(count):
    """Images that differ: the logits of image i are i and -i."""
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def right(pixels):
    numbers = pixels[:, 0, 0, 0].astype(np.float32)
    return np.stack([numbers, -numbers], axis=1)


@given(st.integers(1, 40), st.lists(st.integers(1, 70), min_size=1, max_size=6, unique=True))
def test_every_image_is_run_in_every_size(count, sizes):
    batches = []

    def run(pixels):
        batches.append(pixels[:, 0, 0, 0].tolist())
        return right(pixels)

    found = run_in_batches(run, images(count), sizes)
    assert found.batches == tuple(sizes)
    for logits in found.logits:
        np.testing.assert_array_equal(logits, right(images(count)))
    for size in sizes:
        of_size = [batch for batch in batches if len(batch) == size]
        assert set().union(*of_size) == set(range(count))
    assert len(batches) == sum(-(-count // size) for size in sizes)


def test_images_change_their_neighbours_and_positions_from_size_to_size():
    count, sizes = 15, (4, 5, 6, 7)
    batches = []

    def run(pixels):
        batches.append(pixels[:, 0, 0, 0].tolist())
        return right(pixels)

    run_in_batches(run, images(count), sizes)
    for image in range(count):
        places = {(len(batch), batch.index(image)) for batch in batches if image in batch}
        assert len({position for _, position in places}) > 1
        before = {(None, *batch)[batch.index(image)] for batch in batches if image in batch}
        assert len(before) > 1


@pytest.mark.parametrize(
    "wrong", [lambda logits: logits[:-1], lambda logits: logits[:, 0], lambda logits: logits[None]]
)
def test_an_output_of_another_shape_than_its_batch_is_refused(wrong):
    with pytest.raises(ParityError) as caught:
        run_in_batches(lambda pixels: wrong(right(pixels)), images(6), (2,))
    assert caught.value.reason == "output_shape"


def measured(run, precision="fp32", count=12, sizes=(1, 2, 3, 8)):
    found = run_in_batches(run, images(count), sizes)
    return measure(right(images(count)), found, photos=count, precision=precision)


def wrong_behind_the_first(part):
    """A runtime that computes images at other positions than the first one wrongly, by this part of the logits."""

    def run(pixels):
        logits = right(pixels)
        logits[1:] *= np.float32(1 + part)
        return logits

    return run


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_dependence_on_the_position_is_refused(precision):
    # Larger than the tolerance: the differences themselves are too large, too.
    parity = measured(wrong_behind_the_first(2 * TOLERANCES[precision].relative_difference), precision)
    assert parity.neighbour_difference > TOLERANCES[precision].relative_difference
    error = refusal(parity, precision)
    assert error.reason == "parity"
    assert "neighbours" in str(error)


def alternating(part):
    """A runtime whose logits are too large at the first position, and too small at all others."""

    def run(pixels):
        logits = right(pixels)
        logits[:1] *= np.float32(1 + part)
        logits[1:] *= np.float32(1 - part)
        return logits

    return run


def test_a_dependence_on_neighbours_alone_has_a_reason_of_its_own():
    # Every difference from the network is within the tolerance, and the difference between two runs is not.
    parity = measured(alternating(0.08), "bf16")
    assert parity.relative_difference <= TOLERANCES["bf16"].relative_difference < parity.neighbour_difference
    error = refusal(replace_mean(parity), "bf16")
    assert error.reason == "neighbours"
    assert "neighbours" in str(error)
    assert "batches of 1, 2, 3, 8" in str(error)
    check(replace_mean(measured(alternating(0.04), "bf16")), "bf16")


def replace_mean(parity):
    """The same without a mean difference: these tests are about the largest."""
    return msgspec.structs.replace(parity, mean_difference=0.0)


def test_batches_of_one_alone_do_not_see_a_dependence_on_neighbours():
    assert measured(wrong_behind_the_first(0.5), sizes=(1,)).neighbour_difference == 0


# Which tolerance counts


def network(*, rounds_to_half):
    return SimpleNamespace(rounds_to_half=rounds_to_half)


def test_a_network_in_half_precision_is_judged_as_one():
    usual, half = network(rounds_to_half=False), network(rounds_to_half=True)
    assert [judged_as(precision, usual) for precision in TOLERANCES] == list(TOLERANCES)
    assert judged_as("fp32", half) == "fp16"
    assert judged_as("int8", half) == "int8"
    parity = compare(REFERENCE + np.float32(np.abs(REFERENCE).max() * 0.002), precision="fp16")
    check(parity, "fp16", "fp32")
    assert "the fp32 artefact" in str(refusal(compare(REFERENCE * 2), "fp16", "fp32"))


def test_tolerances_grow_with_the_loss_of_precision():
    ordered = [TOLERANCES[precision] for precision in ("fp32", "fp16", "bf16", "int8")]
    for finer, coarser in itertools.pairwise(ordered):
        assert finer.relative_difference < coarser.relative_difference
        assert finer.mean_difference < coarser.mean_difference
        assert finer.top1_agreement >= coarser.top1_agreement
        assert finer.top5_overlap >= coarser.top5_overlap
    # Calibrated artefacts clip values that no photo reaches.
    assert [tolerance.noise for tolerance in ordered] == [True, True, True, False]


# The probe's classes

LABELS = ["a", "b", "c", "d", "e", "f", "g"]


def test_the_probe_has_the_best_class_with_its_probability():
    (found,) = known_classes(np.log(np.array([[0.1, 0.7, 0.2]], np.float32)), LABELS, 0.0)
    assert (found.index, found.label, found.score) == (1, "b", 0.7)


def test_the_probe_has_the_best_of_every_row_and_those_within_the_tie_best_first():
    logits = np.array([[5.0, 4.0, 0.0, 0.0], [4.0, 5.5, 4.8, 0.0]], np.float32)
    assert [each.index for each in known_classes(logits, LABELS, 0.0)] == [0, 1]
    assert [each.index for each in known_classes(logits, LABELS, 0.6)] == [0, 1]
    assert [each.index for each in known_classes(logits, LABELS, 0.8)] == [0, 1, 2]
    # The score is the mean over the rows.
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for each in known_classes(logits, LABELS, 1.0):
        assert each.score == pytest.approx(shares[:, each.index].mean(), abs=1e-4)


def test_a_network_that_does_not_know_the_photo_has_no_classes():
    assert len(known_classes(np.zeros((1, 5), np.float32), LABELS, 0.0)) == 5
    assert known_classes(np.zeros((1, 6), np.float32), LABELS, 0.0) == []


@given(st.integers(1, 4), st.integers(1, 7), st.floats(0, 3), st.integers(0, 99))
def test_the_probe_covers_the_best_class_of_every_row(rows, classes, tie, seed):
    logits = np.random.default_rng(seed).normal(0, 2, (rows, classes)).astype(np.float32)
    found = known_classes(logits, LABELS, tie)
    if found:
        assert set(logits.argmax(axis=1).tolist()) <= {each.index for each in found}
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        assert all(each.label == LABELS[each.index] for each in found)
