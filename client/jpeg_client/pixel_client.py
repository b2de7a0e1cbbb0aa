"""The client of those who decode, resize and crop themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jpeg_contract.tensors import ENSEMBLE, INPUT
from numpy.typing import NDArray

from jpeg_client.address import Address
from jpeg_client.blocking_client import BlockingClient
from jpeg_client.credentials import Credentials
from jpeg_client.defaults import DEFAULT_TIMEOUT_S, DEFAULT_URL
from jpeg_client.description import classifier_name, max_batch_size, postprocess_name
from jpeg_client.errors import InvalidArgument, RequestRefused
from jpeg_client.pixel_transport import PixelTransport, UnknownRegion
from jpeg_client.prediction import Prediction
from jpeg_client.requests import predictions_of
from jpeg_client.shared_memory import CudaRegion, Kind, Region, RegionPool, SystemRegion
from jpeg_client.top_k import TopK

# How long a stopping client waits for the server to forget a region, in seconds.
_UNREGISTER_S = 5.0


@dataclass(frozen=True)
class _Target:
    """Where pixels and logits go.

    Attributes:
        classifier: Name of the model that takes pixels.
        postprocess: Name of the model that takes logits.
        shape: Of one image: height, width, channels.
        max_batch_size: Images per request, of the ensemble: no step of it takes fewer.
    """

    classifier: str
    postprocess: str
    shape: tuple[int, ...]
    max_batch_size: int


class PixelClient(BlockingClient):
    """A connection that sends pixels to the classifier of an ensemble, over gRPC: for those who decode themselves.

    The pixels are what the model `preprocess` makes of an image: decoded, resized and cropped as in training, uint8
    RGB, not normalised. They travel in messages, or through memory that the client shares with a server of the same
    machine, which has to be started with `jpeg-serve --shared-memory-key-file FILE`. Memory of a GPU also takes arrays
    that are on a GPU already, of CuPy or PyTorch, from GPU to GPU.

    Threads can share a client. Use it in a `with` block, or close it: what a client leaves that ends in another way
    (SIGKILL, a crash), the next one for the same server port removes. It retries as `Client` does. Unlike there, no
    checksum shows that a response belongs to its request.

    Args:
        url: grpc://HOST:PORT, or grpcs://HOST:PORT with TLS. The gateway opens no classifier.
        shared_memory: "system", or "cuda" for that of a GPU, with the package cuda-python; None sends messages.
        shared_memory_key: Key of the server for shared memory.
        device: Number of the GPU whose memory is shared.
        headers: See `Client`.
        ca: See `Client`.
        certificate: See `Client`.
        certificate_key: See `Client`.
        timeout_s: See `Client`.
        model: Name of the ensemble.
        retry: See `Client`.

    Raises:
        ValueError: The URL or another argument is invalid.
        OSError: A file cannot be read.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        shared_memory: Kind | None = None,
        shared_memory_key: str | None = None,
        device: int = 0,
        headers: Mapping[str, str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        certificate_key: str | os.PathLike[str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        model: str = ENSEMBLE,
        retry: bool = True,
    ) -> None:
        if shared_memory not in (None, "system", "cuda"):
            raise InvalidArgument(
                f'shared_memory must be "system", "cuda" or None, but is {shared_memory!r}',
                reason="invalid_shared_memory",
            )
        self._kind, self._key, self._device = shared_memory, shared_memory_key, device
        super().__init__(
            url,
            headers=headers,
            ca=ca,
            certificate=certificate,
            certificate_key=certificate_key,
            timeout_s=timeout_s,
            model=model,
            retry=retry,
        )

    _transport: PixelTransport

    def _open(self, address: Address, credentials: Credentials) -> None:
        if address.scheme not in ("grpc", "grpcs"):
            raise InvalidArgument("pixels travel over gRPC: write grpc://HOST:PORT", reason="grpc_required")
        if self._kind is not None and not address.is_this_machine:
            raise InvalidArgument(
                f"a client shares memory with a server of its own machine only, and {address.host} may be another: "
                "write localhost, or leave shared_memory out",
                reason="not_this_machine",
            )
        self._transport = PixelTransport(address, credentials, self._key)
        self._found: _Target | None = None
        self._regions = RegionPool(
            address.port,
            lambda size: (
                CudaRegion(address.port, size, self._device)
                if self._kind == "cuda"
                else SystemRegion(address.port, size)
            ),
            lambda name: self._transport.unregister(name, _UNREGISTER_S),
        )

    def close(self) -> None:
        """Free the shared memory, and close the connection."""
        self._regions.close()
        self._transport.close()

    def logits(self, pixels: Any, *, timeout_s: float | None = None) -> NDArray[np.float32]:
        """Run the classifier, in as few requests as its batch limit allows.

        Args:
            pixels: (N, H, W, 3) uint8 RGB, of the height and width that the classifier takes: an array of NumPy; with
                `shared_memory="cuda"` also one of CuPy or a tensor of PyTorch on a GPU, contiguous.
            timeout_s: Time limit per request in seconds, including its retries; None takes that of the client.

        Returns:
            (N, classes) float32.

        Raises:
            InvalidArgument: The pixels have another shape or type.
            SharedMemoryError: The server refuses shared memory, or there is no room for it.
            JpegClientError: The errors of `Client.classify`.
        """
        limit_s = self._timeout(timeout_s)
        found: list[NDArray[np.float32]] = []
        target = self._target(limit_s)
        _check_pixels(pixels, target, self._kind)
        for part in _batches(pixels, target.max_batch_size):
            try:
                found.append(self._send(part, self._target(limit_s), limit_s))
            except RequestRefused as error:
                if error.reason != "unknown_model":
                    raise
                # The ensemble may have got another classifier since.
                self._found = None
                found.append(self._send(part, self._target(limit_s), limit_s))
        return np.concatenate(found)

    def classify(
        self,
        pixels: Any,
        k: int | None = None,
        *,
        threshold: float | None = None,
        timeout_s: float | None = None,
    ) -> list[Prediction]:
        """Classify pixels: the labels are made by the server's own step, as for images.

        Args:
            pixels: See `logits`.
            k: Labels per image, 1 to the number of classes. None takes the server's default.
            threshold: See `Client.classify`.
            timeout_s: See `logits`.

        Returns:
            One prediction per image, in order, without times.

        Raises:
            JpegClientError: See `logits`.
        """
        top_k = TopK(k, threshold)
        limit_s = self._timeout(timeout_s)
        predictions: list[Prediction] = []
        logits = self.logits(pixels, timeout_s=limit_s)
        target = self._target(limit_s)
        for part in _batches(logits, target.max_batch_size):
            outputs = self._call(partial(self._transport.labels, target.postprocess, part, top_k), limit_s)
            predictions += predictions_of(outputs)
        return predictions

    def _target(self, timeout_s: float) -> _Target:
        """Return where pixels go, read once."""
        if (found := self._found) is None:
            ensemble = self._config(self.model, timeout_s)
            classifier = self._config(classifier_name(ensemble), timeout_s)
            shape = next(tensor["dims"] for tensor in classifier["input"] if tensor["name"] == INPUT)
            found = self._found = _Target(
                str(classifier["name"]), postprocess_name(ensemble), tuple(map(int, shape)), max_batch_size(ensemble)
            )
        return found

    def _send(self, pixels: Any, target: _Target, timeout_s: float) -> NDArray[np.float32]:
        if self._kind is None:
            array = np.ascontiguousarray(pixels)
            return self._call(partial(self._transport.logits, target.classifier, array), timeout_s)
        with self._regions.lease(int(np.prod(pixels.shape))) as region:
            region.write(pixels)
            shape = tuple(map(int, pixels.shape))
            return self._call(partial(self._send_region, region, shape, target), timeout_s)

    def _send_region(
        self, region: Region, shape: tuple[int, ...], target: _Target, timeout_s: float
    ) -> NDArray[np.float32]:
        if not region.is_registered:
            self._transport.register(region, timeout_s)
        try:
            return self._transport.logits(target.classifier, (region, shape), timeout_s)
        except UnknownRegion:
            self._transport.register(region, timeout_s)
            return self._transport.logits(target.classifier, (region, shape), timeout_s)


def _check_pixels(pixels: Any, target: _Target, kind: Kind | None) -> None:
    shape = tuple(map(int, getattr(pixels, "shape", ())))
    dtype = str(getattr(pixels, "dtype", type(pixels).__name__))
    wanted = f"(N, {', '.join(map(str, target.shape))}) uint8"
    # PyTorch's name is torch.uint8.
    if len(shape) != 4 or not shape[0] or shape[1:] != target.shape or dtype.rpartition(".")[2] != "uint8":
        raise InvalidArgument(
            f"{target.classifier} takes pixels of {wanted}, N at least 1, and not {shape} {dtype}",
            reason="invalid_pixels",
        )
    if kind != "cuda" and hasattr(pixels, "__cuda_array_interface__"):
        raise InvalidArgument(
            'these pixels are on a GPU: use PixelClient(shared_memory="cuda"), or copy them to the host',
            reason="invalid_pixels",
        )


def _batches(rows: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
