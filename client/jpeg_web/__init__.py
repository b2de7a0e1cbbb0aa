"""JSON over HTTP, its OpenAPI description, and a page for the browser: an application over `jpeg_client`.

Example:
    import uvicorn
    from jpeg_web import Settings, create_app

    uvicorn.run(create_app(Settings(url="grpc://localhost:8001")), port=8080)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jpeg_web.application import create_app
    from jpeg_web.settings import Settings

_MODULES = {"Settings": "settings", "create_app": "application"}

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> object:
    # Imported on first use: --help stays fast, and the command can name a package that is not installed.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
