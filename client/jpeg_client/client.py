"""The client class."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from jpeg_client.address import Address
from jpeg_client.errors import RequestRefused, TooManyRequests
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

_Answer = TypeVar("_Answer")


class Client:
    """A connection to one server; use it in a `with` block, or close it.

    url: grpc://HOST:PORT or http://HOST:PORT; with TLS, as a gateway wants it, grpcs://HOST:PORT or https://HOST:PORT.
    api_key: the key that a gateway asks for. It is sent encrypted, or to this machine, or not at all.
    ca: file in PEM format with the certificates to trust instead of the public authorities: those of the server's own
    authority, or the server's if it signed it itself. For TLS only.
    timeout_s: how long one request may take, in seconds. If there were too many requests (HTTP 429,
    RESOURCE_EXHAUSTED), the client waits as it is told and asks again, within this time. It repeats nothing else.
    model: name of the ensemble.

    Not to be shared between threads: give each its own.

    Raises ValueError for a URL it does not know, a time-out that is none, a key that is none or would be sent
    unencrypted to another machine, or a `ca` without certificates; OSError if `ca` cannot be read.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        timeout_s: float = 30.0,
        model: str = MODEL,
    ) -> None:
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s is {timeout_s}, but must be above 0 and at most {MAX_TIMEOUT_S} seconds")
        address = Address.parse(url)
        if api_key is not None:
            address.check_key(api_key)
        if ca is not None:
            address.check_ca(ca)
            ca = os.fspath(ca)
        self.url, self.timeout_s, self.model = url, timeout_s, model
        self._transport: Transport = (
            GrpcTransport(address, api_key=api_key, ca=ca)
            if address.scheme in ("grpc", "grpcs")
            else HttpTransport(address, timeout_s, api_key=api_key, ca=ca)
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

        Raises ServerUnavailable, ServerTimeout, CertificateRefused, or RequestRefused if a request is refused as a
        whole, as for a `k` out of range or an API key that is not taken; TooManyRequests, which is one of these, if
        there were too many, and no time is left to ask again; OSError if a path cannot be read; TypeError for anything
        that is no list of images.
        """
        if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)):
            raise TypeError("classify takes a list of images: write classify([image])")
        if k is not None and not -(2**31) <= k < 2**31:
            raise ValueError(f"k is {k}, but no classifier has that many classes")
        encoded = [_read(image) for image in images]
        return [prediction for batch in self._batches(encoded) for prediction in self._ask(batch, k)]

    def _ask(self, images: Sequence[bytes], k: int | None) -> list[Prediction]:
        try:
            return _predictions(self._patiently(lambda left_s: self._transport.infer(self.model, images, k, left_s)))
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
            self._max_batch_size = max(
                1, self._patiently(lambda left_s: self._transport.max_batch_size(self.model, left_s))
            )
        return self._max_batch_size

    def _patiently(self, ask: Callable[[float], _Answer]) -> _Answer:
        """Ask, with the seconds that are left; again, after the wait that a refusal asks for, if there is time."""
        end = time.monotonic() + self.timeout_s
        left_s, tries = self.timeout_s, 0
        while True:
            try:
                return ask(left_s)
            except TooManyRequests as refusal:
                spare_s = end - time.monotonic() - refusal.wait_s
                if spare_s <= 0:
                    raise
                # Never sooner than told, and not all clients at once; half of what is left is kept for the answer.
                time.sleep(refusal.wait_s + random.uniform(0, min(2**tries, spare_s / 2)))  # noqa: S311  # no secret
                left_s = round(end - time.monotonic(), 3)
                tries += 1
                if left_s <= 0:
                    raise


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
