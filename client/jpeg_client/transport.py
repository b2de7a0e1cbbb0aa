"""One interface over tritonclient's gRPC and HTTP clients."""

from __future__ import annotations

import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jpeg_contract.tensors import ERROR, IMAGE, INDEX, LABEL, SCORE
from numpy.typing import NDArray

from jpeg_client.address import Address
from jpeg_client.error_responses import certificate_error, response_error
from jpeg_client.errors import CertificateRefused, JpegClientError, ServerTimeout, ServerUnavailable


@dataclass(frozen=True)
class EnsembleOutputs:
    """Outputs of the ensemble for N images.

    Attributes:
        labels: BYTES [N, k].
        scores: FP32 [N, k].
        indices: INT32 [N, k].
        errors: BYTES [N, 1], empty for an image with labels.
    """

    labels: NDArray[np.object_]
    scores: NDArray[np.float32]
    indices: NDArray[np.int32]
    errors: NDArray[np.object_]


class Transport(Protocol):
    """A connection to one server."""

    def max_batch_size(self, model: str, timeout_s: float) -> int:
        """Return the largest number of images per request."""
        ...

    def infer(self, model: str, images: Sequence[bytes], k: int | None, timeout_s: float) -> EnsembleOutputs:
        """Classify one batch.

        Args:
            model: Name of the ensemble.
            images: Encoded JPEGs, at most `max_batch_size`.
            k: Labels per image; None takes the server's default.
            timeout_s: Time limit in seconds.

        Raises:
            JpegClientError: The request fails.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class _TritonTransport(ABC):
    """The part that tritonclient's gRPC and HTTP modules share.

    Args:
        module: `tritonclient.grpc` or `tritonclient.http`.
        client: Its client.
        address: Address of the server.
        api_key: API key for a gateway, or None.
    """

    def __init__(self, module: Any, client: Any, address: Address, api_key: str | None) -> None:
        self._module, self._client, self._address = module, client, address
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}

    def infer(self, model: str, images: Sequence[bytes], k: int | None, timeout_s: float) -> EnsembleOutputs:
        """See Transport."""
        tensor = self._module.InferInput(IMAGE, [len(images), 1], "BYTES")
        # dtype object: NumPy's bytes type drops trailing zero bytes.
        tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
        outputs = [self._module.InferRequestedOutput(name) for name in (LABEL, SCORE, INDEX, ERROR)]
        parameters = {} if k is None else {"k": k}
        with self._call_options(timeout_s) as options:
            result = self._client.infer(model, [tensor], outputs=outputs, parameters=parameters, **options)
        return EnsembleOutputs(
            labels=result.as_numpy(LABEL),
            scores=result.as_numpy(SCORE),
            indices=result.as_numpy(INDEX),
            errors=result.as_numpy(ERROR),
        )

    def max_batch_size(self, model: str, timeout_s: float) -> int:
        """See Transport."""
        with self._call_options(timeout_s) as options:
            return self._read_max_batch_size(model, options)

    def close(self) -> None:
        """See Transport."""
        self._client.close()

    @contextmanager
    def _call_options(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """Yield the options of one call, and map its exceptions to JpegClientError."""
        try:
            with self._time_limit(timeout_s) as options:
                # A copy per call: tritonclient modifies the headers.
                yield {**options, "headers": dict(self._headers)}
        except Exception as error:
            raise self._client_error(error, timeout_s) from error

    @abstractmethod
    def _time_limit(self, timeout_s: float) -> AbstractContextManager[dict[str, Any]]:
        """Limit the time of a call, and yield the options of tritonclient for it."""

    @abstractmethod
    def _read_max_batch_size(self, model: str, options: dict[str, Any]) -> int: ...

    @abstractmethod
    def _client_error(self, error: Exception, timeout_s: float) -> JpegClientError:
        """Map an exception of a call to one of ours."""

    def _timed_out(self, timeout_s: float) -> ServerTimeout:
        return ServerTimeout(f"{self._address} did not respond within {timeout_s:g} s")

    def _unreachable(self) -> ServerUnavailable:
        return ServerUnavailable(
            f"no Triton server responds at {self._address}: check that it is running and that the port is right"
        )

    def _without_tls(self) -> ServerUnavailable:
        return ServerUnavailable(
            f"the server at {self._address} does not speak TLS: check the port", reason="tls_mismatch"
        )

    def _response_error(self, status: str, message: str, retry_after: str | None = None) -> JpegClientError:
        has_key = bool(self._headers)
        return response_error(str(self._address), status, message, has_key=has_key, retry_after=retry_after)

    def _certificate_error(self, reason: str) -> CertificateRefused:
        return certificate_error(str(self._address), reason)

    def _unexpected(self, error: Exception) -> JpegClientError:
        return JpegClientError(f"{self._address}: {error}")


class GrpcTransport(_TritonTransport):
    """gRPC: faster than HTTP, with one connection for all requests.

    Args:
        address: Address of the server.
        api_key: API key for a gateway, or None.
        ca: PEM file with the trusted certificates; None trusts the public CAs.
    """

    def __init__(self, address: Address, *, api_key: str | None, ca: str | None) -> None:
        import tritonclient.grpc as module  # here, so that one protocol is imported, not both

        arguments = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if address.is_this_machine:
            # gRPC applies the proxy of the environment to localhost as well, and the key is not encrypted there.
            arguments.append(("grpc.enable_http_proxy", 0))
        client = module.InferenceServerClient(
            address.host_and_port,
            ssl=address.tls,
            # The same CAs as over HTTP; if the system has none, both libraries fall back to their own.
            root_certificates=ca or ssl.get_default_verify_paths().cafile,
            channel_args=arguments,
        )
        super().__init__(module, client, address, api_key)

    @contextmanager
    def _time_limit(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        yield {"client_timeout": timeout_s}

    def _read_max_batch_size(self, model: str, options: dict[str, Any]) -> int:
        return int(self._client.get_model_config(model, **options).config.max_batch_size)

    def _client_error(self, error: Exception, timeout_s: float) -> JpegClientError:
        if not isinstance(error, self._module.InferenceServerException):
            return self._unexpected(error)
        status = (error.status() or "").removeprefix("StatusCode.")
        message = error.message()
        # A server of another protocol.
        if status in ("UNIMPLEMENTED", "UNKNOWN") and "http2" in message.lower():
            return self._unreachable()
        if status == "UNAVAILABLE" and _is_connection_failure(message):
            if reason := re.search(r"CERTIFICATE_VERIFY_FAILED(?:: ([\w -]+))?|[^:]*not in peer certificate", message):
                return self._certificate_error(reason[1] or reason[0])
            if reason := re.search("Hostname Verification Check failed", message):
                return self._certificate_error(reason[0])
            return self._without_tls() if "WRONG_VERSION_NUMBER" in message else self._unreachable()
        # gRPC's message for our own timeout; a gateway has another for the timeout of its server.
        if status == "DEADLINE_EXCEEDED" and message == "Deadline Exceeded":
            return self._timed_out(timeout_s)
        return self._response_error(status, message)


class HttpTransport(_TritonTransport):
    """HTTP/1.1 with Triton's binary tensor extension.

    Args:
        address: Address of the server.
        timeout_s: Time limit to connect, and for each read, in seconds.
        api_key: API key for a gateway, or None.
        ca: PEM file with the trusted certificates; None trusts the public CAs.
    """

    def __init__(self, address: Address, timeout_s: float, *, api_key: str | None, ca: str | None) -> None:
        import gevent  # type: ignore[import-untyped]  # tritonclient's HTTP client runs on it
        import gevent.ssl  # type: ignore[import-untyped]
        import tritonclient.http as module

        class RetryAfterClient(module.InferenceServerClient):  # type: ignore[misc]  # tritonclient has no types
            """Keep the Retry-After header, which tritonclient's exceptions lack."""

            retry_after: str | None = None

            def _get(self, *arguments: Any, **options: Any) -> Any:
                return self._keep_header(super()._get(*arguments, **options))

            def _post(self, *arguments: Any, **options: Any) -> Any:
                return self._keep_header(super()._post(*arguments, **options))

            def _keep_header(self, response: Any) -> Any:
                self.retry_after = response.get("retry-after")
                return response

        client = RetryAfterClient(
            address.host_and_port,
            connection_timeout=timeout_s,
            network_timeout=timeout_s,
            ssl=address.tls,
            ssl_options={} if ca is None else {"ca_certs": ca},
            ssl_context_factory=gevent.ssl.create_default_context,
        )
        self._gevent = gevent
        super().__init__(module, client, address, api_key)

    @contextmanager
    def _time_limit(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        # The connection's timeouts apply to each read, and tritonclient's `timeout` to the server's queue.
        with self._gevent.Timeout(timeout_s, TimeoutError()):
            yield {}

    def _read_max_batch_size(self, model: str, options: dict[str, Any]) -> int:
        return int(self._client.get_model_config(model, **options)["max_batch_size"])

    def _client_error(self, error: Exception, timeout_s: float) -> JpegClientError:
        if isinstance(error, self._module.InferenceServerException):
            status, message = error.status() or "", error.message()
            # No status: the connection closed before a response.
            if not status:
                return self._unreachable()
            if status == "400" and not self._address.tls and re.search("is malformed|sent to HTTPS port", message):
                return ServerUnavailable(
                    f"the server at {self._address} speaks TLS: use https://", reason="tls_mismatch"
                )
            return self._response_error(status, message, self._client.retry_after)
        if isinstance(error, TimeoutError):
            return self._timed_out(timeout_s)
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._certificate_error(error.verify_message)
        if isinstance(error, ssl.SSLError):
            return self._without_tls()
        if isinstance(error, OSError):
            return self._unreachable()
        # geventhttpclient's exception for a server of another protocol is not public.
        return self._unreachable() if "Expected HTTP/" in str(error) else self._unexpected(error)


def _is_connection_failure(message: str) -> bool:
    return any(words in message.lower() for words in ("connect", "socket", "dns", "name resolution"))
