"""Traces of requests, sent to an OpenTelemetry collector.

Source: Triton's user_guide/trace.md. Triton speaks OTLP over HTTP only, which collectors take on port 4318, and sends
JSON.
"""

from __future__ import annotations

from urllib.parse import urlsplit

# Where collectors take traces (https://opentelemetry.io/docs/specs/otlp/#otlphttp-request).
_PATH = "/v1/traces"
_SERVICE = "jpeg-classifier"


def collector_url(text: str) -> str:
    """The address of a collector's traces, for one given as http://HOST:PORT, or whole.

    Raises ValueError if it is none.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "," in text:
        raise ValueError(f"{text!r} is no address of a collector: write http://HOST:4318")
    return parts._replace(path=_PATH if parts.path in ("", "/") else parts.path).geturl()


def trace_arguments(url: str, rate: int) -> list[str]:
    """tritonserver's options. url: of `collector_url`. rate: every rate-th request is traced; with 0, only
    those that bring the header `traceparent`, which always are."""
    settings = (
        "mode=opentelemetry",
        f"opentelemetry,url={url}",
        f"opentelemetry,resource=service.name={_SERVICE}",
        "level=TIMESTAMPS",
        f"rate={rate}",
    )
    return [f"--trace-config={setting}" for setting in settings]
