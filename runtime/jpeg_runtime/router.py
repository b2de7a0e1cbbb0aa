"""The Triton model `router`: it stands for the classifier in an ensemble, and hands each request on to one of two.

`split`: the candidate answers its share of the requests; one that it fails on goes to the primary. `shadow`: the
primary answers; the pixels of a share of the requests go to the candidate after the answer, in a thread of their own,
and its best classes are compared with the primary's. Neither delays nor changes an answer.

While a reload changes the versions that are loaded, one that stays is not ready for some milliseconds: it is asked
again. One that is not ready after that is gone: a reload that takes the candidate unloads the primary before the
ensemble lets go of this model, and the candidate answers.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils
from jpeg_contract.routes import Route, Target
from jpeg_contract.tensors import INPUT, OUTPUT
from numpy.typing import NDArray

from jpeg_runtime import metrics
from jpeg_runtime.client_errors import answers_every_request
from jpeg_runtime.deadline import PASSED, has_passed
from jpeg_runtime.routing import Share, compare
from jpeg_runtime.triton_log import log_to_triton
from jpeg_runtime.worker import Worker

log = logging.getLogger(__name__)

# Requests of a batch that wait for a classifier at the same time; each takes a thread that only waits.
_THREADS = 64
# Images that wait for their comparison; beyond these, none are added until some are done.
_MOST_WAITING = 256

# Triton's words for a model, or a version of it, that is not loaded (request_executor.cc of the Python backend).
_NOT_READY = "is not ready"
# Between attempts to reach a version that is not ready, in seconds.
_PAUSES_S = (0.005, 0.01, 0.02, 0.05, 0.1)

_Pair = tuple[NDArray[np.uint8], NDArray[np.float32]]


class TritonPythonModel:
    """See the module."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the route. Called by Triton once for each instance."""
        log_to_triton(pb_utils.Logger)
        self._route = Route.from_config(args["model_config"])
        self._share = Share(self._route.percent)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="router")
        self._metrics = metrics.Metrics(pb_utils.MetricFamily, metrics.ROUTER_SERIES, args)
        self._worker = Worker(args["model_name"], "router")
        self._shadow = _Shadow(self._route.candidate, self._metrics) if self._route.mode == "shadow" else None

    @answers_every_request
    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Hand a batch of requests on, all at the same time. Called by Triton."""
        with self._worker.batch():
            if len(requests) == 1:
                return [self._answer(requests[0])]
            return list(self._pool.map(self._answer, requests))

    def finalize(self) -> None:
        """End the threads. Called by Triton when it unloads the model."""
        if self._shadow is not None:
            self._shadow.close()
        self._pool.shutdown()
        self._worker.close()
        self._metrics.close()

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        if has_passed(request.parameters, time.time()):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(PASSED, pb_utils.TritonError.UNAVAILABLE))
        pixels = pb_utils.get_input_tensor_by_name(request, INPUT)
        assert pixels is not None, "Triton checks the inputs against the config"
        images = int(pixels.shape()[0])
        is_chosen, measured = self._share.take(), metrics.Measurements()
        response, is_compared = None, False
        if is_chosen and self._shadow is None:
            response = _infer(self._route.candidate, pixels)
            if response.has_error():
                log.error("the candidate %s failed: %s", self._route.candidate, response.error().message())
                measured.count(metrics.CANDIDATE_FAILED, images)
                response = None
            else:
                measured.count(metrics.ROUTED_CANDIDATE, images)
        if response is None:
            response = _infer_when_ready(self._route.primary, pixels)
            if not _is_not_ready(response):
                series, is_compared = metrics.ROUTED_PRIMARY, is_chosen
            else:
                response, series = _infer_when_ready(self._route.candidate, pixels), metrics.ROUTED_CANDIDATE
            if not response.has_error():
                measured.count(series, images)
        self._metrics.add(measured)
        if response.has_error():
            return pb_utils.InferenceResponse(error=response.error())
        logits = _logits(response)
        if self._shadow is not None and is_compared:
            # Copies: the memory of both is Triton's, and used again after the response.
            self._shadow.add(np.array(pixels.as_numpy()), np.array(logits.as_numpy()))
        return pb_utils.InferenceResponse([logits])


class _Shadow:
    """Runs a candidate on images that were answered, and counts how often its best class is another one."""

    def __init__(self, candidate: Target, counted: metrics.Metrics) -> None:
        self._candidate, self._metrics = candidate, counted
        self._waiting: queue.SimpleQueue[_Pair | None] = queue.SimpleQueue()
        self._images = 0
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def add(self, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """Compare later; returns at once."""
        with self._lock:
            fits = self._images < _MOST_WAITING
            self._images += len(pixels) if fits else 0
        if fits:
            self._waiting.put((pixels, logits))
        else:
            self._count({metrics.SHADOW_SKIPPED: len(pixels)})

    def close(self) -> None:
        """Let go of what waits, and end the thread."""
        self._closing = True
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (pair := self._waiting.get()) is not None and not self._closing:
            pixels, logits = pair
            try:
                self._compare(pixels, logits)
            except Exception:
                log.exception("the candidate %s could not be compared", self._candidate)
                self._count({metrics.CANDIDATE_FAILED: len(pixels)})
            with self._lock:
                self._images -= len(pixels)

    def _compare(self, pixels: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        response = _infer(self._candidate, pb_utils.Tensor(INPUT, pixels))
        if response.has_error():
            log.error("the candidate %s failed: %s", self._candidate, response.error().message())
            self._count({metrics.CANDIDATE_FAILED: len(pixels)})
            return
        found = compare(logits, _logits(response).as_numpy())
        self._count({metrics.SHADOW_SAME: found.same, metrics.SHADOW_DIFFERENT: found.different})

    def _count(self, numbers: dict[metrics.Series, int]) -> None:
        measured = metrics.Measurements()
        for series, number in numbers.items():
            measured.count(series, number)
        self._metrics.add(measured)


def _infer(target: Target, pixels: pb_utils.Tensor) -> pb_utils.InferenceResponse:
    """Send pixels to a version of a classifier, through Triton, which batches them with others."""
    request = pb_utils.InferenceRequest(
        model_name=target.model,
        model_version=target.version,
        inputs=[pixels],
        requested_output_names=[OUTPUT],
    )
    return request.exec()


def _infer_when_ready(target: Target, pixels: pb_utils.Tensor) -> pb_utils.InferenceResponse:
    """Likewise, but if the version is not ready, try again for a moment."""
    for pause_s in _PAUSES_S:
        response = _infer(target, pixels)
        if not _is_not_ready(response):
            return response
        time.sleep(pause_s)
    return _infer(target, pixels)


def _is_not_ready(response: pb_utils.InferenceResponse) -> bool:
    return response.has_error() and _NOT_READY in response.error().message()


def _logits(response: pb_utils.InferenceResponse) -> pb_utils.Tensor:
    tensor = pb_utils.get_output_tensor_by_name(response, OUTPUT)
    assert tensor is not None, "Triton checks the outputs against the config"
    return tensor
