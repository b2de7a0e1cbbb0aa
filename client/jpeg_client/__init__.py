"""Ask a server of this project for the labels of images.

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
        JpegClientError,
        RequestRefused,
        ServerTimeout,
        ServerUnavailable,
        TooManyRequests,
    )
    from jpeg_client.prediction import Prediction

_HOMES = {
    "CertificateRefused": "errors",
    "Client": "client",
    "Image": "client",
    "JpegClientError": "errors",
    "Prediction": "prediction",
    "RequestRefused": "errors",
    "ServerTimeout": "errors",
    "ServerUnavailable": "errors",
    "TooManyRequests": "errors",
}

__all__ = [
    "CertificateRefused",
    "Client",
    "Image",
    "JpegClientError",
    "Prediction",
    "RequestRefused",
    "ServerTimeout",
    "ServerUnavailable",
    "TooManyRequests",
]


def __getattr__(name: str) -> object:
    # On first use, so that a command can say which package is not installed, and answers --help at once.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
