"""Batches of Arrow through the client: rows, columns, errors."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jpeg_client import Client, InvalidArgument, JpegClientError
from jpeg_client.arrow import MODEL_FIELD, PREDICTION_FIELDS, cause, classify_batches, output_schema
from support import PHOTOS, photo, run_module

NAMES = ("chelsea", "china", "coffee", "grace_hopper")
ADDED = [*(field.name for field in PREDICTION_FIELDS), MODEL_FIELD.name]


def batch(images: list[bytes | None], kind: pa.DataType, first: int = 0) -> pa.RecordBatch:
    """Rows with a number before the image, and a tag behind it."""
    numbers = range(first, first + len(images))
    schema = pa.schema([("number", pa.int64()), ("image", kind), ("tag", pa.dictionary(pa.int8(), pa.string()))])
    rows = [
        {"number": number, "image": image, "tag": f"tag {number}"}
        for number, image in zip(numbers, images, strict=True)
    ]
    return pa.RecordBatch.from_pylist(rows, schema)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_each_row_gets_the_prediction_of_its_image(client: Client, kind: pa.DataType) -> None:
    """In requests across the borders of batches, some of which have no rows."""
    images: list[bytes | None] = [*map(photo, NAMES), b"hello", None, *map(photo, reversed(NAMES))]
    parts = [images[:0], images[:1], images[1:5], [], [], images[5:6], images[6:], []]
    firsts = [sum(map(len, parts[:index])) for index in range(len(parts))]
    batches = [batch(part, kind, first) for part, first in zip(parts, firsts, strict=True)]
    outputs = list(classify_batches(client, iter(batches), 2, concurrency=2, batch_size=3))
    assert [each.num_rows for each in outputs] == [each.num_rows for each in batches]
    assert {each.schema for each in outputs} == {output_schema(batches[0].schema)}
    table = pa.Table.from_batches(outputs)
    assert table.column_names == ["number", "tag", *ADDED]
    assert table["tag"].to_pylist() == [f"tag {number}" for number in range(len(images))]
    expected = client.classify([image or b"" for image in images], k=2)
    assert [row["reason"] for row in table.to_pylist()] == [None] * 4 + ["not_jpeg", "empty"] + [None] * 4
    for number, (row, prediction) in enumerate(zip(table.to_pylist(), expected, strict=True)):
        assert (row["number"], row["model"]) == (number, "jpeg_classifier")
        assert (row["error"], row["reason"]) == (prediction.error, prediction.reason)
        assert (tuple(row["labels"]), tuple(row["indices"])) == (prediction.labels, prediction.indices)
        assert row["scores"] == pytest.approx(prediction.scores, abs=1e-6)


def test_a_slice_of_a_batch_holds_its_own_rows(client: Client) -> None:
    whole = batch([*map(photo, NAMES)], pa.binary())
    (output,) = classify_batches(client, [whole.slice(2, 1)], 1)
    assert output.select(["number", "labels"]).to_pylist() == [{"number": 2, "labels": ["espresso"]}]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_a_column_of_paths_is_read_and_kept(client: Client, kind: pa.DataType) -> None:
    paths = [str(PHOTOS / "coffee.jpg"), str(PHOTOS / "missing.jpg"), None]
    rows = pa.RecordBatch.from_arrays([pa.array(paths, kind)], ["path"])
    (output,) = classify_batches(client, [rows], 1, image="path")
    assert output.schema.names == ["path", *ADDED]
    assert output["path"].to_pylist() == paths
    assert output["labels"].to_pylist() == [["espresso"], [], []]
    assert output["reason"].to_pylist() == [None, "file_missing", "empty"]


def test_batches_are_not_taken_far_ahead(client: Client) -> None:
    """At most 4 x concurrency x batch_size images, and the batch behind them."""
    taken = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal taken
        while True:
            taken += 1
            yield batch([b"hello", b"world"], pa.binary())

    stream = classify_batches(client, batches(), concurrency=1, batch_size=2)
    for given in range(1, 20):
        assert next(stream)["reason"].to_pylist() == ["not_jpeg", "not_jpeg"]
        assert taken <= given + 4 + 1
    del stream


def test_no_batches_give_none(client: Client) -> None:
    assert list(classify_batches(client, [])) == []


IMAGE = pa.field("image", pa.binary())


@pytest.mark.parametrize(
    "fields",
    [
        [("photo", pa.binary())],
        [IMAGE, IMAGE],
        [("image", pa.int64())],
        [("image", pa.list_(pa.uint8()))],
        [IMAGE, ("labels", pa.string())],
        [IMAGE, ("name", pa.string()), ("name", pa.string())],
        [("image", pa.string()), ("model", pa.string())],
    ],
    ids=["missing", "twice", "numbers", "lists", "labels", "duplicate", "model"],
)
def test_columns_that_do_not_fit_are_refused(client: Client, fields: list[pa.Field]) -> None:
    schema = pa.schema(fields)
    with pytest.raises(InvalidArgument) as refused:
        output_schema(schema)
    assert refused.value.reason == "invalid_column"
    with pytest.raises(InvalidArgument):
        list(classify_batches(client, schema.empty_table().to_batches() or [pa.RecordBatch.from_pylist([], schema)]))


def test_an_absent_server_ends_the_batches_with_its_reason_in_the_text() -> None:
    with (
        Client("grpc://localhost:1", timeout_s=0.5) as client,
        pytest.raises(JpegClientError, match=r"localhost:1\b.* \[server_unavailable\]$") as failed,
    ):
        list(classify_batches(client, [batch([b"hello"], pa.binary())]))
    sent = pickle.loads(pickle.dumps(failed.value))
    assert (str(sent), sent.reason) == (str(failed.value), "server_unavailable")
    # As engines pass it on.
    traceback = f"Task 3 failed:\n  File 'worker.py'\n{JpegClientError.__module__}.JpegClientError: {sent}\nmore"
    assert cause(RuntimeError(traceback)) == str(sent)
    assert cause(RuntimeError("the disk is full")) == "RuntimeError: the disk is full"


def test_a_refused_request_survives_the_way_to_the_driver(client: Client) -> None:
    with pytest.raises(JpegClientError) as failed:
        list(classify_batches(client, [batch([photo("coffee")], pa.binary())], 5000))
    sent = pickle.loads(pickle.dumps(failed.value))
    assert str(sent).endswith(f"[{sent.reason}]")
    assert sent.reason in ("invalid_k", "request_refused")


def test_the_columns_are_those_of_jpeg_classify(client: Client, tmp_path: Path) -> None:
    target = tmp_path / "labels.parquet"
    done = run_module("jpeg_client", PHOTOS / "coffee.jpg", "--to", target, "-q", "--url", client.url)
    assert done.returncode == 0, done.stderr
    written = pq.read_schema(target)
    rows = pa.schema([("image", pa.string()), *PREDICTION_FIELDS])
    assert written.names == rows.names
    # Parquet has a name of its own for the items of a list.
    assert [str(kind).replace("element", "item") for kind in written.types] == [str(kind) for kind in rows.types]
