"""Traces of requests, sent to an OpenTelemetry collector.

Source: Triton's user_guide/trace.md. Triton sends OTLP over HTTP only, as JSON; collectors receive it on port 4318.
"""

from __future__ import annotations

from urllib.parse import urlsplit

# The path on which collectors receive traces (https://opentelemetry.io/docs/specs/otlp/#otlphttp-request).
_PATH = "/v1/traces"
_SERVICE = "jpeg-classifier"


def collector_url(text: str) -> str:
    """Return the URL of a collector's traces.

    Args:
        text: http://HOST:PORT, or the whole URL.

    Raises:
        ValueError: It is not a URL of a collector.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "," in text:
        raise ValueError(f"{text!r} is not the URL of a collector: write http://HOST:4318")
    return parts._replace(path=_PATH if parts.path in ("", "/") else parts.path).geturl()


def trace_arguments(url: str, rate: int) -> list[str]:
    """Return tritonserver's options for traces.

    Args:
        url: Of `collector_url`.
        rate: Every rate-th request is traced, and each with the header `traceparent`; 0: only those.
    """
    settings = (
        "mode=opentelemetry",
        f"opentelemetry,url={url}",
        f"opentelemetry,resource=service.name={_SERVICE}",
        "level=TIMESTAMPS",
        f"rate={rate}",
    )
    return [f"--trace-config={setting}" for setting in settings]
