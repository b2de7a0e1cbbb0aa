"""What a refusal means, and what can be done: the answers of Triton and of the gateway before it, as errors."""

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

# How long to wait where nobody says it, as over gRPC, in seconds; the gateway means this, too.
DEFAULT_WAIT_S = 1.0

# What tritonclient says of an answer that is not Triton's JSON, before it repeats that answer.
_UNREADABLE = "an exception occurred in the client"

_NO_SERVER = "no server answers"  # the gateway's words


def refusal(url: str, status: str, message: str, *, has_key: bool, retry_after: str | None = None) -> JpegClientError:
    """The error for an answer that is none.

    status: HTTP's, such as "401", or gRPC's, such as "UNAUTHENTICATED".
    message: what the answer says. retry_after: its header of that name.
    """
    readable = not message.startswith(_UNREADABLE)
    said = f" ({message})" if readable and message else ""
    match status:
        case "401" | "UNAUTHENTICATED" if has_key:
            return RequestRefused(
                f"{url} does not take this API key: it is not in its list, or has ended; ask who runs it for a new one",
                status,
            )
        case "401" | "UNAUTHENTICATED":
            return RequestRefused(
                f"{url} asks for an API key: give one, with Client(api_key=...), or jpeg-classify --api-key-file FILE",
                status,
            )
        case "403" | "PERMISSION_DENIED":
            return RequestRefused(f"{url} does not allow this{said}: ask who runs it to open it for you", status)
        case "404" if not readable or message.startswith("this gateway"):
            return RequestRefused(f"{url} has no such model{said}: is that the right address?", status)
        case "UNIMPLEMENTED" | "415":
            return RequestRefused(
                f"{url} does not offer what the client needs{said}: is that a Triton server or its gateway?", status
            )
        case "413":
            return _too_long(url, said, status)
        case "RESOURCE_EXHAUSTED" if re.search("long|large", message):  # gRPC has one word for both
            return _too_long(url, said, status)
        case "429" | "RESOURCE_EXHAUSTED":
            return TooManyRequests(
                f"{url} takes no more requests for now{said}: ask less often, or give it more time (timeout_s)",
                status,
                wait_s(retry_after),
            )
        case "502":
            return _no_server(url)
        case "503" | "UNAVAILABLE":
            return ServerUnavailable(message) if readable and message != _NO_SERVER else _no_server(url)
        case "504" | "DEADLINE_EXCEEDED":
            return ServerTimeout(f"{url} had no answer from its server in time{said}: try fewer images at a time")
        case _ if not readable:
            return RequestRefused(
                f"{url} answers with {status}, not as Triton or its gateway does: is that the right address?", status
            )
    # Which ensemble it was is known here; a user wants to know why.
    return RequestRefused(re.sub(r"^in ensemble '[^']*', ", "", message), status)


def bad_certificate(url: str, reason: str) -> CertificateRefused:
    """The error for a certificate that was not taken; the reason in the words of OpenSSL or gRPC."""
    if re.search("expired|not yet valid", reason):
        sentence = "has expired, or is not valid yet: who runs it must renew it, or this machine's clock is wrong"
    elif re.search("hostname|mismatch|not in peer certificate", reason, re.IGNORECASE):
        sentence = "is for another host: write the host's name as it is in the certificate"
    else:
        sentence = (
            f"is signed by nobody who is trusted here ({reason}): if it is the right server, give the certificate of "
            "its authority, or its own if it signed itself, with Client(ca=FILE) or jpeg-classify --ca FILE"
        )
    return CertificateRefused(f"the certificate of {url} {sentence}")


def wait_s(retry_after: str | None) -> float:
    """Seconds from now: Retry-After is a number of them or a date (RFC 9110, section 10.2.3)."""
    if not retry_after:
        return DEFAULT_WAIT_S
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return DEFAULT_WAIT_S
    # HTTP's dates are in GMT, and say so; one that says -0000 has no zone in Python.
    until = until if until.tzinfo is not None else until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())


def _too_long(url: str, said: str, status: str) -> RequestRefused:
    return RequestRefused(
        f"{url} does not take a request of this length{said}: classify fewer or smaller images at a time", status
    )


def _no_server(url: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"the gateway at {url} answers, but no server behind it does: try again later, or tell who runs it"
    )
