"""Where the rows go: standard output, or a file that an interrupted run continues."""

from __future__ import annotations

import fcntl
import io
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from jpeg_contract.command_line import FAILED, fail

from jpeg_client.command.rows import (
    Format,
    Row,
    as_text,
    as_utf8,
    cause_of,
    csv_header,
    csv_line,
    from_parquet,
    read_records,
    shown,
    to_parquet,
)
from jpeg_client.errors import InvalidArgument
from jpeg_client.packages import require_package

_SYNC_S = 5.0
"""A power cut costs the rows of this time at most; they are classified again."""


class Output(Protocol):
    """Takes rows.

    Attributes:
        failed_before: Rows with an error of an earlier run.
    """

    failed_before: int

    def is_done(self, name: str, /) -> bool:
        """Whether an earlier run has written the row of an image."""
        ...

    def write(self, row: Row) -> None:
        """Write a row."""
        ...


class StandardOutput:
    """Rows as text on standard output; in a table, errors go to standard error.

    Args:
        form: "table", "jsonl" or "csv".
        k: Labels per image, for CSV.
        command: Name of the command, for errors.
    """

    failed_before = 0

    def __init__(self, form: Format, k: int, command: str) -> None:
        self._form, self._k, self._command = form, k, command
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape", newline="")  # names need not be UTF-8
        if form == "csv":
            sys.stdout.write(csv_line(csv_header(k)))

    def is_done(self, _name: str) -> bool:
        """Nothing: this output cannot be continued."""
        return False

    def write(self, row: Row) -> None:
        """See Output."""
        if self._form != "table" or row.error is None:
            sys.stdout.write(as_text(row, self._form, self._k))
            sys.stdout.flush()
            return
        fail(self._command, f"{shown(row.image)}: {cause_of(row)}", FAILED, reason=row.reason or "image_refused")


class FileOutput:
    """Rows in a file that only grows, so that an interrupted run loses none that are written.

    Parquet cannot grow: its rows lie in a journal, NAME.unfinished.jsonl, until all are there.

    Args:
        target: The file.
        form: Its format.
        k: Labels per image, for CSV.
        resume: Whether to continue what an earlier run has written.

    Raises:
        InvalidArgument: The file exists and is not to be continued, cannot be, or another run writes it.
        OSError: It cannot be written.
    """

    def __init__(self, target: Path, form: Format, k: int, *, resume: bool) -> None:
        self._target, self._form, self._k = target, form, k
        if target.exists() and not target.is_file():
            # Reading a device may never end.
            raise InvalidArgument(f"{target} is not a regular file", reason="invalid_call")
        is_parquet = form == "parquet"
        if is_parquet:
            require_package("pyarrow", "parquet")
        self._grown = target.with_name(f"{target.name}.unfinished.jsonl") if is_parquet else target
        self._written: Format = "jsonl" if is_parquet else form
        if resume and form == "table":
            raise InvalidArgument(
                "a table cannot be continued: use --output jsonl, csv or parquet", reason="invalid_call"
            )
        if not resume and (target.exists() or self._grown.exists()):
            raise InvalidArgument(f"{target} exists: continue it with --resume, or remove it", reason="output_exists")
        self._stream: BinaryIO = self._grown.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidArgument(f"another run writes {target}", reason="output_in_use") from None
        self._synced = time.monotonic()
        self._done = DoneNames()
        self.failed_before = 0
        if resume:
            self._continue()
        if form == "csv":
            self._check_header()

    def is_done(self, name: str) -> bool:
        """See Output."""
        return self._as_written(name) in self._done

    def write(self, row: Row) -> None:
        """See Output."""
        self._stream.write(as_text(row, self._written, self._k).encode("utf-8", "surrogateescape"))
        self._stream.flush()
        if time.monotonic() - self._synced > _SYNC_S:
            os.fsync(self._stream.fileno())
            self._synced = time.monotonic()

    def finish(self) -> None:
        """Complete the file, when all rows are written."""
        os.fsync(self._stream.fileno())
        if self._form == "parquet":
            to_parquet(self._grown, self._target)
            self._grown.unlink()

    def close(self) -> None:
        """Keep what is written, to be continued."""
        self._stream.close()
        self._done.close()

    def _continue(self) -> None:
        """Read the names of the rows that are there, and remove the half of one behind them."""
        if self._form == "parquet" and self._stream.tell() == 0 and self._target.exists():
            from_parquet(self._target, self._stream)
        self._stream.seek(0)
        end = 0
        for record in read_records(self._stream, self._written):
            self._done.add(self._as_written(record.image))
            self.failed_before += record.has_failed
            end = record.end
        self._stream.truncate(end)
        self._stream.seek(0, os.SEEK_END)

    def _as_written(self, name: str) -> str:
        """Return a name as the finished file has it."""
        return as_utf8(name) if self._form == "parquet" else name

    def _check_header(self) -> None:
        header = csv_line(csv_header(self._k)).encode()
        if self._stream.tell() == 0:
            self._stream.write(header)
            return
        self._stream.seek(0)
        if self._stream.readline() != header:
            raise InvalidArgument(
                f"{self._target} has other columns than a run with {self._k} labels per image: continue it with the "
                "same -k",
                reason="other_columns",
            )
        self._stream.seek(0, os.SEEK_END)


class DoneNames:
    """A set of names on the disk, so that millions of them need no memory."""

    def __init__(self) -> None:
        # The empty name: a temporary database, which SQLite removes. One thread fills it, then another one reads it.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("CREATE TABLE done (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, name: str) -> None:
        """Add a name."""
        self._database.execute("INSERT OR IGNORE INTO done VALUES (?)", (os.fsencode(name),))

    def __contains__(self, name: str) -> bool:
        found = self._database.execute("SELECT 1 FROM done WHERE name = ?", (os.fsencode(name),))
        return found.fetchone() is not None

    def close(self) -> None:
        """Remove the set."""
        self._database.close()


@contextmanager
def open_file(target: Path, form: Format, k: int, *, resume: bool) -> Iterator[FileOutput]:
    """Open a file of rows; see `FileOutput`. It is completed if the block ends without an exception."""
    output = FileOutput(target, form, k, resume=resume)
    try:
        yield output
        output.finish()
    finally:
        output.close()
