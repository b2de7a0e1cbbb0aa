"""Map error responses of Triton and its gateway to exceptions."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from jpeg_client.errors import (
    CertificateRefused,
    JpegClientError,
    RequestRefused,
    ServerTimeout,
    ServerUnavailable,
    TooManyRequests,
)

DEFAULT_WAIT_S = 1.0
"""Wait after a refusal without Retry-After, as over gRPC: the gateway counts requests per second."""

# tritonclient's message for a response that is not Triton's JSON; the response follows.
_UNREADABLE = "an exception occurred in the client"

# Messages in deploy/gateway/nginx.conf.template.
_GATEWAY = "this gateway"
_NO_SERVER = "no server answers"

_CHECK_ADDRESS = "check that the address belongs to a Triton server or its gateway"


def response_error(
    url: str, status: str, message: str, *, has_key: bool, retry_after: str | None = None
) -> JpegClientError:
    """Map an error response to an exception.

    Args:
        url: Address of the server.
        status: HTTP status, such as "401", or gRPC status, such as "UNAUTHENTICATED".
        message: Error message in the response.
        has_key: Whether the request carried an API key.
        retry_after: Retry-After header of the response.
    """
    readable = not message.startswith(_UNREADABLE)
    detail = f" ({message})" if readable and message else ""
    match status:
        case "401" | "UNAUTHENTICATED" if has_key:
            return RequestRefused(
                f"{url} rejects this API key: it is unknown or has expired; obtain a new one from the operator",
                status,
                reason="api_key_rejected",
            )
        case "401" | "UNAUTHENTICATED":
            return RequestRefused(
                f"{url} requires an API key: pass it with Client(api_key=...) or jpeg-classify --api-key-file FILE",
                status,
                reason="api_key_required",
            )
        case "403" | "PERMISSION_DENIED":
            return RequestRefused(
                f"{url} denies access{detail}: the operator of the server can grant it", status, reason="forbidden"
            )
        case "404" if not readable or message.startswith(_GATEWAY):
            return RequestRefused(f"{url} has no such model{detail}: {_CHECK_ADDRESS}", status, reason="not_found")
        case "UNIMPLEMENTED" | "415":
            return RequestRefused(
                f"{url} does not support this request{detail}: {_CHECK_ADDRESS}", status, reason="unsupported"
            )
        case "413":
            return _too_large(url, detail, status)
        case "RESOURCE_EXHAUSTED" if re.search("long|large", message):  # gRPC has one status for 413 and 429
            return _too_large(url, detail, status)
        case "429" | "RESOURCE_EXHAUSTED":
            return TooManyRequests(
                f"{url} limits the request rate{detail}: send requests less often, or raise timeout_s",
                status,
                retry_after_s(retry_after),
            )
        case "502":
            return _no_server(url)
        case "503" | "UNAVAILABLE":
            return ServerUnavailable(message) if readable and message != _NO_SERVER else _no_server(url)
        case "504" | "DEADLINE_EXCEEDED":
            return ServerTimeout(f"{url} did not complete the request in time{detail}: send fewer images at a time")
        case _ if not readable:
            return RequestRefused(
                f"{url} responds with status {status} and no Triton error: {_CHECK_ADDRESS}",
                status,
                reason="unexpected_response",
            )
    # The caller knows the ensemble; the cause comes after its name.
    return RequestRefused(re.sub(r"^in ensemble '[^']*', ", "", message), status)


def certificate_error(url: str, reason: str) -> CertificateRefused:
    """Map a failed certificate check to an exception.

    Args:
        url: Address of the server.
        reason: Message of OpenSSL or gRPC.
    """
    if re.search("expired|not yet valid", reason):
        detail = "has expired or is not yet valid: the operator must renew it, or the clock of this machine is wrong"
    elif re.search("hostname|mismatch|not in peer certificate", reason, re.IGNORECASE):
        detail = "is for another host: use a host name from the certificate"
    else:
        detail = (
            f"is not trusted ({reason}): if this is the right server, pass the certificate of its CA, or its own "
            "self-signed certificate, with Client(ca=FILE) or jpeg-classify --ca FILE"
        )
    return CertificateRefused(f"the certificate of {url} {detail}")


def retry_after_s(retry_after: str | None) -> float:
    """Convert a Retry-After header to seconds from now.

    Args:
        retry_after: Seconds or a date (RFC 9110, section 10.2.3); `DEFAULT_WAIT_S` replaces a missing or invalid one.
    """
    if not retry_after:
        return DEFAULT_WAIT_S
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return DEFAULT_WAIT_S
    # HTTP dates are in GMT; Python returns no time zone for -0000.
    until = until if until.tzinfo is not None else until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())


def _too_large(url: str, detail: str, status: str) -> RequestRefused:
    return RequestRefused(
        f"the request is too large for {url}{detail}: send fewer or smaller images at a time",
        status,
        reason="request_too_large",
    )


def _no_server(url: str) -> ServerUnavailable:
    return ServerUnavailable(f"the gateway at {url} cannot reach its server: try again later, or contact the operator")
