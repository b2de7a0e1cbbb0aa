"""The client class."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar

from jpeg_contract.tensors import ENSEMBLE

from jpeg_client.address import Address
from jpeg_client.defaults import DEFAULT_TIMEOUT_S, DEFAULT_URL
from jpeg_client.error_responses import split_code
from jpeg_client.errors import InvalidArgument, RequestRefused
from jpeg_client.prediction import Prediction
from jpeg_client.responses import EnsembleOutputs
from jpeg_client.retries import call_with_retries
from jpeg_client.transport import Transport

Image = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, encoded bytes, or a file open in binary mode."""

# Some servers stop reading an HTTP body at 64 MiB.
MAX_REQUEST_BYTES = 48 * 2**20

MAX_TIMEOUT_S = 86_400

# The reason code of a request whose images take too long to decode together.
_TOO_LONG = "request_too_long"
# If all images of a request fail, the error has one such line for each (jpeg_contract.image_errors).
_IMAGE_FAILURE = re.compile(r"^image \d+: (.*)$")

_Response = TypeVar("_Response")


class Client:
    """A connection to one server address: use it in a `with` block, or close it.

    Threads can share a client: over gRPC they share one connection, over HTTP each concurrent request has its own.

    Within the timeout the client retries with back-off and jitter:

    - what the server or its gateway refuses for now: the request rate (HTTP 429, gRPC RESOURCE_EXHAUSTED; Retry-After
      is honoured), a full queue, a stopping server (HTTP 503, gRPC UNAVAILABLE);
    - connections that are refused;
    - a response that does not belong to the request's images, by its shapes or its checksums;
    - once, a request that was lost: its connection, its server or its worker ended before the response. The server may
      have ended because of the request, which a further attempt would do to the next server.

    Each retry after such a failure uses a new connection, because several servers may share the address. Nothing else
    is retried. The server learns the time that remains, and drops the request when it is over.

    Args:
        url: grpc://HOST:PORT or http://HOST:PORT; with TLS, as for a gateway, grpcs://HOST:PORT or https://HOST:PORT.
        api_key: API key for a gateway. The client sends it over TLS or to this machine only.
        ca: PEM file with the trusted certificates: the CA of the server, or its self-signed certificate. None trusts
            the public CAs. Requires TLS.
        timeout_s: Time limit per request in seconds, at most one day, including its retries.
        model: Name of the ensemble.
        retry: Whether to retry; False sends each request once, for measurements and for callers with retries of their
            own.
        send_deadline: Let the server drop a request that it has not begun when `timeout_s` is over. For clocks that
            agree: a server whose clock is ahead by more than that refuses every request.

    Raises:
        ValueError: The URL, timeout, key or CA file is invalid, or the key would travel unencrypted.
        OSError: The CA file cannot be read.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        model: str = ENSEMBLE,
        retry: bool = True,
        send_deadline: bool = False,
    ) -> None:
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise InvalidArgument(
                f"the timeout must be above 0 and at most {MAX_TIMEOUT_S} seconds, but is {timeout_s}",
                reason="invalid_timeout",
            )
        address = Address.parse(url)
        if api_key is not None:
            address.check_key(api_key)
        if ca is not None:
            address.check_ca(ca)
            ca = os.fspath(ca)
        self.url, self.timeout_s, self.model, self.retry = url, timeout_s, model, retry
        self._transport: Transport = (
            _grpc_transport(address, api_key, ca)
            if address.scheme in ("grpc", "grpcs")
            else _http_transport(address, api_key, ca)
        )
        self._transport.sends_deadline = send_deadline
        self._max_batch_size: int | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, those with open requests after the responses. A stopping server waits for them."""
        self._transport.close()

    def classify(self, images: Sequence[Image], k: int | None = None) -> list[Prediction]:
        """Classify images, in as few requests as the server's batch limit allows.

        Args:
            images: Encoded JPEGs.
            k: Labels per image, 1 to the number of classes. None takes the server's default: 5, or all classes if
                there are fewer.

        Returns:
            One prediction per image, in order. An image that fails has `Prediction.error` set; the others keep their
            labels.

        Raises:
            ServerUnavailable: No server responds, or it cannot take the request now, and no time remains for a retry.
            RequestLost: The request was lost twice.
            InvalidResponse: The response belongs to other images, and no time remains for a retry.
            ServerTimeout: The server does not respond within the timeout.
            CertificateRefused: The server's certificate is not trusted.
            RequestRefused: The server refuses a whole request, such as for k out of range or an unknown API key.
            TooManyRequests: The server limits the request rate, and no time remains for a retry.
            OSError: A path cannot be read.
            TypeError: `images` is not a list of images.
            ValueError: k does not fit into 32 bits.
        """
        if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)):
            raise TypeError("classify takes a list of images: write classify([image])")
        if k is not None and not -(2**31) <= k < 2**31:
            raise InvalidArgument(f"k must be from 1 to the number of classes, but is {k}", reason="invalid_k")
        encoded = [_read(image) for image in images]
        return [prediction for batch in self._batches(encoded) for prediction in self._classify_batch(batch, k)]

    def _classify_batch(self, images: Sequence[bytes], k: int | None) -> list[Prediction]:
        try:
            outputs = self._call(lambda left_s: self._transport.infer(self.model, images, k, left_s))
        except RequestRefused as error:
            if len(images) > 1 and error.reason == _TOO_LONG:
                half = len(images) // 2
                return [*self._classify_batch(images[:half], k), *self._classify_batch(images[half:], k)]
            failure = _IMAGE_FAILURE.match(str(error).split("\n", 1)[0])
            if failure is None:
                raise
            if len(images) == 1:
                reason = None if error.reason == RequestRefused.reason else error.reason
                return [Prediction((), (), (), error=failure[1], reason=reason)]
            # All images failed, but the server lists the first causes only.
            return [prediction for image in images for prediction in self._classify_batch([image], k)]
        return _predictions(outputs)

    def _batches(self, images: Sequence[bytes]) -> Iterator[list[bytes]]:
        """Split images into batches within the server's batch size and MAX_REQUEST_BYTES."""
        batch: list[bytes] = []
        size = 0
        for image in images:
            if batch and (len(batch) == self._batch_limit() or size + len(image) > MAX_REQUEST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(image)
            size += len(image)
        if batch:
            yield batch

    def _batch_limit(self) -> int:
        """Return the model's max_batch_size, read once; 1 for a model without batching."""
        if self._max_batch_size is None:
            self._max_batch_size = max(1, self._call(lambda left_s: self._transport.max_batch_size(self.model, left_s)))
        return self._max_batch_size

    def _call(self, request: Callable[[float], _Response]) -> _Response:
        """Send a request, with the retries of `jpeg_client.retries`. request: takes a time limit in seconds."""
        return call_with_retries(request, self.timeout_s) if self.retry else request(self.timeout_s)


def _grpc_transport(address: Address, api_key: str | None, ca: str | None) -> Transport:
    from jpeg_client.grpc_transport import GrpcTransport  # here, so that one protocol is imported, not both

    return GrpcTransport(address, api_key=api_key, ca=ca)


def _http_transport(address: Address, api_key: str | None, ca: str | None) -> Transport:
    from jpeg_client.http_transport import HttpTransport

    return HttpTransport(address, api_key=api_key, ca=ca)


def _read(image: Image) -> bytes:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if not hasattr(image, "read"):
        raise TypeError(f"an image must be a path, bytes or an open file, but is {type(image).__name__}")
    data = image.read()
    if not isinstance(data, bytes):
        raise TypeError("the file is open in text mode: open it in binary mode, 'rb'")
    return data


def _predictions(outputs: EnsembleOutputs) -> list[Prediction]:
    predictions = []
    for labels, scores, indices, (error,) in zip(
        outputs.labels, outputs.scores, outputs.indices, outputs.errors, strict=True
    ):
        if error:
            message, reason = split_code(error.decode())
            predictions.append(Prediction((), (), (), error=message, reason=reason))
        else:
            names = tuple(label.decode() for label in labels)
            predictions.append(Prediction(names, tuple(scores.tolist()), tuple(indices.tolist())))
    return predictions
