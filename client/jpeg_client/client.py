"""The client class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import urlsplit

from jpeg_client.errors import RequestRefused
from jpeg_client.prediction import Prediction
from jpeg_client.transport import Arrays, GrpcTransport, HttpTransport, Transport

Image = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, the encoded bytes, or a file opened in binary mode."""

DEFAULT_URL = "grpc://localhost:8001"
MODEL = "jpeg_classifier"

# Below the 64 MiB at which some servers stop reading an HTTP body.
MAX_REQUEST_BYTES = 48 * 2**20

# A request in which no image could be answered is refused with a line for each image.
_REFUSED_IMAGE = re.compile(r"^image \d+: (.*)$")

MAX_TIMEOUT_S = 86_400

_DEFAULT_PORTS = {"grpc": 8001, "http": 8000, "https": 443}


class Client:
    """A connection to one server; use it in a `with` block, or close it.

    url: grpc://HOST:PORT, http://HOST:PORT or https://HOST:PORT.
    timeout_s: how long one request may take, in seconds.
    model: name of the ensemble.

    Not to be shared between threads: give each its own.

    Raises ValueError for a URL it does not know, or a time-out that is none.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = 30.0, model: str = MODEL) -> None:
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s is {timeout_s}, but must be above 0 and at most {MAX_TIMEOUT_S} seconds")
        self.url, self.timeout_s, self.model = url, timeout_s, model
        scheme, address = _split(url)
        self._transport: Transport = (
            GrpcTransport(address, timeout_s)
            if scheme == "grpc"
            else HttpTransport(address, timeout_s, tls=scheme == "https")
        )
        self._max_batch_size: int | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A server that is stopping waits for open ones."""
        self._transport.close()

    def classify(self, images: Sequence[Image], k: int | None = None) -> list[Prediction]:
        """The k best labels of each image, in the order given, in as few requests as the server allows.

        k: 1 to the number of classes. Default: the server's, which is 5, or all classes if there are fewer.

        An image that cannot be classified has its reason in `Prediction.error`, and costs no other its labels.

        Raises ServerUnavailable, ServerTimeout, or RequestRefused if a request is refused as a whole, as for a
        `k` out of range; OSError if a path cannot be read; TypeError for anything that is no list of images.
        """
        if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)):
            raise TypeError("classify takes a list of images: write classify([image])")
        if k is not None and not -(2**31) <= k < 2**31:
            raise ValueError(f"k is {k}, but no classifier has that many classes")
        encoded = [_read(image) for image in images]
        return [prediction for batch in self._batches(encoded) for prediction in self._ask(batch, k)]

    def _ask(self, images: Sequence[bytes], k: int | None) -> list[Prediction]:
        try:
            return _predictions(self._transport.infer(self.model, images, k, self.timeout_s))
        except RequestRefused as refusal:
            found = _REFUSED_IMAGE.match(str(refusal).split("\n", 1)[0])
            if found is None:
                raise
            if len(images) == 1:
                return [Prediction((), (), (), error=found[1])]
            # No image of the batch could be answered, and a long list of reasons is cut short: ask one by one.
            return [prediction for image in images for prediction in self._ask([image], k)]

    def _batches(self, images: Sequence[bytes]) -> Iterator[list[bytes]]:
        batch: list[bytes] = []
        size = 0
        for image in images:
            if batch and (len(batch) == self._limit() or size + len(image) > MAX_REQUEST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(image)
            size += len(image)
        if batch:
            yield batch

    def _limit(self) -> int:
        if self._max_batch_size is None:
            self._max_batch_size = max(1, self._transport.max_batch_size(self.model))
        return self._max_batch_size


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is no address of a server: write grpc://HOST:PORT or http://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme, f"{host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"


def _read(image: Image) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if not hasattr(image, "read"):
        raise TypeError(f"an image is a path, bytes or an open file, not {type(image).__name__}")
    data = image.read()
    if not isinstance(data, bytes):
        raise TypeError("the file is open as text: open it in binary mode, 'rb'")
    return data


def _predictions(arrays: Arrays) -> list[Prediction]:
    predictions = []
    for labels, scores, indices, (error,) in zip(
        arrays.labels, arrays.scores, arrays.indices, arrays.errors, strict=True
    ):
        if error:
            predictions.append(Prediction((), (), (), error=error.decode()))
        else:
            names = tuple(label.decode() for label in labels)
            predictions.append(Prediction(names, tuple(scores.tolist()), tuple(indices.tolist())))
    return predictions
