"""Results as rows, and the formats of their files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from jpeg_client.prediction import Prediction

Format = Literal["table", "jsonl", "csv", "parquet"]

# The format that a file's name stands for.
BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "table",
}


@dataclass(frozen=True)
class Row:
    """The result of one image.

    Attributes:
        image: Name of the image.
        labels: Best first.
        scores: Of them.
        indices: Of them.
        error: Why there are none, or None.
        reason: Its code, or None.
    """

    image: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    indices: tuple[int, ...]
    error: str | None
    reason: str | None

    @classmethod
    def of(cls, name: str, prediction: Prediction) -> Row:
        """Return the row of a prediction."""
        return cls(name, prediction.labels, prediction.scores, prediction.indices, prediction.error, prediction.reason)


def as_text(row: Row, form: Format, k: int) -> str:
    """Return a row as text with its line break. form: "table", "jsonl" or "csv"; k: labels per image, for CSV."""
    if form == "csv":
        return _as_csv(row, k)
    return _as_table(row) if form == "table" else _as_json(row)


def _as_table(row: Row) -> str:
    name = shown(row.image)
    if row.error is not None:
        return f"{name}: error: {shown(cause_of(row))}{f' [{row.reason}]' if row.reason else ''}\n"
    pairs = ", ".join(f"{label} {score:.3f}" for label, score in zip(row.labels, row.scores, strict=True))
    return f"{name}: {pairs or 'no label'}\n"


def cause_of(row: Row) -> str:
    """Return the error of a row without the name of its image, which stands in front of it."""
    return (row.error or "").removeprefix(f"{row.image}: ")


def shown(text: str) -> str:
    """Return a text on one line."""
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _as_json(row: Row) -> str:
    # Bytes of a name that are not UTF-8 are escaped surrogates.
    return json.dumps(_fields(row)) + "\n"


def _fields(row: Row) -> dict[str, Any]:
    return {
        "image": row.image,
        "labels": row.labels,
        "scores": row.scores,
        "indices": row.indices,
        "error": row.error,
        "reason": row.reason,
    }


def csv_header(k: int) -> list[str]:
    """Return the names of the columns for k labels."""
    ranks = [f"{name}_{rank}" for rank in range(1, k + 1) for name in ("label", "score", "index")]
    return ["image", *ranks, "error", "reason"]


def _as_csv(row: Row, k: int) -> str:
    """Return a row as CSV (RFC 4180); missing labels are empty."""
    cells: list[Any] = []
    for rank in range(k):
        found = rank < len(row.labels)
        cells += [row.labels[rank], f"{row.scores[rank]:.6g}", row.indices[rank]] if found else ["", "", ""]
    return csv_line([row.image, *cells, row.error or "", row.reason or ""])


def csv_line(cells: Iterable[Any]) -> str:
    """Return one record of CSV."""
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


class Record(NamedTuple):
    """A complete record of a file.

    Attributes:
        image: Name of the image; of the header of CSV, the name of the column.
        has_failed: Whether it holds an error.
        end: Offset behind it in the file, in bytes.
    """

    image: str
    has_failed: bool
    end: int


def read_records(stream: BinaryIO, form: Format) -> Iterator[Record]:
    """Yield the complete records of a file, up to the first damaged one.

    A file that a crash has cut ends with half a record, or with zero bytes.

    Args:
        stream: The file, read from its start.
        form: "jsonl" or "csv".
    """
    yield from _read_json(stream) if form == "jsonl" else _read_csv(stream)


def _read_json(stream: BinaryIO) -> Iterator[Record]:
    offset = 0
    for line in stream:
        try:
            fields = json.loads(line)
            name, reason = fields["image"], fields["error"]
        except (ValueError, KeyError, TypeError):
            return
        offset += len(line)
        if not line.endswith(b"\n"):
            return
        yield Record(str(name), reason is not None, offset)


def _read_csv(stream: BinaryIO) -> Iterator[Record]:
    offset = 0
    is_complete = True

    def lines() -> Iterator[str]:
        nonlocal offset, is_complete
        for line in stream:
            offset += len(line)
            is_complete = line.endswith(b"\n")
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), strict=True)
    columns = None
    try:
        for record in reader:
            if not is_complete or "\0" in record[0] or (columns is not None and len(record) != columns):
                return
            yield Record(record[0], columns is not None and record[-2] != "", offset)
            columns = len(record)
    except (csv.Error, IndexError):
        return


def to_parquet(journal: Path, target: Path) -> None:
    """Write the rows of a JSON Lines file as Parquet. Bytes of a name that are not UTF-8 become \\xNN.

    Args:
        journal: The rows.
        target: The file, which is replaced when it is complete.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jpeg_client.arrow import PREDICTION_FIELDS

    schema = pa.schema([("image", pa.string()), *PREDICTION_FIELDS])
    aside = target.with_name(f".{target.name}.writing")
    try:
        with journal.open("rb") as lines, pq.ParquetWriter(aside, schema) as writer:
            for block in _blocks(lines):
                writer.write_table(pa.Table.from_pylist(block, schema=schema))
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def as_utf8(name: str) -> str:
    """Return a name as UTF-8 holds it: other bytes, which are surrogates in `name`, become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _blocks(lines: Iterable[bytes], size: int = 10_000) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for line in lines:
        fields = json.loads(line)
        for name in ("image", "error"):
            if fields[name] is not None:
                fields[name] = as_utf8(fields[name])
        block.append(fields)
        if len(block) == size:
            yield block
            block = []
    yield block


def from_parquet(source: Path, journal: BinaryIO) -> None:
    """Write the rows of a Parquet file as JSON Lines."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches():
            for fields in batch.to_pylist():
                journal.write((json.dumps(fields) + "\n").encode())
