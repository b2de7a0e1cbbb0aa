"""Finds a tritonserver, checks the model repository, runs the server on it, and cleans up after it.

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
    from jpeg_serve.options import ServerOptions
    from jpeg_serve.server import TritonServer

COMMAND = "jpeg-serve"
"""Name of the console command, and of its folder in the user's cache."""

_MODULES = {
    "Problem": "models",
    "ServeError": "errors",
    "ServerOptions": "options",
    "TritonServer": "server",
    "check_repository": "check",
}

__all__ = [
    "COMMAND",
    "Problem",
    "ServeError",
    "ServerOptions",
    "TritonServer",
    "check_repository",
]


def __getattr__(name: str) -> object:
    # On first use, so that a command can name a package that is not installed, and prints its help quickly.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
