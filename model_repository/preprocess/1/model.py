"""Triton model `preprocess`: IMAGE (encoded JPEGs) to PIXELS, with an ERROR for each image that has none."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from jpeg_contract.checksum import checksum
from jpeg_contract.image_errors import ImageError, describe_failures
from jpeg_contract.run_folder import run_folder
from jpeg_contract.settings import PreprocessSettings
from jpeg_contract.tensors import CHECKSUM, ERROR, IMAGE, PIXELS
from jpeg_preprocess import DecodeLater, RequestTooLong, open_preprocessor
from jpeg_runtime import metrics
from jpeg_runtime.batching import NoBatchDimension, check_batched
from jpeg_runtime.deadline import PASSED, has_passed
from jpeg_runtime.large_lane import LargeLane, count_workers
from jpeg_runtime.worker import STOPPING, Worker
from numpy.typing import NDArray

log = logging.getLogger(__name__)

# By names: Triton completes pb_utils after it has imported this file.
_REFUSALS: dict[type[Exception], tuple[metrics.Refusal, str]] = {
    NoBatchDimension: ("bad_shape", "INVALID_ARG"),
    RequestTooLong: ("too_long", "INVALID_ARG"),
    DecodeLater: ("busy", "UNAVAILABLE"),
}


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        # Pillow warns of odd metadata in words that clients choose: nobody reads them, and Python keeps each for ever.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        settings = PreprocessSettings.from_config(args["model_config"])
        gpu = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else 0
        self._preprocess = open_preprocessor(settings, gpu)
        self._metrics = metrics.Metrics(pb_utils.MetricFamily, metrics.PREPROCESS_SERIES, args)
        self._worker = Worker(args["model_name"], "preprocess")
        self._lane = LargeLane(run_folder(), count_workers(args["model_config"]))

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        refused, reason = self._worker.refusals(len(requests))
        responses = [_refuse(reason, pb_utils.TritonError.UNAVAILABLE) for _ in range(refused)]
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
        self._worker.wait_for_classifier()
        now = time.time()
        late = [has_passed(request.parameters, now) for request in requests]
        batches: list[list[bytes] | Exception | None] = [
            [] if is_late else _images(request) for is_late, request in zip(late, requests, strict=True)
        ]
        requested = [batch if isinstance(batch, list) else [] for batch in batches]
        verdicts = self._preprocess.admit(requested, self._lane.enter)
        batches = [verdict or batch for verdict, batch in zip(verdicts, batches, strict=True)]
        images = [image for batch in batches if isinstance(batch, list) for image in batch]
        try:
            decoded = self._preprocess.decode(images)
        finally:
            self._lane.leave()
        measured.decoded(images, decoded.errors, decoded.seconds)
        self._worker.take(len(images))
        responses, start = [], 0
        for is_late, batch in zip(late, batches, strict=True):
            if is_late:
                measured.count(metrics.refused("late"))
                responses.append(_refuse(PASSED, pb_utils.TritonError.UNAVAILABLE))
                continue
            if batch is None:
                measured.count(metrics.refused("internal"))
                message = "preprocess failed on this request; the server's log says why"
                responses.append(_refuse(message, pb_utils.TritonError.INTERNAL))
                continue
            if isinstance(batch, Exception):
                refusal, code = _REFUSALS[type(batch)]
                measured.count(metrics.refused(refusal))
                responses.append(_refuse(str(batch), getattr(pb_utils.TritonError, code)))
                continue
            part = slice(start, start := start + len(batch))
            responses.append(self._answer(batch, decoded.pixels[part], decoded.errors[part], measured))
        self._metrics.add(measured)
        return responses

    def _answer(
        self,
        images: Sequence[bytes],
        pixels: NDArray[np.uint8],
        errors: Sequence[ImageError | None],
        measured: metrics.Measurements,
    ) -> pb_utils.InferenceResponse:
        failures = [error for error in errors if error is not None]
        if len(failures) == len(errors):
            # No image of this request can be answered. Only an error here reaches the client as HTTP 400.
            measured.count(metrics.refused("no_usable_image"))
            internal = any(error.reason == "internal" for error in failures)
            code = pb_utils.TritonError.INTERNAL if internal else pb_utils.TritonError.INVALID_ARG
            return _refuse(describe_failures(failures), code)
        self._worker.pass_on(len(images))
        messages = [[b"" if error is None else error.with_code().encode()] for error in errors]
        checksums = np.array([[checksum(image)] for image in images], np.uint32)
        return pb_utils.InferenceResponse(
            [
                _tensor(PIXELS, pixels),
                _tensor(ERROR, np.array(messages, dtype=object)),
                _tensor(CHECKSUM, checksums),
            ]
        )


def _images(request: pb_utils.InferenceRequest) -> list[bytes] | NoBatchDimension | None:
    """Return the images of a request, or what is wrong with it, which must not fail the batch; None: not readable."""
    try:
        tensor = pb_utils.get_input_tensor_by_name(request, IMAGE)
        assert tensor is not None, "Triton checks the inputs against the config"
        check_batched(IMAGE, tensor.shape(), 1)
        images: list[bytes] = tensor.as_numpy().ravel().tolist()
    except NoBatchDimension as refusal:
        return refusal
    except Exception:
        log.exception("the images of a request could not be read")
        return None
    return images


def _refuse(message: str, code: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _tensor(name: str, array: Any) -> pb_utils.Tensor:
    """Wrap an array, in host memory or on a GPU, where it stays."""
    return pb_utils.Tensor(name, array) if isinstance(array, np.ndarray) else pb_utils.Tensor.from_dlpack(name, array)
