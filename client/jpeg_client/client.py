"""The client whose calls block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar, overload

from jpeg_client.address import Address
from jpeg_client.blocking_client import BlockingClient
from jpeg_client.credentials import Credentials
from jpeg_client.defaults import DEFAULT_BATCH_SIZE, DEFAULT_CONCURRENCY
from jpeg_client.description import (
    ModelDescription,
    answering_name,
    classifier_name,
    describe,
    max_batch_size,
    postprocess_name,
    preprocess_name,
)
from jpeg_client.gates import Gate
from jpeg_client.images import Image, is_image, read_images
from jpeg_client.prediction import Classified, Prediction
from jpeg_client.requests import Request, classification, needs_batch_limit, send_plan
from jpeg_client.responses import EnsembleOutputs
from jpeg_client.shrink import Shrinker
from jpeg_client.streams import Order, Results, checked_number
from jpeg_client.thread_stream import ThreadStream
from jpeg_client.top_k import TopK
from jpeg_client.transport import Transport

_Image = TypeVar("_Image", bound=Image)


class Client(BlockingClient):
    """A connection to one server address: use it in a `with` block, or close it.

    Threads can share a client: over gRPC they share one connection, over HTTP each concurrent request has its own. A
    process that forks creates its client afterwards. `AsyncClient` is the same for asyncio.

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
        headers: Further headers of each request, such as a trace or a tenant.
        ca: PEM file with the trusted certificates: the CA of the server, or its self-signed certificate. None trusts
            the public CAs. Requires TLS.
        certificate: PEM file with the client's certificate, for mutual TLS.
        certificate_key: PEM file with its private key, without a passphrase.
        timeout_s: Time limit per request in seconds, at most one day, including its retries.
        model: Name of the ensemble.
        retry: Whether to retry; False sends each request once, for measurements and for callers with retries of their
            own. A stream repeats a lost request image by image all the same.
        send_deadline: Let the server drop a request that it has not begun when `timeout_s` is over. For clocks that
            agree: a server whose clock is ahead by more than that refuses every request.
        shrink: Make large photos smaller before they are sent, to twice the size to which the server resizes them: for
            slow networks. Requires Pillow (extra `images`). Labels hardly change; docs/client.md has the numbers.

    Raises:
        ValueError: The URL, timeout, key, a header or a file is invalid, or the key would travel unencrypted.
        OSError: A file cannot be read.
    """

    def _open(self, address: Address, credentials: Credentials) -> None:
        self._transport = open_transport(address, credentials)
        self._transport.sends_deadline = self._sends_deadline

    def close(self) -> None:
        """Close the connections, those with open requests after the responses. A stopping server waits for them."""
        self._transport.close()

    @overload
    def classify(
        self,
        images: Image,
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> Prediction: ...

    @overload
    def classify(
        self,
        images: list[Image] | tuple[Image, ...],
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> list[Prediction]: ...

    @overload
    def classify(
        self,
        images: list[_Image],
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> list[Prediction]: ...

    def classify(
        self,
        images: Image | list[_Image] | list[Image] | tuple[Image, ...],
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Classify one image, or several in as few requests as the server's batch limit allows.

        Args:
            images: An image, or a list of images: paths, encoded JPEGs, open files, arrays (H, W, 3) of uint8 RGB, or
                images of Pillow.
            k: Labels per image, 1 to the number of classes. None takes the server's default: 5, or all classes if
                there are fewer.
            threshold: Labels with a lower score are left out, 0 to 1. None takes that of the model, 0 in most.
            timeout_s: Time limit per request in seconds, including its retries; None takes that of the client.
            model: Name of the ensemble; None takes that of the client.

        Returns:
            The prediction of the image, or one prediction per image of the list, in order. An image that cannot be read
            or classified has `Prediction.error` set; the others keep their labels. One whose scores are all below the
            threshold has neither labels nor an error.

        Raises:
            ServerUnavailable: No server responds, or it cannot take the request now, and no time remains for a retry.
            RequestLost: The request was lost twice.
            InvalidResponse: The response belongs to other images, and no time remains for a retry.
            ServerTimeout: The server does not respond within the timeout.
            CertificateRefused: The server's certificate is not trusted.
            RequestRefused: The server refuses a whole request, such as for k out of range or an unknown API key.
            TooManyRequests: The server limits the request rate, and no time remains for a retry.
            TypeError: An image is of another type.
            ValueError: k does not fit into 32 bits, or the threshold or the timeout is invalid.
        """
        top_k = TopK(k, threshold)
        limit_s = self._timeout(timeout_s)
        name = model or self.model
        encoded = read_images(images, self.shrinker(timeout_s=limit_s, model=name))
        predictions = self._send(encoded, top_k, limit_s, name)
        return predictions[0] if is_image(images) else predictions

    def classify_stream(
        self,
        images: Iterable[Image],
        k: int | None = None,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        batch_size: int = DEFAULT_BATCH_SIZE,
        order: Order = "input",
        threshold: float | None = None,
        timeout_s: float | None = None,
        model: str | None = None,
    ) -> Iterator[Classified]:
        """Classify images as they come, with several requests at a time, in memory that does not grow.

        A request takes the images that are there, so that a slow source gets its answers at once. An image that cannot
        be read, or whose request fails, is that image's error, not the end: a lost request is repeated image by image,
        and an image that is lost twice is not sent again.

        Args:
            images: Images, see `classify`; taken in a thread of its own, not far ahead of the results.
            k: See `classify`.
            concurrency: Requests at a time.
            batch_size: Images per request; the server's limit applies, too.
            order: "input" yields the results in the order of the images, "completion" as they come.
            threshold: See `classify`.
            timeout_s: See `classify`.
            model: See `classify`.

        Yields:
            Position, image and prediction of each.

        Raises:
            ServerUnavailable: No server responds within the timeout, or many requests in a row failed. What was
                answered before is yielded first. The other errors of `classify` end the stream, too.
        """
        top_k = TopK(k, threshold)
        limit_s, name = self._timeout(timeout_s), model or self.model
        concurrency = checked_number("concurrency", concurrency)
        batch_size = checked_number("batch_size", batch_size)
        results, gate = Results(order, max_failures=2 * concurrency), Gate()

        def classify(encoded: Sequence[bytes | Prediction]) -> list[Prediction]:
            return self._send(encoded, top_k, limit_s, name, gate=gate)

        shrinker = partial(self.shrinker, timeout_s=limit_s, model=name)
        return iter(ThreadStream(classify, images, results, concurrency, batch_size, shrinker=shrinker))

    def describe(self, *, timeout_s: float | None = None, model: str | None = None) -> ModelDescription:
        """Describe an ensemble and its classifier. Raises the errors of `classify`."""
        limit_s, name = self._timeout(timeout_s), model or self.model
        ensemble = self._config(name, limit_s)
        step = self._config(classifier_name(ensemble), limit_s)
        return describe(
            ensemble,
            preprocess=self._config(preprocess_name(ensemble), limit_s),
            step=step,
            classifier=self._config(answering_name(step), limit_s),
            postprocess=self._config(postprocess_name(ensemble), limit_s),
            metadata=self._call(lambda left_s: self._transport.metadata(name, left_s), limit_s),
        )

    def server_version(self, *, timeout_s: float | None = None) -> str:
        """Return the version of Triton. Raises the errors of `classify`."""
        metadata = self._call(lambda left_s: self._transport.metadata(None, left_s), self._timeout(timeout_s))
        return str(metadata["version"])

    def shrinker(self, *, timeout_s: float | None = None, model: str | None = None) -> Shrinker | None:
        """Return what makes photos smaller for an ensemble; None without `shrink`. Raises the errors of `classify`."""
        if not self.shrink:
            return None
        limit_s = self._timeout(timeout_s)
        return send_plan(self._shrinkers.plan(model or self.model), lambda name: self._config(name, limit_s))

    def _send(
        self,
        encoded: Sequence[bytes | Prediction],
        top_k: TopK,
        timeout_s: float,
        model: str,
        *,
        gate: Gate | None = None,
    ) -> list[Prediction]:
        def attempt(request: Request) -> EnsembleOutputs:
            return self._call(
                lambda left_s: self._transport.infer(model, request.images, top_k, left_s), timeout_s, request.max_lost
            )

        def send(request: Request) -> EnsembleOutputs:
            if gate is None:
                return attempt(request)
            with gate.alone() if request.is_suspect else gate.together():
                return attempt(request)

        limit = self._batch_limit(model, timeout_s) if needs_batch_limit(encoded) else 1
        return send_plan(classification(encoded, limit, is_stream=gate is not None), send)

    def _batch_limit(self, model: str, timeout_s: float) -> int:
        """Return the images per request of a model, read once."""
        if model not in self._batch_sizes:
            self._batch_sizes[model] = max_batch_size(self._config(model, timeout_s))
        return self._batch_sizes[model]


def open_transport(address: Address, credentials: Credentials) -> Transport:
    """Return the transport for the scheme of an address. One protocol is imported, not both."""
    if address.scheme in ("grpc", "grpcs"):
        from jpeg_client.grpc_transport import GrpcTransport

        return GrpcTransport(address, credentials)
    from jpeg_client.http_transport import HttpTransport

    return HttpTransport(address, credentials)
