"""tritonclient's gRPC and HTTP, made alike."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jpeg_client.errors import JpegClientError, RequestRefused, ServerTimeout, ServerUnavailable

OUTPUTS = ("LABEL", "SCORE", "INDEX", "ERROR")


@dataclass(frozen=True)
class Arrays:
    """The ensemble's outputs for N images: (N, k) labels as bytes, scores, indices; (N, 1) errors as bytes."""

    labels: NDArray[Any]
    scores: NDArray[np.float32]
    indices: NDArray[np.int32]
    errors: NDArray[Any]


class Transport(Protocol):
    """One connection to one server."""

    def max_batch_size(self, model: str) -> int:
        """How many images the model takes in one request."""
        ...

    def infer(self, model: str, images: Sequence[bytes], k: int | None, timeout_s: float) -> Arrays:
        """Ask for the k best labels of each image; None asks for as many as the server likes."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class _Tritonclient(ABC):
    """What the two modules of tritonclient have in common."""

    def __init__(self, module: Any, client: Any, url: str) -> None:
        self._module, self._client, self._url = module, client, url

    def infer(self, model: str, images: Sequence[bytes], k: int | None, timeout_s: float) -> Arrays:
        """See Transport."""
        tensor = self._module.InferInput("IMAGE", [len(images), 1], "BYTES")
        # dtype object: NumPy's own bytes type would cut trailing zero bytes off.
        tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
        outputs = [self._module.InferRequestedOutput(name) for name in OUTPUTS]
        try:
            parameters = {} if k is None else {"k": k}
            result = self._client.infer(
                model, [tensor], outputs=outputs, parameters=parameters, **self._call_options(timeout_s)
            )
        except Exception as error:
            raise self._translate(error, timeout_s) from error
        return Arrays(*(result.as_numpy(name) for name in OUTPUTS))

    def max_batch_size(self, model: str) -> int:
        """See Transport."""
        try:
            return self._read_max_batch_size(model)
        except Exception as error:
            raise self._translate(error, None) from error

    def close(self) -> None:
        """See Transport."""
        self._client.close()

    @abstractmethod
    def _read_max_batch_size(self, model: str) -> int: ...

    @abstractmethod
    def _call_options(self, timeout_s: float) -> dict[str, Any]: ...

    @abstractmethod
    def _translate(self, error: Exception, timeout_s: float | None) -> JpegClientError: ...

    def _timed_out(self, timeout_s: float | None) -> ServerTimeout:
        limit = f" within {timeout_s:g} s" if timeout_s is not None else " in time"
        return ServerTimeout(f"{self._url} did not answer{limit}")

    def _nobody(self) -> ServerUnavailable:
        return ServerUnavailable(f"no Triton answers at {self._url}: is it running, and is that the right port?")

    def _refused(self, message: str, status: str) -> RequestRefused:
        # Which ensemble it was is known here; a user wants to know why.
        return RequestRefused(re.sub(r"^in ensemble '[^']*', ", "", message), status)


class GrpcTransport(_Tritonclient):
    """gRPC, the faster one: binary, one connection for many requests."""

    def __init__(self, address: str, timeout_s: float) -> None:
        import tritonclient.grpc as module  # only the chosen protocol is imported

        super().__init__(module, module.InferenceServerClient(address), f"grpc://{address}")
        self._timeout_s = timeout_s

    def _read_max_batch_size(self, model: str) -> int:
        config = self._client.get_model_config(model, client_timeout=self._timeout_s)
        return int(config.config.max_batch_size)

    def _call_options(self, timeout_s: float) -> dict[str, Any]:
        return {"client_timeout": timeout_s}

    def _translate(self, error: Exception, timeout_s: float | None) -> JpegClientError:
        if not isinstance(error, self._module.InferenceServerException):
            return JpegClientError(f"{self._url}: {error}")
        status = (error.status() or "").removeprefix("StatusCode.")
        # Something answered that is no gRPC server.
        if status in ("UNIMPLEMENTED", "UNKNOWN") and "http2" in error.message().lower():
            return self._nobody()
        if status == "UNAVAILABLE":
            return self._nobody() if _is_connection(error.message()) else ServerUnavailable(error.message())
        if status == "DEADLINE_EXCEEDED":
            return self._timed_out(timeout_s)
        return self._refused(error.message(), status)


class HttpTransport(_Tritonclient):
    """HTTP/1.1 with the binary tensor extension."""

    def __init__(self, address: str, timeout_s: float, *, tls: bool) -> None:
        import tritonclient.http as module

        client = module.InferenceServerClient(address, connection_timeout=timeout_s, network_timeout=timeout_s, ssl=tls)
        super().__init__(module, client, f"http{'s' * tls}://{address}")

    def _read_max_batch_size(self, model: str) -> int:
        return int(self._client.get_model_config(model)["max_batch_size"])

    def _call_options(self, timeout_s: float) -> dict[str, Any]:  # noqa: ARG002
        # HTTP's time-outs belong to the connection; this one would be the server's queue policy.
        return {}

    def _translate(self, error: Exception, timeout_s: float | None) -> JpegClientError:
        if isinstance(error, self._module.InferenceServerException):
            status = error.status() or ""
            # Without a status there was no answer: the connection was cut.
            if not status:
                return self._nobody()
            if status == "503":
                return ServerUnavailable(error.message())
            return self._refused(error.message(), status)
        if isinstance(error, TimeoutError):
            return self._timed_out(timeout_s)
        if isinstance(error, OSError):
            return self._nobody()
        # What answers speaks another protocol; geventhttpclient has no public name for that error.
        return self._nobody() if "Expected HTTP/" in str(error) else JpegClientError(f"{self._url}: {error}")


def _is_connection(message: str) -> bool:
    return any(words in message.lower() for words in ("connect", "socket", "dns", "name resolution"))
