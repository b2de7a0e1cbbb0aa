"""The page, its files, the page of the API, and the security headers of all responses."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
_SWAGGER = Path(fastapi_offline.__file__).parent / "static"
_SWAGGER_PATH = "/static-docs"
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

_NO_FRAMES = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    f"{_NO_FRAMES}"
)
"""Content-Security-Policy of all responses but the page of the API."""

_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class SecurityHeaders:
    """ASGI middleware that adds security headers, where a response has none of its own.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class _Revalidated(StaticFiles):
    """Files that browsers revalidate, so that the modules of one version run together."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the response for one file."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def add_pages(app: FastAPI) -> None:
    """Add the page at /, its files below /static, and the page of the API at /docs."""
    app.mount("/static", _Revalidated(directory=STATIC), name="static")
    app.mount(_SWAGGER_PATH, StaticFiles(directory=_SWAGGER), name="static-docs")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        # Browsers revalidate it, so that a new version of the page shows at once.
        return FileResponse(STATIC / "index.html", media_type="text/html", headers={"Cache-Control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = str(request.scope.get("root_path", ""))
        response = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{_SWAGGER_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_SWAGGER_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_SWAGGER_PATH}/favicon.png",
        )
        response.headers["Content-Security-Policy"] = _docs_policy(bytes(response.body))
        return response


def _docs_policy(html: bytes) -> str:
    """Return the policy for the page of the API: inline styles, and the inline script by its digest."""
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE_SCRIPT.findall(html)]
    scripts = " ".join(["'self'", *(f"'sha256-{digest}'" for digest in digests)])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        f"connect-src 'self'; {_NO_FRAMES}"
    )
