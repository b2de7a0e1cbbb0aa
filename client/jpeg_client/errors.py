"""Errors of the client. Each has a stable reason code in `reason`.

JpegClientError
├── ServerUnavailable      no server responds, or it is not ready
├── ServerTimeout          no response within the timeout
├── CertificateRefused     the server's certificate is not trusted
└── RequestRefused         the server or its gateway refuses the whole request
    └── TooManyRequests    the request rate exceeds the limit

InvalidArgument            an argument is invalid; a ValueError

An image that cannot be classified raises none of these: `Prediction.error` holds the cause.
"""

from __future__ import annotations

from jpeg_contract.errors import ReasonedError


class JpegClientError(ReasonedError):
    """Base class of errors between client and server."""

    reason = "client_error"


class ServerUnavailable(JpegClientError):
    """No server responds at the address, or the server is not ready."""

    reason = "server_unavailable"


class ServerTimeout(JpegClientError):
    """The server does not respond within the timeout."""

    reason = "server_timeout"


class CertificateRefused(JpegClientError):
    """The server's certificate has expired, names another host, or has no trusted issuer."""

    reason = "certificate_refused"


class RequestRefused(JpegClientError):
    """The server or its gateway refuses the whole request.

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
