"""Map error responses of Triton and its gateway to exceptions."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from jpeg_client.errors import (
    CertificateRefused,
    JpegClientError,
    RequestLost,
    RequestRefused,
    ServerTimeout,
    ServerUnavailable,
    TooManyRequests,
)

DEFAULT_WAIT_S = 1.0
"""Wait after a refusal without Retry-After, as over gRPC: the gateway counts requests per second."""

WORKER_RESTART_S = 5.0
"""Wait after a response which says that a server or its worker has ended: so long a restart takes."""

# Messages in deploy/gateway/nginx.conf.template.
_GATEWAY = "this gateway"
_NO_SERVER = "no server answers"
# Envoy's message for a server whose connection ended under the request.
_GATEWAY_LOST = re.compile("reset reason: (?:connection termination|remote reset|local reset|protocol error)")

# Triton's messages.
_QUEUE_FULL = "maximum queue size"
_DROPPED = re.compile("request timeout expired", re.IGNORECASE)
_NOT_LOADED = "has no available versions"
_NO_SUCH_MODEL = ("404", "NOT_FOUND")
_WORKER_DIED = re.compile("Stub process .* is not healthy")
# The Python backend refuses a whole batch for one request in it. The client's own requests have the right lengths.
_REFUSED_WITH_BATCH = re.compile("incomplete string (?:data|length) for inference input")

# The end of a message of this project's models: the reason code.
_CODE = re.compile(r" \[([a-z_]+)\]$")


def split_code(message: str) -> tuple[str, str | None]:
    """Split a message into its words and its reason code, None if it has none."""
    code = _CODE.search(message)
    return (message[: code.start()], code[1]) if code else (message, None)


_CHECK_ADDRESS = "check that the address belongs to a Triton server or its gateway"


def response_error(
    url: str, status: str, message: str | None, *, has_key: bool, retry_after: str | None = None
) -> JpegClientError:
    """Map an error response to an exception.

    Args:
        url: Address of the server.
        status: HTTP status, such as "401", or gRPC status, such as "UNAUTHENTICATED".
        message: Error message in the response; None if the response is not Triton's.
        has_key: Whether the request carried an API key.
        retry_after: Retry-After header of the response.
    """
    readable, message = message is not None, message or ""
    detail = f" ({message})" if message else ""
    match status:
        case "401" | "UNAUTHENTICATED":
            return _unauthenticated(url, status, has_key=has_key)
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
            return _unavailable(url, message, retry_after)
        case "500" | "INTERNAL" if _WORKER_DIED.search(message):
            return RequestLost(
                f"a worker of {url} ended before the response{detail}, maybe because of this request",
                reason="worker_died",
                wait_s=WORKER_RESTART_S,
            )
        case "504" | "DEADLINE_EXCEEDED":
            return ServerTimeout(f"{url} did not complete the request in time{detail}: send fewer images at a time")
        case _ if not readable:
            return RequestRefused(
                f"{url} responds with status {status} and no Triton error: {_CHECK_ADDRESS}",
                status,
                reason="unexpected_response",
            )
    return _refused(url, status, message)


def _refused(url: str, status: str, message: str) -> RequestRefused | ServerUnavailable:
    if message.endswith(_NOT_LOADED):  # a server that is about to end, or whose operator swaps the model
        return ServerUnavailable(f"{url} does not serve the model now ({message})", reason="model_not_ready")
    if _REFUSED_WITH_BATCH.search(message):
        return ServerUnavailable(
            f"{url} refused this request with another one of its batch, which has a wrong length ({message})",
            reason="refused_with_batch",
        )
    words, code = split_code(_without_ensemble(message))
    if code is None and status in _NO_SUCH_MODEL:
        return RequestRefused(
            f"{url} serves no model of this name ({words}): correct the name (model=, --model), or load the model",
            status,
            reason="unknown_model",
        )
    return RequestRefused(words, status, reason=code)


def _unauthenticated(url: str, status: str, *, has_key: bool) -> RequestRefused:
    if has_key:
        return RequestRefused(
            f"{url} rejects this API key: it is unknown or has expired; obtain a new one from the operator",
            status,
            reason="api_key_rejected",
        )
    return RequestRefused(
        f"{url} requires an API key: pass it with Client(api_key=...) or jpeg-classify --api-key-file FILE",
        status,
        reason="api_key_required",
    )


def _without_ensemble(message: str) -> str:
    """Return a message without the name of the ensemble, which the caller knows; the cause comes after it."""
    return re.sub(r"^in ensemble '[^']*', ", "", message)


def _unavailable(url: str, message: str, retry_after: str | None) -> ServerUnavailable | ServerTimeout:
    """Map HTTP 503 or gRPC UNAVAILABLE to an exception, with the reason code that the message has."""
    if not message or message == _NO_SERVER or _GATEWAY_LOST.search(message):
        return _no_server(url)
    message = _without_ensemble(message)
    if _DROPPED.search(message):
        return ServerTimeout(f"{url} dropped the request because its time was over ({message})")
    code = _CODE.search(message)
    reason = code[1] if code else "queue_full" if _QUEUE_FULL in message else None
    wait_s = retry_after_s(retry_after) if retry_after else 0.0
    return ServerUnavailable(_CODE.sub("", message), reason=reason, wait_s=wait_s)


def certificate_error(url: str, reason: str) -> CertificateRefused:
    """Map a failed certificate check to an exception.

    Args:
        url: Address of the server.
        reason: Message of OpenSSL or gRPC.
    """
    if re.search("expired|not yet valid", reason):
        detail = "has expired or is not yet valid: the operator must renew it, or the clock of this machine is wrong"
    elif re.search("hostname|host name|mismatch|not in peer certificate", reason, re.IGNORECASE):
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


def _no_server(url: str) -> RequestLost:
    # A gateway has one response for a server that refuses connections and for one that ended under the request.
    return RequestLost(
        f"the gateway at {url} cannot reach its server, or lost it: try again later, or contact the operator",
        wait_s=WORKER_RESTART_S,
    )
