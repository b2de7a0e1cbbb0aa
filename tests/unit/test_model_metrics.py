"""The measurements of a batch; a failure to count never costs a response."""

import threading
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError, Reason
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import Preprocessor
from jpeg_runtime import metrics
from jpeg_runtime.metrics import Measurements, Metrics
from support import encode, noise


class Family:
    """Triton's MetricFamily as far as a model uses it; the values stay here."""

    COUNTER, HISTOGRAM = "counter", "histogram"
    values: dict[tuple[str, str], list[float]]

    def __init__(self, name, description, kind):
        self.name, self.kind = name, kind

    def Metric(self, labels, buckets=None):  # noqa: N802  # Triton's name
        assert (self.kind == "histogram") == bool(buckets)
        return Kept(self.values.setdefault((self.name, labels.get("reason", "")), []), self.kind)


class Kept:
    def __init__(self, values, kind):
        self.values, self.kind = values, kind

    def increment(self, value):
        assert self.kind == "counter"
        self.values.append(value)

    def observe(self, value):
        assert self.kind == "histogram"
        self.values.append(value)


@pytest.fixture
def family():
    return type("OfThisTest", (Family,), {"values": {}})


def args_of(model):
    return {"model_name": model, "model_version": "1"}


def test_a_batch_is_measured_image_by_image():
    images = [encode(noise(300, 200)), b"", b"no", encode(noise(20, 30))]
    preprocessor = Preprocessor(PreprocessSettings(Geometry(32, (24, 24)), threads=2))
    decoded = preprocessor.decode(images)
    preprocessor.close()
    assert all(seconds > 0 for seconds in decoded.seconds)
    measured = Measurements()
    measured.decoded(images, decoded.errors, decoded.seconds)
    assert measured.counts == {metrics.DECODED: 2, metrics.rejected("empty"): 1, metrics.rejected("not_jpeg"): 1}
    assert measured.observed == {
        metrics.BATCH_IMAGES: [4],
        metrics.SIZE_BYTES: [len(image) for image in images],
        metrics.DECODE_SECONDS: decoded.seconds,
    }


def test_an_empty_batch_is_not_measured():
    measured = Measurements()
    measured.decoded([], [], [])
    assert measured == Measurements()


@pytest.mark.parametrize(
    ("failures", "errors", "answered", "not_finite"),
    [
        ([b"", b""], [b"", b""], 2, 0),
        ([b"", b"why"], [b"", b"why"], 1, 0),
        ([b"", b"why", b""], [b"", b"why", b"broken"], 1, 1),
        ([b"", b"why"], None, 0, 1),
    ],
)
def test_an_image_is_counted_where_it_failed(failures, errors, answered, not_finite):
    measured = Measurements()
    measured.answered(failures, errors)
    assert measured.counts == {metrics.ANSWERED: answered, metrics.rejected("not_finite"): not_finite}


def test_each_reason_belongs_to_one_model():
    before = {series.reason for series in metrics.PREPROCESS_SERIES if "rejected" in series.name}
    after = {series.reason for series in metrics.POSTPROCESS_SERIES if "rejected" in series.name}
    assert before | after == set(get_args(Reason))
    assert not before & after


def test_measurements_of_several_threads_arrive_once_and_complete(family, monkeypatch):
    monkeypatch.setattr(metrics, "MOST_OBSERVED", 10_000)
    registered = Metrics(family, metrics.PREPROCESS_SERIES, args_of("preprocess"))

    def work():
        for _ in range(200):
            measured = Measurements()
            measured.decoded([b"ab", b""], [None, ImageError("empty", "empty")], [0.5, 0.25])
            registered.add(measured)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registered.close()
    assert sum(family.values["jpeg_images_decoded_total", ""]) == 800
    assert sum(family.values["jpeg_images_rejected_total", "empty"]) == 800
    assert family.values["jpeg_images_rejected_total", "corrupt"] == []
    assert sorted(family.values["jpeg_image_size_bytes", ""]) == [0] * 800 + [2] * 800
    assert family.values["jpeg_batch_images", ""] == [2] * 800
    # Gathered: far fewer updates than batches.
    assert len(family.values["jpeg_images_decoded_total", ""]) < 100


def test_a_triton_without_histograms_costs_the_metrics_only(family, caplog):
    class Old:
        COUNTER = "counter"

        def __init__(self, **_):
            raise RuntimeError("no such kind")

    registered = Metrics(Old, metrics.PREPROCESS_SERIES, args_of("preprocess"))
    registered.add(Measurements())
    registered.close()
    assert "preprocess has no metrics of its own" in caplog.text


def test_a_failed_update_is_logged_and_the_next_one_counts(family, caplog, monkeypatch):
    registered = Metrics(family, metrics.POSTPROCESS_SERIES, args_of("postprocess"))
    failed = threading.Event()

    def fail(_, value):
        failed.set()
        raise RuntimeError("the family has been deleted")

    whole = Kept.increment
    monkeypatch.setattr(Kept, "increment", fail)
    measured = Measurements()
    measured.count(metrics.ANSWERED)
    registered.add(measured)
    assert failed.wait(10)
    monkeypatch.setattr(Kept, "increment", whole)
    registered.add(measured)
    registered.close()
    assert sum(family.values["jpeg_images_answered_total", ""]) == 1
    assert "the metrics could not be updated" in caplog.text


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60))
def test_a_sample_is_even_and_complete_if_it_can_be(values, most):
    taken = metrics.sample(values, most)
    assert len(taken) == min(len(values), most)
    if len(values) <= most:
        assert taken == values
    else:
        places = [index * len(values) // most for index in range(most)]
        assert list(taken) == [values[place] for place in places]
        assert max(later - sooner for sooner, later in zip(places, [*places[1:], len(values)], strict=True)) <= (
            len(values) // most + 1
        )


def test_many_images_are_counted_exactly_and_sampled(family):
    made = Metrics(family, metrics.PREPROCESS_SERIES, args_of("preprocess"))
    many = 4 * metrics.MOST_OBSERVED
    measured = Measurements()
    measured.decoded([b"x" * size for size in range(many)], [None] * many, [0.001] * many)
    made.add(measured)
    made.close()
    assert sum(family.values["jpeg_images_decoded_total", ""]) == many
    sizes = family.values["jpeg_image_size_bytes", ""]
    assert len(sizes) == metrics.MOST_OBSERVED
    assert sizes == sorted(sizes)
    assert sizes[-1] > many - 10
