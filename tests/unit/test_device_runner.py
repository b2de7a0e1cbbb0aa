"""Batches on a device, with memory of this process in place of a device's."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.parameters import SettingsError
from jpeg_runtime.batching import run_batch
from jpeg_runtime.device_runner import DeviceRunner, FrequentSizes, gathering
from jpeg_runtime.loading import Classifier
from jpeg_runtime.serving_config import ServingConfig
from support import as_parameters, classifier_args


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_parts_of_any_length_pass_through_the_buffer_in_order_and_fill_it(sizes, capacity):
    runs = gathering(sizes, capacity)
    rows = [
        (copy.part, copy.start + row, run, copy.at + row)
        for run, copies in enumerate(runs)
        for copy in copies
        for row in range(copy.stop - copy.start)
    ]
    assert [row[:2] for row in rows] == [(part, row) for part, size in enumerate(sizes) for row in range(size)]
    assert [row[2:] for row in rows] == [divmod(place, capacity) for place in range(sum(sizes))]
    assert all(copy.start < copy.stop for copies in runs for copy in copies)


@given(st.lists(st.integers(1, 6), max_size=60), st.integers(1, 4), st.integers(0, 3))
def test_sizes_are_chosen_once_when_they_are_frequent_first_come_first_served(sizes, after, at_most):
    frequent = FrequentSizes(after=after, at_most=at_most)
    chosen = [(place, size) for place, size in enumerate(sizes) if frequent.chosen_now(size)]
    often = [place for place, size in enumerate(sizes) if sizes[: place + 1].count(size) == after]
    assert chosen == [(place, sizes[place]) for place in often[:at_most]]


def frequent_sizes(*, default=True, **config):
    args = classifier_args("/models/classifier", "tensorrt", **config)
    return FrequentSizes.from_config(ServingConfig.from_triton(args), default=default)


def chosen(**config):
    frequent = frequent_sizes(**config)
    return [frequent.chosen_now(size) for size in [1] * 9 + [2] * 9 + [1, 2]]


def test_graphs_are_switched_by_the_native_backends_setting_and_bounded_by_parameters():
    assert chosen() == [False] * 18 + [True, True]
    assert not any(chosen(optimization={"cuda": {"graphs": False}}))
    assert not any(chosen(optimization={"cuda": {}}))
    assert chosen(optimization={"cuda": {"graphs": True}})[-2:] == [True, True]
    assert chosen(parameters=as_parameters({"cuda_graph_sizes": "1"}))[-2:] == [True, False]
    assert chosen(parameters=as_parameters({"cuda_graph_after": "1"}))[0]
    assert not any(chosen(default=False))
    assert any(chosen(default=False, optimization={"cuda": {"graphs": True}}))
    with pytest.raises(SettingsError, match=r"cuda_graph_after is '0': .*at least 1") as caught:
        chosen(parameters=as_parameters({"cuda_graph_after": "0"}))
    assert caught.value.reason == "invalid_setting"


class Memory(DeviceRunner):
    """A runner whose device is this process, and whose network adds up the values of an image."""

    def __init__(self, smallest=1, largest=4, frequent=None, *, capturable=True):
        super().__init__(
            item=(2,), smallest=smallest, largest=largest, frequent=frequent or FrequentSizes(after=1, at_most=0)
        )
        self.buffer = np.zeros((largest, 2), np.uint8)
        self.capturable, self.ran, self.replayed, self.settled, self.copies = capturable, [], [], 0, 0

    def from_capsule(self, capsule):
        return np.asarray(capsule)

    def _active(self):
        return nullcontext()

    def _put_host(self, parts, at):
        self.copies += 1
        self.buffer[at : at + sum(map(len, parts))] = np.concatenate(parts)

    def _put_device(self, rows, at):
        self.copies += 1
        self.buffer[at : at + len(rows)] = rows.values

    def _infer(self, rows):
        self.ran.append(rows)
        if (self.buffer[:rows] == 255).any():
            raise RuntimeError("too bright")
        self.output = self.buffer[:rows].sum(axis=1, dtype=np.float32)

    def _capture(self, rows):
        if not self.capturable:
            raise RuntimeError("cannot be captured")
        return rows

    def _replay(self, graph):
        self.replayed.append(graph)
        self._infer(graph)

    def _fetch(self, rows):
        return self.output[:rows].copy()

    def _settle(self):
        self.settled += 1
        self.buffer[:] = 0


@given(
    st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=5), max_size=6),
    st.integers(1, 3),
    st.integers(0, 4),
    st.integers(0, 2),
)
def test_batches_are_split_or_padded_and_every_request_gets_its_rows(batches, smallest, more, graphs):
    runner = Memory(smallest, smallest + more, FrequentSizes(after=2, at_most=graphs))
    rng = np.random.default_rng(0)
    for sizes in batches:
        parts = [rng.integers(0, 100, (size, 2), np.uint8) for size in sizes]
        for part, logits in zip(parts, runner(parts), strict=True):
            assert np.array_equal(logits, part.sum(axis=1))
    assert all(smallest <= rows <= smallest + more for rows in runner.ran)
    assert len(runner.graph_sizes) <= graphs
    assert set(runner.replayed) == set(runner.graph_sizes)


class OnDevice:
    """Rows that are no array of NumPy."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        return OnDevice(self.values[rows])


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8))
def test_rows_of_host_and_device_keep_their_order(parts):
    runner = Memory(1, 4)
    arrays = [np.full((size, 2), place, np.uint8) for place, (size, _) in enumerate(parts)]
    given_to = [OnDevice(array) if on_device else array for array, (_, on_device) in zip(arrays, parts, strict=True)]
    for place, logits in enumerate(runner(given_to)):
        assert logits.tolist() == [2 * place] * parts[place][0]


def test_neighbours_in_host_memory_are_one_copy():
    runner = Memory(1, 4)
    runner([np.ones((1, 2), np.uint8)] * 4)
    assert runner.copies == 1


def test_a_size_that_cannot_be_captured_runs_without_and_is_not_tried_again(caplog):
    runner = Memory(frequent=FrequentSizes(after=1, at_most=3), capturable=False)
    for _ in range(3):
        assert runner([np.ones((2, 2), np.uint8)])[0].tolist() == [2, 2]
    assert runner.graph_sizes == []
    (record,) = caplog.records
    assert "batches of 2 cannot be captured" in record.message


def test_a_batch_that_fails_on_the_device_is_settled_and_costs_one_request_only():
    runner = Memory(largest=8)
    images = [np.full((2, 2), value, np.uint8) for value in (1, 255, 3)]
    outcomes = run_batch(runner, images)
    assert runner.ran == [6, 2, 2, 2]
    assert runner.settled == 2
    assert [None if isinstance(outcome, Exception) else outcome.tolist() for outcome in outcomes] == [
        [2, 2],
        None,
        [6, 6],
    ]


def test_pixels_of_another_shape_are_refused_before_anything_is_copied():
    runner = Memory()
    with pytest.raises(ValueError, match=r"shape \[1, 3\], but each image is \[2\]"):
        runner([np.zeros((1, 2), np.uint8), np.zeros((1, 3), np.uint8)])
    assert runner.ran == []


def test_an_open_classifier_takes_device_tensors_if_it_runs_on_a_device():
    classifier = Classifier(Memory())
    assert classifier.takes_device_tensors
    parts = [classifier.from_capsule([[1, 2], [3, 4]]), np.array([[5, 6]], np.uint8)]
    assert [logits.tolist() for logits in classifier.run_each(parts)] == [[3, 7], [11]]
    assert classifier(parts[1]).tolist() == [11]
    assert not Classifier(lambda pixels: pixels).takes_device_tensors
