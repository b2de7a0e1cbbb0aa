"""The measurements of a batch; a failure to count never costs a response."""

import itertools
import threading
from typing import ClassVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jpeg_contract.geometry import Geometry
from jpeg_contract.image_errors import ImageError, Reason
from jpeg_contract.settings import PreprocessSettings
from jpeg_preprocess import Preprocessor
from jpeg_runtime import metrics
from jpeg_runtime.metrics import Measurements, Metrics
from jpeg_serve.triton_metrics import with_histograms
from prometheus_client.parser import text_string_to_metric_families
from support import encode, noise


class Family:
    """Triton's MetricFamily as far as a model uses it; the increments stay here."""

    COUNTER = "counter"
    values: ClassVar[dict[tuple[str, str], list[float]]]

    def __init__(self, name, description, kind):
        assert kind == "counter"
        self.name = name

    def Metric(self, labels):  # noqa: N802  # Triton's name
        return Kept(self.values.setdefault((self.name, labels.get("reason", labels.get("le", ""))), []))


class Kept:
    def __init__(self, values):
        self.values = values

    def increment(self, value):
        assert value > 0
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
    measured.answered(failures, errors, [0.5] * len(failures))
    assert measured.counts == {metrics.ANSWERED: answered, metrics.rejected("not_finite"): not_finite}
    assert measured.observed.get(metrics.ANSWER_SECONDS, []) == [0.5] * answered


@given(st.lists(st.tuples(st.sampled_from([b"", b"why"]), st.integers(0, 2**32 - 1))))
def test_only_answered_images_have_a_duration(images):
    errors, seconds = [error for error, _ in images], [microseconds / 1e6 for _, microseconds in images]
    measured = Measurements()
    measured.answered(errors, errors, seconds)
    observed = measured.observed.get(metrics.ANSWER_SECONDS, [])
    assert observed == [each for error, each in zip(errors, seconds, strict=True) if not error]
    assert len(observed) == measured.counts[metrics.ANSWERED]


def test_the_buckets_of_the_duration_suit_a_gpu_as_well_as_a_busy_cpu():
    ends = metrics.ANSWER_SECONDS.buckets
    assert (ends[0], ends[-1]) == (0.001, 10)
    # A quantile is interpolated within a bucket: it is wrong by this factor at most, and by less where it matters.
    assert all(1.25 < after / before <= 2.5 for before, after in itertools.pairwise(ends))
    assert any(0.001 < end <= 0.003 for end in ends)
    assert 1 in ends  # the limit of the alert JpegSlow


def test_each_reason_belongs_to_one_model():
    before = {series.reason for series in metrics.PREPROCESS_SERIES if "rejected" in series.name}
    after = {series.reason for series in metrics.POSTPROCESS_SERIES if "rejected" in series.name}
    assert before | after == set(get_args(Reason))
    assert not before & after


def test_measurements_of_several_threads_arrive_once_and_complete(family):
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
    assert sum(family.values["jpeg_image_size_bytes_count", ""]) == 1600
    assert sum(family.values["jpeg_image_size_bytes_sum", ""]) == 1600
    assert sum(family.values["jpeg_batch_images_bucket", "1"]) == 0
    assert sum(family.values["jpeg_batch_images_bucket", "2"]) == 800
    # Gathered: far fewer updates than batches, and than images.
    assert all(len(updates) < 100 for updates in family.values.values())


def test_a_triton_without_such_metrics_costs_the_metrics_only(family, caplog):
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


@given(st.lists(st.integers(0, 2**26), min_size=1, max_size=50))
def test_a_histogram_of_counters_is_that_of_its_values(sizes):
    class OfThisExample(Family):
        values: ClassVar[dict[tuple[str, str], list[float]]] = {}

    made = Metrics(OfThisExample, metrics.PREPROCESS_SERIES, args_of("preprocess"))
    measured = Measurements()
    measured.observe(metrics.SIZE_BYTES, sizes)
    made.add(measured)
    made.close()
    text = "".join(
        f"# HELP {name} Length\n# TYPE {name} counter\n{name}{labels} {sum(increments)}\n"
        for (name, le), increments in reversed(OfThisExample.values.items())
        if name.startswith("jpeg_image_size_bytes")
        for labels in [f'{{model="preprocess",le="{le}"}}' if le else '{model="preprocess"}']
    )
    other = '# HELP nv_energy Joules\n# TYPE nv_energy counter\nnv_energy{gpu="0"} 5\n'
    energy, histogram = text_string_to_metric_families(with_histograms(text + other))
    assert (energy.samples[0].value, histogram.type, histogram.name) == (5, "histogram", "jpeg_image_size_bytes")
    found = {sample.labels.get("le", sample.name): sample.value for sample in histogram.samples}
    ends = {**{f"{end:.0f}": end for end in metrics.SIZE_BYTES.buckets}, "+Inf": float("inf")}
    assert list(found)[: len(ends)] == list(ends)
    assert found == {
        **{le: sum(size <= end for size in sizes) for le, end in ends.items()},
        "jpeg_image_size_bytes_sum": sum(sizes),
        "jpeg_image_size_bytes_count": len(sizes),
    }
