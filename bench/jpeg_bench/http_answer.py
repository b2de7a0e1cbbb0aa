"""HTTP/1.1 answers: where one ends, and what is in it."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)

INCOMPLETE = -1
UNTIL_CLOSE = -2


def end_of_answer(data: bytes) -> int:
    """The length of the answer that `data` begins with; INCOMPLETE, or UNTIL_CLOSE if only the close ends it."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return INCOMPLETE
    if length := _LENGTH.search(data, 0, head):
        end = head + 4 + int(length[1])
        return end if len(data) >= end else INCOMPLETE
    if _CHUNKED.search(data, 0, head):
        return _chunks(data, head + 4)[1]
    return UNTIL_CLOSE


def status(data: bytes) -> int:
    """The status of an answer that begins with its status line; 0 if it is no HTTP."""
    return int(data[9:12]) if data.startswith(b"HTTP/1.") and data[9:12].isdigit() else 0


def closes(data: bytes) -> bool:
    """Whether the server closes the connection after this answer."""
    return data.startswith(b"HTTP/1.0") or _CLOSES.search(data, 0, max(0, data.find(b"\r\n\r\n"))) is not None


def headers_and_body(data: bytes) -> tuple[dict[str, str], bytes]:
    """The headers, with names in small letters, and the body of a complete answer."""
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    headers = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, _, value in lines}
    if _CHUNKED.search(head):
        rest = b"".join(_chunks(data, len(head) + 4)[0])
    return headers, rest


def _chunks(data: bytes, position: int) -> tuple[list[bytes], int]:
    """The chunks from there on, and where the last one ends: RFC 9112, section 7.1."""
    found: list[bytes] = []
    while True:
        line = data.find(b"\r\n", position)
        if line < 0:
            return found, INCOMPLETE
        size = int(data[position:line].split(b";")[0], 16)
        position = line + 2
        if size == 0:
            # An empty line ends the trailers, of which there are none as a rule.
            end = position + 2 if data[position : position + 2] == b"\r\n" else data.find(b"\r\n\r\n", position) + 4
            return found, end if 4 <= end <= len(data) else INCOMPLETE
        found.append(data[position : position + size])
        position += size + 2
        if position > len(data):
            return found, INCOMPLETE
