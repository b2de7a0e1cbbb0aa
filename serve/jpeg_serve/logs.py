"""The lines that `jpeg-serve` writes to stderr: its own, and those of tritonserver and its workers.

As text, its own lines begin with the time, and tritonserver's stay as they are. As JSON, each line is one object with
`time` (RFC 3339, UTC), `level` (info, warning, error), `source` and `message`; a line of tritonserver has `file` and
`server` (its process id), too, and an entry of `jpeg-serve` that ends with a reason code has `reason`.

What a client sends can be part of a message only: JSON escapes line breaks, and a line counts as tritonserver's own
only with the process id and about the time of the server. Any other line of its processes is a message of level info.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]

_OPTION = "--log-format"

# I1128 07:30:00.581849 7986 server.cc:305] "Waiting for in-flight requests to complete."
_TRITON = re.compile(rb"([IWEF])(\d{4} \d\d:\d\d:\d\d\.\d{6}) (\d+) ([^ \]]+:\d+)\] ?(.*)", re.DOTALL)
_LEVELS = {b"I": "info", b"W": "warning", b"E": "error", b"F": "error"}
# Between the line and its arrival, on a machine that was suspended, for example.
_MOST_DELAY = timedelta(minutes=5)
# "jpeg-serve: error: ... [code]". No entry of several lines has a reason but an error: its end is this program's.
_OWN = re.compile(r"(?P<source>[a-z-]+): (?P<error>error: )?(?P<message>.*)", re.DOTALL)
_REASON = re.compile(r" \[([a-z][a-z0-9_]*)\]\Z")
_WEB = "web: "

# What tritonserver 2.51 writes where the driver shows no GPU, and no option of it prevents: it was built for GPUs, and
# works without. Each is an expected consequence, and no fault: the level becomes that of information.
_WITHOUT_GPU = (
    # server.cc: it looks for CUDA's virtual addresses whether or not there is a driver.
    re.compile(rb'E(.* server\.cc:\d+\] "CudaDriverHelper has not been initialized\.")\s*'),
    # ensemble_scheduler.cc: it creates a CUDA stream for every ensemble; the CPU path needs none.
    re.compile(
        rb'E(.* ensemble_scheduler\.cc:\d+\] "unable to create stream for [\w.-]+: '
        rb'(?:CUDA driver version is insufficient for CUDA runtime version|no CUDA-capable device is detected)")\s*'
    ),
    # pinned_memory_manager.cc: --pinned-memory-pool-byte-size=0 is meant so.
    re.compile(
        rb'W(.* pinned_memory_manager\.cc:\d+\] "failed to allocate pinned system memory: no pinned memory pool, '
        rb'falling back to non-pinned system memory")\s*'
    ),
)

OPTIONS_WITHOUT_GPU = (
    # Neither pinned memory nor GPU metrics can be had without a driver: otherwise it tries, and warns.
    "--pinned-memory-pool-byte-size=0",
    "--allow-gpu-metrics=false",
)


def expected_without_gpu(line: bytes) -> bytes:
    """Return a line of tritonserver on a machine without a GPU: information in place of an expected error."""
    for pattern in _WITHOUT_GPU:
        if match := pattern.fullmatch(line):
            return b"I" + match[1] + b"\n"
    return line


def format_triton_line(line: bytes, pid: int, log_format: LogFormat) -> bytes:
    """Return a line of tritonserver or its workers as it is written.

    Args:
        line: With its line break; JSON omits empty ones, which Triton writes around its tables.
        pid: Process id of the tritonserver.
        log_format: Of the result.
    """
    if log_format == "text":
        return line
    if not line.strip():
        return b""
    now = datetime.now(timezone.utc)
    entry: dict[str, object] = {"time": _rfc3339(now), "level": "info", "source": "tritonserver", "server": pid}
    match = _TRITON.match(line.rstrip(b"\r\n"))
    written = _time_of(match[2], now) if match is not None and match[3] == str(pid).encode() else None
    text = line
    if match is not None and written is not None:
        text = match[5]
        entry |= {"time": _rfc3339(written), "level": _LEVELS[match[1]], "file": match[4].decode(errors="replace")}
    entry["message"] = _unquoted(text.decode(errors="replace").rstrip())
    return f"{json.dumps(entry)}\n".encode()


def chosen_format(arguments: Sequence[str]) -> LogFormat:
    """Return the format that the arguments of the command choose: the last --log-format counts."""
    chosen = "text"
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == _OPTION:
            chosen = value if equals else (arguments[place + 1] if place + 1 < len(arguments) else "")
    return "json" if chosen == "json" else "text"


class LogStream(io.TextIOBase):
    """Stands in for `sys.stderr`: what is printed becomes an entry with the time, in text or in JSON.

    An entry is what was written until `print` or `flush` ends it.

    Args:
        stream: Receives the entries.
        log_format: Of the entries.
    """

    def __init__(self, stream: TextIO, log_format: LogFormat) -> None:
        self._stream, self._format = stream, log_format
        self._begun = threading.local()

    @property
    def buffer(self) -> io.BufferedIOBase:
        """The bytes of the stream, for lines that are formatted already."""
        return self._stream.buffer  # type: ignore[return-value]  # typeshed knows it as BinaryIO

    def write(self, text: str) -> int:
        """Add to the entry; a line break alone, as `print` writes it, ends it."""
        self._begun.text = getattr(self._begun, "text", "") + text
        if text == "\n":
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write the entry, if there is one."""
        text, self._begun.text = getattr(self._begun, "text", "").rstrip("\n"), ""
        if text:
            self._stream.write(self._entry(text))
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the file descriptor of the stream."""
        return self._stream.fileno()

    def _entry(self, text: str) -> str:
        time = _rfc3339(datetime.now(timezone.utc))
        if self._format == "text":
            return f"{time} {text}\n"
        match = _OWN.fullmatch(text)
        source, is_error, message = (
            (match["source"], bool(match["error"]), match["message"]) if match else ("", False, text)
        )
        entry: dict[str, object] = {"time": time, "level": "error" if is_error else "info"}
        reason = None
        if message.startswith(_WEB):
            source, message = "jpeg-web", message.removeprefix(_WEB)
        elif is_error or "\n" not in message:
            reason = _REASON.search(message)
        if reason is not None:
            message = message[: reason.start()]
            entry["level"] = "error" if is_error else "warning"
        entry |= {"source": source or "jpeg-serve", "message": message}
        if reason is not None:
            entry["reason"] = reason[1]
        return f"{json.dumps(entry)}\n"


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_of(stamp: bytes, now: datetime) -> datetime | None:
    """Return the time that a line of Triton states, in UTC and without the year; None if it is not about now."""
    for year in (now.year, now.year - 1):
        try:
            written = datetime.strptime(f"{year}{stamp.decode()}", "%Y%m%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
        except ValueError:
            continue
        if abs(now - written) < _MOST_DELAY:
            return written
    return None


def _unquoted(message: str) -> str:
    """Return a message without the quotes and escapes of Triton's default format."""
    if len(message) >= 2 and message.startswith('"') and message.endswith('"'):
        try:
            return str(json.loads(message))
        except ValueError:
            return message[1:-1]
    return message
