"""gRPC."""

from __future__ import annotations

import re
import ssl
from typing import Any

import tritonclient.grpc

from jpeg_client.address import Address
from jpeg_client.connections import ConnectionPool
from jpeg_client.credentials import Credentials
from jpeg_client.errors import JpegClientError
from jpeg_client.responses import InferResult
from jpeg_client.triton_transport import SyncTritonTransport, TritonTransport

# gRPC's messages for requests that it did not send, because it has no connection.
_NOT_CONNECTED = re.compile(r"failed to connect|connections to all backends|\bDNS\b|name resolution|empty address list")
# Its messages for connections that ended under a request.
_LOST = re.compile(
    r"socket closed|stream removed|connection reset|broken pipe|recvmsg|sendmsg|transport|RST_STREAM|GOAWAY|keepalive",
    re.IGNORECASE,
)


class GrpcErrors(TritonTransport[Any]):
    """Exceptions of gRPC as the client's own."""

    def _client_error(self, error: Exception, timeout_s: float) -> JpegClientError:
        if not isinstance(error, tritonclient.grpc.InferenceServerException):
            return self._unexpected(error)
        status = (error.status() or "").removeprefix("StatusCode.")
        message = error.message()
        # A server of another protocol.
        if status in ("UNIMPLEMENTED", "UNKNOWN") and "http2" in message.lower():
            return self._other_protocol()
        if status == "UNAVAILABLE" and _NOT_CONNECTED.search(message):
            if reason := re.search(r"CERTIFICATE_VERIFY_FAILED(?:: ([\w -]+))?|[^:]*not in peer certificate", message):
                return self._certificate_error(reason[1] or reason[0])
            if reason := re.search("Hostname Verification Check failed", message):
                return self._certificate_error(reason[0])
            return self._without_tls() if "WRONG_VERSION_NUMBER" in message else self._unreachable()
        # An answer of a gateway, which has lost its server, is none of these.
        if status in ("UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED") and _is_lost(message):
            return self._lost(message)
        # gRPC's message for our own timeout; a gateway has another for the timeout of its server.
        if status == "DEADLINE_EXCEEDED" and message == "Deadline Exceeded":
            return self._timed_out(timeout_s)
        return self._response_error(status, message)


class GrpcTransport(GrpcErrors, SyncTritonTransport[Any]):
    """gRPC: faster than HTTP, with one connection for all requests.

    Args:
        address: Address of the server.
        credentials: For it.
    """

    def __init__(self, address: Address, credentials: Credentials) -> None:
        options = connection_options(address, credentials)
        pool = ConnectionPool(
            lambda: tritonclient.grpc.InferenceServerClient(**options), lambda client: client.close(), multiplexed=True
        )
        super().__init__(tritonclient.grpc, pool, address, credentials)

    def _send_inference(self, connection: Any, model: str, options: dict[str, Any], timeout_s: float) -> InferResult:
        result: InferResult = connection.infer(model, **options, client_timeout=timeout_s, headers=dict(self._headers))
        return result

    def _read_config(self, connection: Any, model: str, timeout_s: float) -> dict[str, Any]:
        response = connection.get_model_config(
            model, as_json=True, client_timeout=timeout_s, headers=dict(self._headers)
        )
        return dict(response["config"])

    def _read_metadata(self, connection: Any, model: str | None, timeout_s: float) -> dict[str, Any]:
        options = {"as_json": True, "client_timeout": timeout_s, "headers": dict(self._headers)}
        if model is None:
            return dict(connection.get_server_metadata(**options))
        return dict(connection.get_model_metadata(model, **options))


def connection_options(address: Address, credentials: Credentials) -> dict[str, Any]:
    """Return the arguments of tritonclient's clients, both of which take the same."""
    arguments: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # Else a new channel would use the connection of the one that it replaces.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if address.is_this_machine:
        # gRPC applies the proxy of the environment to localhost as well, and the key is not encrypted there.
        arguments.append(("grpc.enable_http_proxy", 0))
    return {
        "url": address.host_and_port,
        "ssl": address.tls,
        # The same CAs as over HTTP; if the system has none, both libraries fall back to their own.
        "root_certificates": credentials.ca or ssl.get_default_verify_paths().cafile,
        "certificate_chain": credentials.certificate,
        "private_key": credentials.certificate_key,
        "channel_args": arguments,
    }


def _is_lost(message: str) -> bool:
    return _LOST.search(message) is not None and not message.startswith("upstream")
