"""Errors of the client. Each has a stable reason code in `reason`.

JpegClientError
├── ServerUnavailable      no server responds, or it cannot take the request now
│   ├── RequestLost        the connection or the server's worker ended after the request was sent
│   ├── InvalidResponse    the response does not fit the request
│   └── ProtocolMismatch   the server at the address speaks another protocol
├── ServerTimeout          no response within the timeout
├── SharedMemoryError      memory cannot be shared with the server (jpeg_client.shared_memory)
├── CertificateRefused     the server's certificate is not trusted
└── RequestRefused         the server or its gateway refuses the whole request
    └── TooManyRequests    the request rate exceeds the limit

InvalidArgument            an argument is invalid; a ValueError

An image that cannot be classified raises none of these: `Prediction.error` holds the cause. `jpeg_client.retries` says
which of them the client retries.
"""

from __future__ import annotations

from jpeg_contract.errors import ReasonedError


class JpegClientError(ReasonedError):
    """Base class of errors between client and server."""

    reason = "client_error"


class ServerUnavailable(JpegClientError):
    """No server responds at the address, or the server cannot take the request now.

    Reasons: "server_unavailable"; "queue_full"; "model_not_ready"; "server_stopping" and other codes of the server;
    "tls_mismatch" if the server ends the TLS handshake.

    Args:
        message: See `ReasonedError`.
        reason: See `ReasonedError`.
        wait_s: Seconds until the server can take a request (Retry-After); 0 if it does not say.
    """

    reason = "server_unavailable"

    def __init__(self, message: str, *, reason: str | None = None, wait_s: float = 0.0) -> None:
        super().__init__(message, reason=reason)
        self.wait_s = wait_s


class RequestLost(ServerUnavailable):
    """The request was sent, but the connection or the server ended before the response.

    The server may have ended because of the request.

    Reasons: "request_lost", or "worker_died" if the server still responds, but one of its workers has ended.
    """

    reason = "request_lost"


class InvalidResponse(ServerUnavailable):
    """The response does not fit the request, so that no part of it is returned.

    Reasons: "invalid_response", or "wrong_checksum" if the response belongs to another image.
    """

    reason = "invalid_response"


class ProtocolMismatch(ServerUnavailable):
    """The server at the address speaks another protocol.

    Reasons: "protocol_mismatch", or "tls_mismatch" if only one of client and server uses TLS.
    """

    reason = "protocol_mismatch"


class ServerTimeout(JpegClientError):
    """The server does not respond within the timeout."""

    reason = "server_timeout"


class CertificateRefused(JpegClientError):
    """The server's certificate has expired, names another host, or has no trusted issuer."""

    reason = "certificate_refused"


class RequestRefused(JpegClientError):
    """The server or its gateway refuses the whole request.

    Reasons: "invalid_k" or "invalid_threshold" if it is out of range, "unknown_model", "request_too_long" and other
    codes of the server; "api_key_required", "api_key_rejected", "forbidden", "not_found", "request_too_large" of the
    gateway; "unsupported" and "unexpected_response" if the address is not that of Triton; otherwise "request_refused".

    Args:
        message: See `ReasonedError`.
        status: HTTP or gRPC status, such as "400" or "INVALID_ARGUMENT".
        reason: See `ReasonedError`.
    """

    reason = "request_refused"

    def __init__(self, message: str, status: str, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.status = status


class TooManyRequests(RequestRefused):
    """The request rate of this API key or client address exceeds the limit.

    Args:
        message: See `ReasonedError`.
        status: See `RequestRefused`.
        wait_s: Seconds until the next request is allowed.
    """

    reason = "too_many_requests"

    def __init__(self, message: str, status: str, wait_s: float) -> None:
        super().__init__(message, status)
        self.wait_s = wait_s


class InvalidArgument(ReasonedError, ValueError):
    """An argument of the client is invalid."""

    reason = "invalid_argument"
