"""Batches of Arrow in, batches with labels out: for Spark, Ray Data and other engines (extra `parquet`)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from jpeg_client.client import Client
from jpeg_client.defaults import DEFAULT_BATCH_SIZE, DEFAULT_CONCURRENCY
from jpeg_client.errors import InvalidArgument, JpegClientError
from jpeg_client.prediction import Prediction

PREDICTION_FIELDS: tuple[pa.Field, ...] = (
    pa.field("labels", pa.list_(pa.string())),
    pa.field("scores", pa.list_(pa.float32())),
    pa.field("indices", pa.list_(pa.int32())),
    pa.field("error", pa.string()),
    pa.field("reason", pa.string()),
)
"""Columns of a prediction, as `Prediction` describes them; those of `jpeg-classify --output parquet`, too."""

MODEL_FIELD: pa.Field = pa.field("model", pa.string())
"""Name of the ensemble that made the prediction."""

_RAISED = re.compile(
    rf"^{re.escape(f'{JpegClientError.__module__}.{JpegClientError.__qualname__}')}: (.+)$", re.MULTILINE
)


def output_schema(schema: pa.Schema, image: str = "image") -> pa.Schema:
    """Return the schema of the output of `classify_batches`.

    Args:
        schema: Of its input.
        image: Name of the column of images.

    Returns:
        The columns of the input without that of encoded images (a column of paths stays), then `PREDICTION_FIELDS` and
        `MODEL_FIELD`.

    Raises:
        InvalidArgument: There is no such column, it holds no images, or an output column has the name of an input
            column.
    """
    if schema.names.count(image) != 1:
        raise InvalidArgument(
            f"the input has no column {image!r}, or several: name that of the images, one of {', '.join(schema.names)}",
            reason="invalid_column",
        )
    if not _holds_bytes(kind := schema.field(image).type) and not _holds_paths(kind):
        raise InvalidArgument(
            f"the column {image!r} has the type {kind}: images are binary, and paths or URLs of images strings",
            reason="invalid_column",
        )
    kept = [field for field in schema if field.name != image or _holds_paths(kind)]
    fields = [*kept, *PREDICTION_FIELDS, MODEL_FIELD]
    names = [field.name for field in fields]
    if taken := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidArgument(
            f"the output would have several columns {', '.join(taken)}: rename or drop those of the input",
            reason="invalid_column",
        )
    return pa.schema(fields)


def classify_batches(
    client: Client,
    batches: Iterable[pa.RecordBatch],
    k: int | None = None,
    *,
    threshold: float | None = None,
    image: str = "image",
    concurrency: int = DEFAULT_CONCURRENCY,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Iterator[pa.RecordBatch]:
    """Classify the images of batches, with several requests at a time, across the borders of the batches.

    Each row has labels, or an error and its reason code; neither, if all scores are below the threshold. A null counts
    as an image without bytes ("empty"). At most 512 images at the default concurrency and batch size are read ahead of
    the output, so that batches of some hundred rows bound the memory.

    Args:
        client: Connection to the server.
        batches: Rows; see `output_schema`. Taken in a thread of its own.
        k: Labels per image; see `Client.classify`.
        threshold: See `Client.classify`.
        image: Name of the column with encoded images, or with paths or URLs that this process opens.
        concurrency: Requests at a time.
        batch_size: Images per request; the server's limit applies, too.

    Yields:
        The rows of each batch, in order, with the columns of `output_schema`.

    Raises:
        JpegClientError: `Client.classify_stream` has ended. The message ends with the reason code, because engines pass
            on the text of an exception only.
        InvalidArgument: See `output_schema`.
    """
    waiting: deque[pa.RecordBatch] = deque()

    def images() -> Iterator[str | bytes | memoryview]:
        for batch in batches:
            output_schema(batch.schema, image)
            waiting.append(batch)
            yield from _images(batch.column(image))

    predictions: list[Prediction] = []
    try:
        stream = client.classify_stream(
            images(), k, threshold=threshold, concurrency=concurrency, batch_size=batch_size
        )
        for each in stream:
            while not waiting[0].num_rows:
                yield _output(waiting.popleft(), image, (), client.model)
            predictions.append(each.prediction)
            if len(predictions) == waiting[0].num_rows:
                yield _output(waiting.popleft(), image, predictions, client.model)
                predictions = []
    except JpegClientError as error:
        # Of the base class: some of its subclasses cannot be unpickled.
        raise JpegClientError(f"{error} [{error.reason}]", reason=error.reason) from error
    while waiting:  # those without rows
        yield _output(waiting.popleft(), image, (), client.model)


def cause(error: BaseException) -> str:
    """Return the message of `classify_batches` from an engine's exception, whose text holds the worker's traceback.

    Returns:
        The message with its reason code; the whole text if the exception has another cause.
    """
    raised = _RAISED.search(str(error))
    return raised[1] if raised else f"{type(error).__name__}: {error}"


def _images(column: pa.Array) -> Iterator[str | bytes | memoryview]:
    is_path = _holds_paths(column.type)
    for cell in column:
        if not cell.is_valid:
            yield b""
        else:
            yield cell.as_py() if is_path else memoryview(cell.as_buffer())  # without a copy


def _output(batch: pa.RecordBatch, image: str, predictions: Sequence[Prediction], model: str) -> pa.RecordBatch:
    schema = output_schema(batch.schema, image)
    added = [pa.array([getattr(each, field.name) for each in predictions], field.type) for field in PREDICTION_FIELDS]
    kept = [batch.column(field.name) for field in schema if field.name in batch.schema.names]
    return pa.RecordBatch.from_arrays([*kept, *added, pa.repeat(model, len(predictions))], schema=schema)


def _holds_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _holds_paths(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())
