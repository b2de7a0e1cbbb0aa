"""Triton model `preprocess`: IMAGE (encoded JPEGs) to PIXELS, with an ERROR for each image that has none."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from jpeg_contract.run_folder import run_folder
from jpeg_contract.settings import PreprocessSettings
from jpeg_contract.tensors import CHECKSUM, ERROR, IMAGE, PIXELS
from jpeg_preprocess import Refused, open_preprocessor, preprocess_requests
from jpeg_runtime import metrics
from jpeg_runtime.batching import NoBatchDimension, check_batched
from jpeg_runtime.client_errors import answers_every_request, failed
from jpeg_runtime.deadline import PASSED, has_passed
from jpeg_runtime.large_lane import LargeLane, count_workers
from jpeg_runtime.step_times import stamp
from jpeg_runtime.triton_log import log_to_triton
from jpeg_runtime.worker import STOPPING, Worker

log = logging.getLogger(__name__)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        log_to_triton(pb_utils.Logger)
        # Pillow warns of odd metadata in words that clients choose: nobody reads them, and Python keeps each for ever.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        settings = PreprocessSettings.from_config(args["model_config"])
        gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0
        self._preprocess = open_preprocessor(settings, gpu)
        self._metrics = metrics.Metrics(pb_utils.MetricFamily, metrics.PREPROCESS_SERIES, args)
        self._worker = Worker(args["model_name"], "preprocess")
        self._lane = LargeLane(run_folder(), args["model_name"], count_workers(args["model_config"]))

    @answers_every_request
    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        refused, reason = self._worker.refusals(len(requests))
        responses = [_error(reason, pb_utils.TritonError.UNAVAILABLE) for _ in range(refused)]
        if refused:
            measured = metrics.Measurements()
            measured.count(metrics.refused("stopping" if reason == STOPPING else "busy"), refused)
            self._metrics.add(measured)
        if refused < len(requests):
            with self._worker.batch():
                responses += self._respond(requests[refused:])
        return responses

    def finalize(self) -> None:
        self._worker.close()
        self._lane.close()
        self._preprocess.close()
        self._metrics.close()

    def _respond(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        measured = metrics.Measurements()
        measured.count(metrics.CLASSIFIER_WAIT_SECONDS, len(requests) * self._worker.wait_for_classifier())
        now, begun_ns = time.time(), time.monotonic_ns()
        try:
            read = [_images(request, now) for request in requests]
            batch = preprocess_requests(self._preprocess, read, self._lane.enter)
        finally:
            self._lane.leave()
        measured.decoded(batch.images, batch.decoded.errors, batch.decoded.seconds)
        self._worker.take(len(batch.images))
        ended_ns = time.monotonic_ns()
        responses = []
        for outcome in batch.outcomes:
            if isinstance(outcome, Refused):
                measured.count(metrics.refused(outcome.reason))
                responses.append(_error(outcome.message, getattr(pb_utils.TritonError, outcome.status)))
                continue
            self._worker.pass_on(len(outcome.errors))
            stamps = stamp(outcome.checksums, begun_ns, ended_ns)
            tensors = {PIXELS: outcome.pixels, ERROR: outcome.errors, CHECKSUM: stamps}
            responses.append(pb_utils.InferenceResponse([_tensor(name, array) for name, array in tensors.items()]))
        self._metrics.add(measured)
        return responses


def _images(request: pb_utils.InferenceRequest, now: float) -> list[bytes] | Refused:
    """Return the images of a request, or why it is refused: an exception would fail its whole batch."""
    if has_passed(request.parameters, now):
        return Refused(PASSED, "UNAVAILABLE", "late")
    try:
        tensor = pb_utils.get_input_tensor_by_name(request, IMAGE)
        assert tensor is not None, "Triton checks the inputs against the config"
        check_batched(IMAGE, tensor.shape(), 1)
        images: list[bytes] = tensor.as_numpy().ravel().tolist()
    except NoBatchDimension as error:
        return Refused(str(error), "INVALID_ARG", "bad_shape")
    except Exception:
        log.exception("the images of a request could not be read")
        return Refused(failed("preprocess"), "INTERNAL", "internal")
    return images


def _error(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _tensor(name: str, array: Any) -> pb_utils.Tensor:
    """Wrap an array, in host memory or on a GPU, where it stays."""
    return pb_utils.Tensor(name, array) if isinstance(array, np.ndarray) else pb_utils.Tensor.from_dlpack(name, array)
