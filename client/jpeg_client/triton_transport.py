"""The part that the protocols share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
from jpeg_contract.tensors import IMAGE

from jpeg_client.address import Address
from jpeg_client.connections import ConnectionPool
from jpeg_client.credentials import Credentials
from jpeg_client.error_responses import certificate_error, response_error
from jpeg_client.errors import (
    CertificateRefused,
    JpegClientError,
    ProtocolMismatch,
    RequestLost,
    ServerTimeout,
    ServerUnavailable,
)
from jpeg_client.responses import EnsembleOutputs, InferResult, read_outputs
from jpeg_client.top_k import TopK

_Connection = TypeVar("_Connection")


class TritonTransport(ABC, Generic[_Connection]):
    """Requests to Triton over a pool of connections, and their errors.

    Args:
        module: `tritonclient.grpc` or `tritonclient.http`.
        connections: The pool.
        address: Address of the server.
        credentials: For it.

    Attributes:
        sends_deadline: See `Transport`.
    """

    def __init__(
        self, module: Any, connections: ConnectionPool[_Connection], address: Address, credentials: Credentials
    ) -> None:
        self.sends_deadline = False
        self._module, self._connections, self._address = module, connections, address
        self._headers, self._has_key = credentials.request_headers, credentials.api_key is not None

    def _options(self, images: Sequence[bytes], top_k: TopK, timeout_s: float) -> dict[str, Any]:
        """Return the arguments of tritonclient for a request with these images."""
        tensor = self._module.InferInput(IMAGE, [len(images), 1], "BYTES")
        # dtype object: NumPy's bytes type drops trailing zero bytes.
        tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
        # No outputs are named: the server then sends all that it has, and a server without checksums needs no request
        # of its own.
        options: dict[str, Any] = {"inputs": [tensor], "parameters": top_k.parameters}
        if self.sends_deadline:
            # The server drops the request when nobody waits for it any more.
            options["parameters"]["deadline"] = int((time.time() + timeout_s) * 1000)
        return options

    def _outputs(self, result: InferResult, images: Sequence[bytes], k: int | None) -> EnsembleOutputs:
        return read_outputs(result, images, k, str(self._address))

    @contextmanager
    def _attempt(self, timeout_s: float) -> Iterator[_Connection]:
        """Yield a connection for one request, and map its exceptions to JpegClientError."""
        # A server that refuses requests or does not respond may keep its connections open: the next request opens a
        # new one, which may reach another server.
        with self._connections.lease(lambda error: isinstance(error, (ServerUnavailable, ServerTimeout))) as connection:
            try:
                yield connection
            except JpegClientError:
                raise
            except Exception as error:
                # gRPC's frames hold the call, and it the connection, until the garbage collector finds them.
                error.__traceback__ = error.__context__ = None
                raise self._client_error(error, timeout_s) from error

    @abstractmethod
    def _client_error(self, error: Exception, timeout_s: float) -> JpegClientError:
        """Map an exception of an attempt to one of ours."""

    def _timed_out(self, timeout_s: float) -> ServerTimeout:
        return ServerTimeout(f"{self._address} did not respond within {timeout_s:g} s")

    def _unreachable(self) -> ServerUnavailable:
        return ServerUnavailable(
            f"no Triton server responds at {self._address}: check that it is running and that the port is right"
        )

    def _lost(self, cause: str) -> RequestLost:
        return RequestLost(
            f"the connection to {self._address} ended before the response ({cause}): the server was stopped, or it "
            "ended, maybe because of this request"
        )

    def _other_protocol(self) -> ProtocolMismatch:
        return ProtocolMismatch(
            f"no Triton server responds at {self._address}, but a server of another protocol: check the port"
        )

    def _without_tls(self) -> ProtocolMismatch:
        return ProtocolMismatch(
            f"the server at {self._address} does not speak TLS: check the port", reason="tls_mismatch"
        )

    def _response_error(self, status: str, message: str | None, retry_after: str | None = None) -> JpegClientError:
        return response_error(str(self._address), status, message, has_key=self._has_key, retry_after=retry_after)

    def _certificate_error(self, reason: str) -> CertificateRefused:
        return certificate_error(str(self._address), reason)

    def _unexpected(self, error: Exception) -> JpegClientError:
        return JpegClientError(f"{self._address}: {error}")


class SyncTritonTransport(TritonTransport[_Connection]):
    """A `Transport`: each request blocks its thread."""

    def infer(self, model: str, images: Sequence[bytes], top_k: TopK, timeout_s: float) -> EnsembleOutputs:
        """See Transport."""
        options = self._options(images, top_k, timeout_s)
        with self._attempt(timeout_s) as connection:
            return self._outputs(self._send_inference(connection, model, options, timeout_s), images, top_k.k)

    def config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        with self._attempt(timeout_s) as connection:
            return self._read_config(connection, model, timeout_s)

    def metadata(self, model: str | None, timeout_s: float) -> dict[str, Any]:
        """See Transport."""
        with self._attempt(timeout_s) as connection:
            return self._read_metadata(connection, model, timeout_s)

    def close(self) -> None:
        """See Transport."""
        self._connections.close()

    @abstractmethod
    def _send_inference(
        self, connection: _Connection, model: str, options: dict[str, Any], timeout_s: float
    ) -> InferResult:
        """Send a request, and return the function that reads an output of the response by its name."""

    @abstractmethod
    def _read_config(self, connection: _Connection, model: str, timeout_s: float) -> dict[str, Any]: ...

    @abstractmethod
    def _read_metadata(self, connection: _Connection, model: str | None, timeout_s: float) -> dict[str, Any]: ...
