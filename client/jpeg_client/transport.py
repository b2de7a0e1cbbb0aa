"""tritonclient's gRPC and HTTP, made alike."""

from __future__ import annotations

import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jpeg_client.address import Address
from jpeg_client.errors import JpegClientError, ServerTimeout, ServerUnavailable
from jpeg_client.refusals import bad_certificate, refusal

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

    def max_batch_size(self, model: str, timeout_s: float) -> int:
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

    def __init__(self, module: Any, client: Any, address: Address, api_key: str | None) -> None:
        self._module, self._client, self._address = module, client, address
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}

    def infer(self, model: str, images: Sequence[bytes], k: int | None, timeout_s: float) -> Arrays:
        """See Transport."""
        tensor = self._module.InferInput("IMAGE", [len(images), 1], "BYTES")
        # dtype object: NumPy's own bytes type would cut trailing zero bytes off.
        tensor.set_data_from_numpy(np.array(images, dtype=object).reshape(-1, 1))
        outputs = [self._module.InferRequestedOutput(name) for name in OUTPUTS]
        parameters = {} if k is None else {"k": k}
        with self._asking(timeout_s) as options:
            result = self._client.infer(model, [tensor], outputs=outputs, parameters=parameters, **options)
        return Arrays(*(result.as_numpy(name) for name in OUTPUTS))

    def max_batch_size(self, model: str, timeout_s: float) -> int:
        """See Transport."""
        with self._asking(timeout_s) as options:
            return self._read_max_batch_size(model, options)

    def close(self) -> None:
        """See Transport."""
        self._client.close()

    @contextmanager
    def _asking(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        """For one call: the options that it takes, and its errors as ours."""
        try:
            with self._limited(timeout_s) as options:
                # A new one for each call, since tritonclient writes into it.
                yield {**options, "headers": dict(self._headers)}
        except Exception as error:
            raise self._translate(error, timeout_s) from error

    @abstractmethod
    def _limited(self, timeout_s: float) -> AbstractContextManager[dict[str, Any]]: ...

    @abstractmethod
    def _read_max_batch_size(self, model: str, options: dict[str, Any]) -> int: ...

    @abstractmethod
    def _translate(self, error: Exception, timeout_s: float) -> JpegClientError: ...

    def _timed_out(self, timeout_s: float) -> ServerTimeout:
        return ServerTimeout(f"{self._address} did not answer within {timeout_s:g} s")

    def _nobody(self) -> ServerUnavailable:
        return ServerUnavailable(f"no Triton answers at {self._address}: is it running, and is that the right port?")

    def _no_tls(self) -> ServerUnavailable:
        return ServerUnavailable(f"what answers at {self._address} does not speak TLS: is that the right port?")

    def _refused(self, status: str, message: str, retry_after: str | None = None) -> JpegClientError:
        has_key = bool(self._headers)
        return refusal(str(self._address), status, message, has_key=has_key, retry_after=retry_after)


class GrpcTransport(_Tritonclient):
    """gRPC, the faster one: binary, one connection for many requests."""

    def __init__(self, address: Address, *, api_key: str | None, ca: str | None) -> None:
        import tritonclient.grpc as module  # only the chosen protocol is imported

        arguments = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if address.is_this_machine:
            # gRPC takes a proxy from the environment even to get from here to here, with a key that is not encrypted.
            arguments.append(("grpc.enable_http_proxy", 0))
        client = module.InferenceServerClient(
            address.host_and_port,
            ssl=address.tls,
            # As HTTP does; where it is None, both take the list of authorities that they carry.
            root_certificates=ca or ssl.get_default_verify_paths().cafile,
            channel_args=arguments,
        )
        super().__init__(module, client, address, api_key)

    @contextmanager
    def _limited(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        yield {"client_timeout": timeout_s}

    def _read_max_batch_size(self, model: str, options: dict[str, Any]) -> int:
        return int(self._client.get_model_config(model, **options).config.max_batch_size)

    def _translate(self, error: Exception, timeout_s: float) -> JpegClientError:
        if not isinstance(error, self._module.InferenceServerException):
            return JpegClientError(f"{self._address}: {error}")
        status = (error.status() or "").removeprefix("StatusCode.")
        message = error.message()
        # Something answered that is no gRPC server.
        if status in ("UNIMPLEMENTED", "UNKNOWN") and "http2" in message.lower():
            return self._nobody()
        if status == "UNAVAILABLE" and _is_connection(message):
            if reason := re.search(r"CERTIFICATE_VERIFY_FAILED(?:: ([\w -]+))?|[^:]*not in peer certificate", message):
                return bad_certificate(str(self._address), reason[1] or reason[0])
            if reason := re.search("Hostname Verification Check failed", message):
                return bad_certificate(str(self._address), reason[0])
            return self._no_tls() if "WRONG_VERSION_NUMBER" in message else self._nobody()
        # These are gRPC's own words: a gateway has others for its servers.
        if status == "DEADLINE_EXCEEDED" and message == "Deadline Exceeded":
            return self._timed_out(timeout_s)
        return self._refused(status, message)


class HttpTransport(_Tritonclient):
    """HTTP/1.1 with the binary tensor extension."""

    def __init__(self, address: Address, timeout_s: float, *, api_key: str | None, ca: str | None) -> None:
        import gevent  # type: ignore[import-untyped]  # what tritonclient's HTTP runs on
        import gevent.ssl  # type: ignore[import-untyped]
        import tritonclient.http as module

        class Client(module.InferenceServerClient):  # type: ignore[misc]  # tritonclient has no types
            """Keeps a header that tritonclient's errors do not have."""

            retry_after: str | None = None

            def _get(self, *arguments: Any, **options: Any) -> Any:
                return self._note(super()._get(*arguments, **options))

            def _post(self, *arguments: Any, **options: Any) -> Any:
                return self._note(super()._post(*arguments, **options))

            def _note(self, response: Any) -> Any:
                self.retry_after = response.get("retry-after")
                return response

        client = Client(
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
    def _limited(self, timeout_s: float) -> Iterator[dict[str, Any]]:
        # The connection's own time-outs are for each of its reads. tritonclient's would be the server's queue policy.
        with self._gevent.Timeout(timeout_s, TimeoutError()):
            yield {}

    def _read_max_batch_size(self, model: str, options: dict[str, Any]) -> int:
        return int(self._client.get_model_config(model, **options)["max_batch_size"])

    def _translate(self, error: Exception, timeout_s: float) -> JpegClientError:
        if isinstance(error, self._module.InferenceServerException):
            status, message = error.status() or "", error.message()
            # Without a status there was no answer: the connection was cut.
            if not status:
                return self._nobody()
            if status == "400" and not self._address.tls and re.search("is malformed|sent to HTTPS port", message):
                return ServerUnavailable(f"what answers at {self._address} speaks TLS: write https://")
            return self._refused(status, message, self._client.retry_after)
        if isinstance(error, TimeoutError):
            return self._timed_out(timeout_s)
        if isinstance(error, ssl.SSLCertVerificationError):
            return bad_certificate(str(self._address), error.verify_message)
        if isinstance(error, ssl.SSLError):
            return self._no_tls()
        if isinstance(error, OSError):
            return self._nobody()
        # What answers speaks another protocol; geventhttpclient has no public name for that error.
        return self._nobody() if "Expected HTTP/" in str(error) else JpegClientError(f"{self._address}: {error}")


def _is_connection(message: str) -> bool:
    return any(words in message.lower() for words in ("connect", "socket", "dns", "name resolution"))
