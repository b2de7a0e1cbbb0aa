"""Classify JPEG images on a running server.

Example:
    from jpeg_client import Client

    with Client("grpc://localhost:8001") as client:
        prediction = client.classify("photo.jpg", k=3)
        print(prediction.labels, prediction.scores)

`AsyncClient` is the same for asyncio. Through a gateway: Client("grpcs://HOST:8443", api_key=..., ca=...).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jpeg_client.async_client import AsyncClient
    from jpeg_client.client import Client
    from jpeg_client.description import ModelDescription
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
    from jpeg_client.images import Image
    from jpeg_client.pixel_client import PixelClient
    from jpeg_client.prediction import Classified, Prediction, StepTimes
    from jpeg_client.shared_memory import SharedMemoryError

_MODULES = {
    "AsyncClient": "async_client",
    "CertificateRefused": "errors",
    "Classified": "prediction",
    "Client": "client",
    "Image": "images",
    "InvalidArgument": "errors",
    "InvalidResponse": "errors",
    "JpegClientError": "errors",
    "ModelDescription": "description",
    "PixelClient": "pixel_client",
    "Prediction": "prediction",
    "ProtocolMismatch": "errors",
    "RequestLost": "errors",
    "RequestRefused": "errors",
    "SharedMemoryError": "shared_memory",
    "ServerTimeout": "errors",
    "ServerUnavailable": "errors",
    "StepTimes": "prediction",
    "TooManyRequests": "errors",
}

__all__ = [
    "AsyncClient",
    "CertificateRefused",
    "Classified",
    "Client",
    "Image",
    "InvalidArgument",
    "InvalidResponse",
    "JpegClientError",
    "ModelDescription",
    "PixelClient",
    "Prediction",
    "ProtocolMismatch",
    "RequestLost",
    "RequestRefused",
    "ServerTimeout",
    "ServerUnavailable",
    "SharedMemoryError",
    "StepTimes",
    "TooManyRequests",
]


def __getattr__(name: str) -> object:
    # Imported on first use: --help stays fast, and the command can name a package that is not installed.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
