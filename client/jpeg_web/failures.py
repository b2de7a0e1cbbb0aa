"""Failures of requests: their HTTP statuses, and the mapping from the client's exceptions.

| status | cause | reason codes |
|---|---|---|
| 400 | the client's request | invalid_k, no_image, invalid_multipart, those of images, ... |
| 404 | unknown path or model | not_found, unknown_model |
| 405 | another method | method_not_allowed |
| 408 | the body comes too slowly | receive_timeout |
| 413 | the body is too long | request_too_large |
| 429 | the gateway in front of Triton limits the rate | too_many_requests |
| 502 | Triton responds with something unusable, or refuses this application's key or certificate | see `jpeg_client` |
| 503 | no server, its queue is full, or too many bodies are open here | server_unavailable, queue_full, busy, ... |
| 504 | no response in time | server_timeout |
"""

from __future__ import annotations

import logging
import math

from jpeg_client.errors import (
    CertificateRefused,
    InvalidArgument,
    InvalidResponse,
    JpegClientError,
    ProtocolMismatch,
    RequestRefused,
    ServerTimeout,
    ServerUnavailable,
    TooManyRequests,
)
from jpeg_contract.errors import ReasonedError

log = logging.getLogger(__name__)

MIN_RETRY_AFTER_S = 1

_NO_SUCH_MODEL = frozenset({"not_found", "unknown_model"})
# Refusals that concern this application, not its client.
_OURS = frozenset({"api_key_required", "api_key_rejected", "forbidden", "unsupported", "unexpected_response"})
# Faults of the server or its classifier that an image's error can have (jpeg_contract.image_errors).
SERVER_FAULTS = frozenset({"internal", "not_finite"})


class RequestFailed(ReasonedError):
    """A request fails as a whole.

    Args:
        status: HTTP status.
        reason: Stable reason code.
        message: The fault and its remedy, for the client.
        retry_after_s: Seconds until the next try; None sends no Retry-After.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, reason=reason)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(MIN_RETRY_AFTER_S, math.ceil(self.retry_after_s)))}


def from_client_error(error: JpegClientError | InvalidArgument) -> RequestFailed:
    """Map an exception of `jpeg_client`.

    The messages are for the client of this application: they hold no address inside the network. What the operator
    needs goes to the log.
    """
    reason = error.reason
    match error:
        case InvalidArgument():
            return RequestFailed(400, reason, str(error))
        case TooManyRequests():
            return RequestFailed(
                429, reason, "the rate of requests is limited: try again later", retry_after_s=error.wait_s
            )
        case RequestRefused() if reason == "request_too_large":
            return RequestFailed(413, reason, "the server refuses so long a request: send fewer or smaller images")
        case RequestRefused() if reason in _NO_SUCH_MODEL:
            return RequestFailed(404, "unknown_model", "the server has no such model: GET /models lists them")
        case RequestRefused() if reason not in _OURS:
            return RequestFailed(400, reason, str(error))
        case ServerTimeout():
            return RequestFailed(504, reason, "the server did not respond in time: try again, with fewer images")
        case ProtocolMismatch() | InvalidResponse() | CertificateRefused() | RequestRefused():
            log.error("%s [%s]", error, reason)
            return RequestFailed(502, reason, "the server cannot be used: the operator finds the cause in the log")
        case ServerUnavailable():
            return RequestFailed(
                503, reason, "the server cannot take the request now: try again later", retry_after_s=error.wait_s
            )
    log.error("%s [%s]", error, reason)
    return RequestFailed(502, reason, "the server cannot be used: the operator finds the cause in the log")
