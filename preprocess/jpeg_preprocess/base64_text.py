"""Images that arrive as text: base64, which JSON and browsers have in place of bytes, and data: URLs (RFC 2397)."""

from __future__ import annotations

import binascii
import functools
import string
from typing import TypeAlias

from jpeg_contract.image_errors import ImageError
from jpeg_contract.settings import DEFAULT_FORMATS, ImageFormat, Limits

from jpeg_preprocess.formats.signatures import BASE64_STARTS

Unwrapped: TypeAlias = bytes | ImageError
"""The encoded image, or why its text cannot be decoded."""

_SPACE = b" \t\r\n\f\v"
_AROUND = _SPACE + b"\"'"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ALPHABET = (string.ascii_letters + string.digits + "+/").encode()
_SCHEME, _BASE64 = b"data:", b";base64"
# White space and quotes in front, and the media type of a data: URL with its parameters.
_NEAR = 256
# Line breaks come in front of every 76th character at most; some writers indent, too.
_LONGEST_TEXT = 2


def unwrap(data: bytes, limits: Limits, formats: tuple[ImageFormat, ...] = DEFAULT_FORMATS) -> Unwrapped:
    """Return an image as bytes: decoded, if it is the base64 of an image or a data: URL, otherwise as it is.

    White space anywhere, quotes around the text, both alphabets, and missing padding are accepted.

    Args:
        data: As it was sent.
        limits: `max_image_bytes` bounds the decoded bytes, and twice as many the text.
        formats: By whose first bytes base64 is known.
    """
    if data[:1] == b"\xff":
        return data
    head = data[:_NEAR].lstrip(_AROUND)
    if head[: len(_SCHEME)].lower() == _SCHEME:
        header, comma, _ = head.partition(b",")
        if not comma or not header.rstrip(_SPACE).lower().endswith(_BASE64):
            return _broken("a data: URL must hold base64, behind ';base64,'")
        begin = data.index(b",") + 1
    elif head.startswith(_starts(formats)):
        begin = 0
    else:
        return data
    most = limits.max_image_bytes
    if len(data) > _LONGEST_TEXT * most:
        return ImageError(
            "too_many_bytes", f"too large: {len(data)} bytes of base64, the limit is {most} bytes decoded"
        )
    return _decode(data[begin:])


@functools.cache
def _starts(formats: tuple[ImageFormat, ...]) -> tuple[bytes, ...]:
    return tuple(start for name in formats for start in BASE64_STARTS[name])


def _decode(text: bytes) -> Unwrapped:
    bare = text.strip(_AROUND).translate(_URL_SAFE, _SPACE).rstrip(b"=")
    if foreign := bare.translate(None, _ALPHABET):
        if foreign.startswith(b"%"):
            return _broken("the text is percent-encoded: send base64 as it is")
        return _broken(f"{_name(foreign[0])} is not of the alphabet")
    if len(bare) % 4 == 1:
        return _broken("the text ends inside of a byte")
    return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4))


def _broken(why: str) -> ImageError:
    return ImageError("invalid_base64", f"broken base64: {why}")


def _name(byte: int) -> str:
    """Name a byte that a client chose: a message holds no slash, quote or control character of theirs."""
    return f"the byte {byte:02X}"
