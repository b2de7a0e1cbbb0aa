"""The paths of the JSON API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from jpeg_web.abandon import unless_abandoned
from jpeg_web.failures import SERVER_FAULTS, RequestFailed
from jpeg_web.schema import (
    CLASSIFY_BODY,
    Classification,
    Error,
    Health,
    ImageResult,
    Label,
    ModelEntry,
    ModelName,
    Models,
    RequestTimes,
    Stats,
    StepTimes,
    error_responses,
)
from jpeg_web.state import State
from jpeg_web.uploads import Upload

if TYPE_CHECKING:
    from jpeg_client import ModelDescription, Prediction

router = APIRouter()

# Below it, no image is classified: the request would be work for nothing.
MIN_TIMEOUT_S = 0.1
# nginx's status for a client that left; nobody reads it.
_CLIENT_LEFT = 499

_ERRORS = error_responses(
    {
        404: ("No such model", "unknown_model", "no model of this name is served: GET /models lists them"),
        408: ("The body comes too slowly", "receive_timeout", "no part of the body came for 30 s"),
        413: ("Too many bytes", "request_too_large", "the request is longer than 48 MiB"),
        429: ("Too many requests", "too_many_requests", "the rate of requests is limited: try again later"),
        502: ("The server cannot be used", "api_key_rejected", "the operator finds the cause in the log"),
        503: ("No server, or its queue is full", "queue_full", "the server cannot take the request now"),
        504: ("No response in time", "server_timeout", "the server did not respond in time"),
    }
)

K = Annotated[
    int | None,
    Query(ge=1, le=2**31 - 1, description="Labels per image; by default the server decides: 5", examples=[3]),
]
Threshold = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        description="Labels with a lower score are left out; by default the model decides: 0 in most",
        examples=[0.5],
    ),
]
ModelQuery = Annotated[str | None, Query(description="Name of the model; GET /models lists them")]
TimeoutS = Annotated[
    float | None,
    Query(
        ge=MIN_TIMEOUT_S,
        le=86_400,
        description="Seconds until nobody waits for the response; the limit of the application is the most",
    ),
]


@router.post(
    "/classify",
    summary="Classify one or more images",
    response_model=Classification,
    responses={
        400: {
            "model": Classification,
            "description": "No image is classified: the same JSON as after a success. Or the request is invalid: then "
            '`{"error": {"reason": "invalid_k", "message": "..."}}`',
        },
        **_ERRORS,
    },
    openapi_extra=CLASSIFY_BODY,
)
async def classify(
    request: Request, k: K = None, threshold: Threshold = None, model: ModelQuery = None, timeout_s: TimeoutS = None
) -> Response:
    """Return labels for each image; each succeeds or fails alone.

    The status is 200 if at least one image is classified, otherwise 400. An image whose scores are all below the
    threshold has neither labels nor an error.
    """
    begun = time.monotonic()
    state = State.of(request)
    name = state.model(model)
    limit_s = min(timeout_s or state.settings.timeout_s, state.settings.timeout_s)
    try:
        async with state.bodies.images(request) as uploads:
            received = time.monotonic()
            description = asyncio.ensure_future(_describe_or_none(state, name))
            try:
                predictions = await unless_abandoned(
                    request,
                    state.backend.classify(
                        [each.data for each in uploads], k, threshold=threshold, model=name, timeout_s=limit_s
                    ),
                )
                classified = time.monotonic()
                known = await description
            finally:
                description.cancel()
    except ClientDisconnect:
        return Response(status_code=_CLIENT_LEFT)
    result = Classification(
        model=ModelName(
            name=name,
            version=known.version if known else None,
            classifier=known.classifier if known else None,
        ),
        results=[_result(upload, each) for upload, each in zip(uploads, predictions, strict=True)],
        times_ms=RequestTimes(
            receive=_ms(received - begun), classify=_ms(classified - received), total=_ms(time.monotonic() - begun)
        ),
    )
    return Response(result.model_dump_json(), _status(predictions), media_type="application/json")


@router.get("/models", summary="List the models", response_model=Models)
async def models(request: Request) -> Models:
    """Return the models that a request can name, and whether they are ready."""
    state = State.of(request)
    names = state.settings.models
    described = await asyncio.gather(*(_describe_or_none(state, name) for name in names))
    return Models(default=names[0], models=[_entry(name, each) for name, each in zip(names, described, strict=True)])


@router.get("/stats", summary="Current load of the server", response_model=Stats)
async def stats(request: Request) -> Stats:
    """Return the load over the last second or so.

    The server's metrics are read once a second at most, on demand; the first request after a pause begins a period.
    """
    state = State.of(request)
    described = await _describe_or_none(state, state.settings.models[0])
    return await state.statistics.get(described)


@router.get(
    "/health",
    summary="Whether the default model can classify",
    response_model=Health,
    responses={503: {"model": Health, "description": "It cannot"}},
)
async def health(request: Request) -> Response:
    """Return 200 if the default model is ready, otherwise 503 with the cause."""
    state = State.of(request)
    try:
        await state.backend.describe(state.settings.models[0])
    except RequestFailed as failure:
        answer = Health(ready=False, error=Error(reason=failure.reason, message=str(failure)))
        return Response(answer.model_dump_json(), 503, failure.headers, media_type="application/json")
    return Response(Health(ready=True).model_dump_json(exclude_none=True), media_type="application/json")


async def _describe_or_none(state: State, model: str) -> ModelDescription | None:
    try:
        return await state.backend.describe(model)
    except RequestFailed:
        return None


def _entry(name: str, description: ModelDescription | None) -> ModelEntry:
    if description is None:
        return ModelEntry(
            name=name,
            ready=False,
            version=None,
            classifier=None,
            backend=None,
            precision=None,
            classes=None,
            output=None,
            threshold=None,
            formats=None,
            max_batch_size=None,
        )
    return ModelEntry(
        name=name,
        ready=True,
        version=description.version,
        classifier=description.classifier,
        backend=description.backend,
        precision=description.precision,
        classes=description.classes,
        output=description.output,
        threshold=description.threshold,
        formats=list(description.formats),
        max_batch_size=description.max_batch_size,
    )


def _result(upload: Upload, prediction: Prediction) -> ImageResult:
    if prediction.error is not None:
        error = Error(reason=prediction.reason or "image_refused", message=prediction.error)
        return ImageResult(name=upload.name, predictions=[], error=error, times_ms=None)
    times = prediction.times
    return ImageResult(
        name=upload.name,
        predictions=[
            Label(label=label, score=score, index=index)
            for label, score, index in zip(prediction.labels, prediction.scores, prediction.indices, strict=True)
        ],
        error=None,
        times_ms=None
        if times is None
        else StepTimes(
            preprocess=round(times.preprocess_ms, 3),
            classify=round(times.classify_ms, 3),
            postprocess=round(times.postprocess_ms, 3),
        ),
    )


def _status(predictions: Sequence[Prediction]) -> int:
    """Return 200 if an image is classified; otherwise 400, or 502 if the server and not the client caused a failure."""
    if any(each.error is None for each in predictions):
        return 200
    return 502 if any(each.reason in SERVER_FAULTS for each in predictions) else 400


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
