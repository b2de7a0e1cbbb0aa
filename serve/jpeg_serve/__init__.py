"""Finds a tritonserver, checks the model repository, runs the one on the other, and leaves nothing behind.

with TritonServer(ServerOptions(model_repository=Path("model_repository"))) as server:
    print(server.grpc_address)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jpeg_serve.check import check_repository
    from jpeg_serve.errors import ServeError
    from jpeg_serve.models import Problem
    from jpeg_serve.server import ServerOptions, TritonServer

_HOMES = {
    "Problem": "models",
    "ServeError": "errors",
    "ServerOptions": "server",
    "TritonServer": "server",
    "check_repository": "check",
}

__all__ = [
    "Problem",
    "ServeError",
    "ServerOptions",
    "TritonServer",
    "check_repository",
]


def __getattr__(name: str) -> object:
    # On first use, so that a command can say which package is not installed, and answers --help at once.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
