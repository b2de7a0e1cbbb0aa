"""Reading of request bodies: streamed, bounded, in memory only."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from jpeg_web.failures import MIN_RETRY_AFTER_S, RequestFailed
from jpeg_web.settings import Settings

MAX_IMAGES = 1000
"""Images per multipart request."""

# Text fields are ignored; these bounds keep them from occupying memory.
_MAX_FIELDS, _MAX_FIELD_BYTES = 100, 64 * 1024


@dataclass(frozen=True)
class Upload:
    """One image of a request.

    Attributes:
        name: Its file name; None if the request states none.
        data: Its bytes.
    """

    name: str | None
    data: bytes


class BodyReader:
    """Reads the bodies of all requests within one bound for their memory.

    Args:
        settings: Of the application.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_bytes, self._max_held_bytes = settings.max_request_bytes, settings.max_held_bytes
        self._pause_s = settings.receive_timeout_s
        self._held_bytes = 0

    @asynccontextmanager
    async def images(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Read the images of a request, and count their bytes until the block ends.

        Raises:
            RequestFailed: The body is too long, comes too slowly, is no multipart body, or holds no image; or the
                bodies of other requests occupy the memory.
            ClientDisconnect: The client left.
        """
        counted = _Count()
        try:
            parts = self._parts(request, counted)
            images = await (_read_multipart(request, parts) if _is_multipart(request) else _read_single(parts))
            if not any(image.data for image in images):
                raise RequestFailed(
                    400, "no_image", "the request holds no image: send one as the body, or as a multipart file"
                )
            yield images
        finally:
            self._held_bytes -= counted.bytes

    async def _parts(self, request: Request, counted: _Count) -> AsyncGenerator[bytes, None]:
        """Yield the parts of a body as they come, and count their bytes."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_long()
        parts = aiter(request.stream())
        while True:
            try:
                with anyio.fail_after(self._pause_s):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise RequestFailed(
                    408,
                    "receive_timeout",
                    f"no part of the body came for {self._pause_s:g} s: send it faster, or in smaller requests",
                ) from None
            if counted.bytes + len(part) > self._max_bytes:
                raise self._too_long()
            if self._held_bytes + len(part) > self._max_held_bytes:
                raise RequestFailed(
                    503,
                    "busy",
                    "too many images are being received: try again later",
                    retry_after_s=MIN_RETRY_AFTER_S,
                )
            counted.bytes += len(part)
            self._held_bytes += len(part)
            yield part

    def _too_long(self) -> RequestFailed:
        return RequestFailed(
            413,
            "request_too_large",
            f"the request is longer than {self._max_bytes / 2**20:g} MiB: send fewer or smaller images at a time",
        )


@dataclass
class _Count:
    """Bytes of one body that are in memory."""

    bytes: int = 0


class _InMemoryParser(MultiPartParser):
    """Keeps every file in memory: photos are written to no disk. `BodyReader` bounds their size."""

    spool_max_size = sys.maxsize


def _is_multipart(request: Request) -> bool:
    return request.headers.get("content-type", "").split(";")[0].strip().lower() == "multipart/form-data"


async def _read_single(parts: AsyncIterator[bytes]) -> list[Upload]:
    return [Upload(None, b"".join([part async for part in parts]))]


async def _read_multipart(request: Request, parts: AsyncGenerator[bytes, None]) -> list[Upload]:
    parser = _InMemoryParser(
        request.headers, parts, max_files=MAX_IMAGES, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestFailed(400, "invalid_multipart", f"the multipart body is invalid: {error.message}") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [Upload(file.filename or None, await file.read()) for file in files]
    finally:
        await form.close()
