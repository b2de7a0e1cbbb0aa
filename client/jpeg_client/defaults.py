"""Defaults that the library and the command share; the command reads them without loading NumPy."""

from __future__ import annotations

DEFAULT_URL = "grpc://localhost:8001"

URL_VARIABLE = "JPEG_URL"
"""Environment variable with the address of the server, for the commands."""

DEFAULT_TIMEOUT_S = 30.0

DEFAULT_CONCURRENCY = 8
"""Requests of a stream at a time."""

DEFAULT_BATCH_SIZE = 16
"""Images per request of a stream, if the server takes as many."""
