"""HTTP/1.1 responses: their length, status, headers and body."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)

INCOMPLETE = -1
UNTIL_CLOSE = -2


def response_length(data: bytes) -> int:
    """Return the length of the response that `data` begins with.

    Returns:
        Number of bytes, INCOMPLETE, or UNTIL_CLOSE if the response lasts until the server closes the connection.
    """
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
    """Return the HTTP status; 0 if the data is not an HTTP response."""
    return int(data[9:12]) if data.startswith(b"HTTP/1.") and data[9:12].isdigit() else 0


def closes_connection(data: bytes) -> bool:
    """Return whether the server closes the connection after this response."""
    return data.startswith(b"HTTP/1.0") or _CLOSE.search(data, 0, max(0, data.find(b"\r\n\r\n"))) is not None


def headers_and_body(data: bytes) -> tuple[dict[str, str], bytes]:
    """Return the headers, with lower-case names, and the body of a complete response."""
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    headers = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, _, value in lines}
    if _CHUNKED.search(head):
        rest = b"".join(_chunks(data, len(head) + 4)[0])
    return headers, rest


def _chunks(data: bytes, position: int) -> tuple[list[bytes], int]:
    """Parse a chunked body (RFC 9112, section 7.1).

    Args:
        data: The response.
        position: Begin of the body.

    Returns:
        The chunks, and the end of the body or INCOMPLETE.
    """
    chunks: list[bytes] = []
    while True:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            return chunks, INCOMPLETE
        size = int(data[position:line_end].split(b";")[0], 16)
        position = line_end + 2
        if size == 0:
            # An empty line ends the trailers, if any.
            end = position + 2 if data[position : position + 2] == b"\r\n" else data.find(b"\r\n\r\n", position) + 4
            return chunks, end if 4 <= end <= len(data) else INCOMPLETE
        chunks.append(data[position : position + size])
        position += size + 2
        if position > len(data):
            return chunks, INCOMPLETE
