"""Defaults that the library and the command share; the command reads them without loading NumPy."""

from __future__ import annotations

DEFAULT_URL = "grpc://localhost:8001"
DEFAULT_TIMEOUT_S = 30.0
