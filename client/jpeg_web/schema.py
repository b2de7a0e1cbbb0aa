"""The JSON of the responses, and its description for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Milliseconds = Annotated[float, Field(ge=0, description="In milliseconds")]


class Label(BaseModel):
    """One class of an image."""

    label: str = Field(description="Name of the class", examples=["espresso"])
    score: float = Field(description="Score in [0, 1]", examples=[0.992])
    index: int = Field(description="Number of the class", examples=[967])


class Error(BaseModel):
    """The cause of a failure."""

    reason: str = Field(description="Stable reason code", examples=["truncated"])
    message: str = Field(description="The fault and its remedy, for people", examples=["the JPEG ends too early"])


class StepTimes(BaseModel):
    """Times of the server's steps for one image."""

    preprocess: Milliseconds
    classify: Milliseconds = Field(description="Its queue included, in milliseconds")
    postprocess: Milliseconds


class ImageResult(BaseModel):
    """The labels of one image, or the cause of its failure."""

    name: str | None = Field(description="File name, in a multipart request", examples=["photo.jpg"])
    predictions: list[Label] = Field(
        description="Best first; empty after a failure, and if all scores are below the threshold"
    )
    error: Error | None
    times_ms: StepTimes | None = Field(description="Null after a failure, and from a server without these times")


class ModelName(BaseModel):
    """The model that classified."""

    name: str = Field(examples=["jpeg_classifier"])
    version: str | None = Field(examples=["1"], description="Null if the server does not state it")
    classifier: str | None = Field(
        examples=["classifier_onnx"], description="While another one is tried beside it, the one in use"
    )


class RequestTimes(BaseModel):
    """Where the time of one request went."""

    receive: Milliseconds = Field(description="Until the body was complete, in milliseconds")
    classify: Milliseconds = Field(description="Until the server's response, in milliseconds")
    total: Milliseconds


class Classification(BaseModel):
    """The results of all images of a request, in their order."""

    model: ModelName
    results: list[ImageResult]
    times_ms: RequestTimes

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": {"name": "jpeg_classifier", "version": "1", "classifier": "classifier_onnx"},
                "results": [
                    {
                        "name": "photo.jpg",
                        "predictions": [{"label": "espresso", "score": 0.992, "index": 967}],
                        "error": None,
                        "times_ms": {"preprocess": 2.1, "classify": 4.0, "postprocess": 0.1},
                    },
                    {
                        "name": "broken.jpg",
                        "predictions": [],
                        "error": {"reason": "truncated", "message": "the JPEG ends too early"},
                        "times_ms": None,
                    },
                ],
                "times_ms": {"receive": 0.4, "classify": 8.8, "total": 9.3},
            }
        }
    )


class ErrorResponse(BaseModel):
    """A request that failed as a whole."""

    error: Error


class ModelEntry(BaseModel):
    """One model; all but its name are null while it is not ready."""

    name: str = Field(examples=["jpeg_classifier"])
    ready: bool
    version: str | None = Field(examples=["1"])
    classifier: str | None = Field(examples=["classifier_onnx"])
    backend: str | None = Field(examples=["onnxruntime"])
    precision: str | None = Field(examples=["fp32"])
    classes: int | None = Field(examples=[1000])
    output: str | None = Field(
        examples=["softmax"], description="softmax: scores sum to 1 over all classes; sigmoid: each label by itself"
    )
    threshold: float | None = Field(examples=[0.0], description="Of a request that sets none")
    formats: list[str] | None = Field(examples=[["jpeg"]], description="Of images that are decoded")
    max_batch_size: int | None = Field(examples=[64])


class Models(BaseModel):
    """The models that can be named in a request."""

    default: str = Field(examples=["jpeg_classifier"])
    models: list[ModelEntry]


class StepMeans(BaseModel):
    """Mean time of each step, its queue included, in milliseconds."""

    preprocess: float | None
    classify: float | None
    postprocess: float | None


class Stats(BaseModel):
    """The server's load over the last second or so; null where it is unknown or nothing was classified."""

    images_per_s: float | None = Field(examples=[12.3], description="Images with labels, per second")
    latency_ms: float | None = Field(examples=[9.1], description="Mean latency of a request inside the server")
    steps_ms: StepMeans
    waiting: int | None = Field(examples=[0], description="Requests in the queues of the steps")
    failed_per_s: float | None = Field(examples=[0.0], description="Images without labels, per second")


class Health(BaseModel):
    """Whether the default model can classify."""

    ready: bool
    error: Error | None = None


_BINARY = {"type": "string", "format": "binary"}

CLASSIFY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image as it is, with any content type but multipart; or multipart/form-data with one or "
        "more files, under any field name.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "array", "items": _BINARY}},
                }
            },
            "image/jpeg": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
        },
    }
}


def error_responses(examples: dict[int, tuple[str, str, str]]) -> dict[int | str, dict[str, Any]]:
    """Describe error responses for OpenAPI.

    Args:
        examples: By status: a description, and the reason code and message of an example.
    """
    waits = {429, 503}
    return {
        status: {
            "model": ErrorResponse,
            "description": description,
            "content": {"application/json": {"example": {"error": {"reason": reason, "message": message}}}},
            **({"headers": {"Retry-After": _RETRY_AFTER}} if status in waits else {}),
        }
        for status, (description, reason, message) in examples.items()
    }


_RETRY_AFTER = {"description": "Seconds until the next try", "schema": {"type": "integer"}}
