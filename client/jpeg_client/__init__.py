"""Classify JPEG images on a running server.

Example:
    from jpeg_client import Client

    with Client("grpc://localhost:8001") as client:
        for prediction in client.classify(["photo.jpg"], k=3):
            print(prediction.labels, prediction.scores)

Through a gateway: Client("grpcs://HOST:8443", api_key=..., ca=...).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jpeg_client.client import Client, Image
    from jpeg_client.errors import (
        CertificateRefused,
        InvalidArgument,
        InvalidResponse,
        JpegClientError,
        ProtocolMismatch,
        RequestLost,
        RequestRefused,
        ServerTimeout,
        ServerUnavailable,
        TooManyRequests,
    )
    from jpeg_client.prediction import Prediction

_MODULES = {
    "CertificateRefused": "errors",
    "Client": "client",
    "Image": "client",
    "InvalidArgument": "errors",
    "InvalidResponse": "errors",
    "JpegClientError": "errors",
    "Prediction": "prediction",
    "ProtocolMismatch": "errors",
    "RequestLost": "errors",
    "RequestRefused": "errors",
    "ServerTimeout": "errors",
    "ServerUnavailable": "errors",
    "TooManyRequests": "errors",
}

__all__ = [
    "CertificateRefused",
    "Client",
    "Image",
    "InvalidArgument",
    "InvalidResponse",
    "JpegClientError",
    "Prediction",
    "ProtocolMismatch",
    "RequestLost",
    "RequestRefused",
    "ServerTimeout",
    "ServerUnavailable",
    "TooManyRequests",
]


def __getattr__(name: str) -> object:
    # Imported on first use: --help stays fast, and the command can name a package that is not installed.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
