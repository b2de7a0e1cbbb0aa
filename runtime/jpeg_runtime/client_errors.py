"""What a client learns of a failure: that there was one. Paths, addresses and tracebacks go to the log only.

Triton answers an exception that leaves `execute` with its text and its traceback, to each request of the batch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import triton_python_backend_utils as pb_utils

from jpeg_runtime.worker import Worker

log = logging.getLogger(__name__)


class _HasWorker(Protocol):
    _worker: Worker


_Model = TypeVar("_Model", bound=_HasWorker)
_Execute = Callable[[_Model, list[Any]], list[Any]]


def failed(model: str) -> str:
    """Return the message for a request that a model fails on, for whatever reason."""
    return f"{model} failed on this request; the server's log says why"


def answers_every_request(execute: _Execute[_Model]) -> _Execute[_Model]:
    """Decorate a Python model's `execute`: an exception becomes an error response to each request of its batch."""

    @functools.wraps(execute)
    def answering(model: _Model, requests: list[Any]) -> list[Any]:
        try:
            return execute(model, requests)
        except Exception:
            name = model._worker.name
            log.exception("%s failed on a batch of %d requests", name, len(requests))
            return _errors(failed(name), requests)

    return answering


def _errors(message: str, requests: Sequence[Any]) -> list[Any]:
    error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL)
    return [pb_utils.InferenceResponse(error=error) for _ in requests]
