"""The application: its paths, its errors and its headers put together."""

from __future__ import annotations

import http
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from jpeg_contract.versions import project_version
from starlette.exceptions import HTTPException
from starlette.responses import Response

from jpeg_web.backend import Backend
from jpeg_web.failures import RequestFailed
from jpeg_web.pages import SecurityHeaders, add_pages
from jpeg_web.routes import router
from jpeg_web.schema import Error, ErrorResponse
from jpeg_web.settings import Settings
from jpeg_web.state import State
from jpeg_web.statistics import Statistics
from jpeg_web.uploads import BodyReader

_DESCRIPTION = """\
Send a JPEG, get labels: JSON in front of a JPEG classifier on NVIDIA Triton.

Errors of a whole request are `{"error": {"reason": "...", "message": "..."}}`, with a stable reason code.
"""


class _Application(FastAPI):
    """FastAPI, whose description of the API has the errors of this application only."""

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API."""
        if self.openapi_schema is None:
            schema = super().openapi()
            for path in schema["paths"].values():
                for operation in path.values():
                    # FastAPI adds it to each path with parameters; here an invalid one is 400.
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
        return super().openapi()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; it connects to the server when it starts.

    Args:
        settings: None takes the defaults.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Backend(settings) as backend:
            statistics = Statistics(settings.metrics_url or "", settings.models[0])
            app.state.running = State(settings, backend, statistics, BodyReader(settings))
            try:
                yield
            finally:
                await statistics.close()

    app = _Application(
        title="jpeg-web",
        summary="Raw JPEG in, labels out",
        description=_DESCRIPTION,
        version=project_version(),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,  # `add_pages` serves it without a CDN
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the Host that the client sends
    )
    app.include_router(router)
    add_pages(app)
    app.add_exception_handler(RequestFailed, _on_request_failed)
    app.add_exception_handler(RequestValidationError, _on_invalid_query)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_fault)
    app.add_middleware(SecurityHeaders)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    return app


def _error(status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    body = ErrorResponse(error=Error(reason=reason, message=message))
    return Response(body.model_dump_json(), status, headers, media_type="application/json")


async def _on_request_failed(_request: Request, failure: Exception) -> Response:
    assert isinstance(failure, RequestFailed)
    return _error(failure.status, failure.reason, str(failure), failure.headers)


async def _on_invalid_query(_request: Request, invalid: Exception) -> Response:
    assert isinstance(invalid, RequestValidationError)
    first = invalid.errors()[0]
    name = str(first["loc"][-1])
    return _error(400, f"invalid_{name}", f"the query parameter {name} is invalid: {first['msg']}")


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = http.HTTPStatus(error.status_code).phrase
    message = {
        http.HTTPStatus.NOT_FOUND: "nothing is at this path: /docs describes the API",
        http.HTTPStatus.METHOD_NOT_ALLOWED: "this path has no such method: /docs describes the API",
    }.get(http.HTTPStatus(error.status_code), str(error.detail))
    return _error(error.status_code, phrase.lower().replace(" ", "_"), message, error.headers)


async def _on_fault(_request: Request, _fault: Exception) -> Response:
    # Starlette raises it again, so uvicorn logs it.
    return _error(500, "internal", "the application failed: the operator finds the cause in the log")
